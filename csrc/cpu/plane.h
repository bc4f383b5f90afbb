// One plane (batch, joint) in the computing type: its softmax, expectations and confidence, and their gradients.
#pragma once

#include <limits>
#include <type_traits>

#include "cpu/exponential.h"

namespace pyhar {
namespace PYHAR_ISA {

// The coordinates of a plane's pixels. Where a row is made of whole vectors, `row` is its length, x has one row and y a
// number for each row: little enough to stay in the first-level cache beside the plane. Elsewhere `row` is 0, and both
// have a number for each pixel, and 0 in the lanes after the last.
template <class T>
struct Grid {
    const T *x, *y;
    std::int64_t row;
};

template <class T>
Grid<T> make_grid(const double* grid, std::int64_t rows, std::int64_t columns, T* memory) {
    T* x = memory;
    T* y = memory + round_up<T>(rows * columns);
    const bool whole = columns % lanes<T> == 0;
    for (std::int64_t i = 0; i < columns; ++i)
        x[i] = static_cast<T>(i) / static_cast<T>(grid[0]) + static_cast<T>(grid[1]);
    for (std::int64_t k = 0; k < rows; ++k) {
        const T value = static_cast<T>(k) / static_cast<T>(grid[2]) + static_cast<T>(grid[3]);
        if (whole) {
            y[k] = value;
            continue;
        }
        for (std::int64_t i = 0; i < columns; ++i) {
            x[k * columns + i] = x[i];
            y[k * columns + i] = value;
        }
    }
    if (whole) return {x, y, columns};
    for (std::int64_t i = rows * columns; i < round_up<T>(rows * columns); ++i) x[i] = y[i] = T(0);
    return {x, y, 0};
}

// Sums over a plane are taken in stretches of about so many pixels, so that rounding errors stay small on large planes.
constexpr std::int64_t stretch_length = 2048;

// body(first pixel, pixels in the vector) over [begin, end) a vector at a time.
template <class T, class Body>
PYHAR_INLINE void each_vector(std::int64_t begin, std::int64_t end, const Body& body) {
    std::int64_t i = begin;
    for (; i + lanes<T> <= end; i += lanes<T>) body(i, lanes<T>);
    if (i < end) body(i, end - i);
}

// body(first pixel, end) for the stretches of a plane, which are whole rows where the grid has one row.
template <class T, class Body>
PYHAR_INLINE void each_stretch(std::int64_t pixels, const Grid<T>& grid, const Body& body) {
    const std::int64_t rows = grid.row > 0 ? stretch_length / grid.row : 0;
    const std::int64_t length = grid.row == 0 ? stretch_length : (rows > 0 ? rows : 1) * grid.row;
    for (std::int64_t i = 0; i < pixels; i += length) body(i, i + length < pixels ? i + length : pixels);
}

// body(first pixel, pixels in the vector, their x, their y) over a stretch; no coordinates are read without `wanted`.
template <class T, bool wanted, class Body>
PYHAR_INLINE void each_vector_of(const Grid<T>& grid, std::int64_t begin, std::int64_t end, const Body& body) {
    if constexpr (!wanted) {
        each_vector<T>(begin, end, [&](std::int64_t i, std::int64_t n)
                                       PYHAR_LAMBDA_INLINE { body(i, n, Vec<T>{}, Vec<T>{}); });
    } else if (grid.row > 0) {
        const T* y = grid.y + begin / grid.row;
        for (std::int64_t first = begin; first < end; first += grid.row, ++y) {
            const Vec<T> down = splat<T>(*y);
            for (std::int64_t i = 0; i < grid.row; i += lanes<T>) {
                body(first + i, lanes<T>, load<T>(grid.x + i), down);
            }
        }
    } else {
        each_vector<T>(begin, end, [&](std::int64_t i, std::int64_t n)
                                       PYHAR_LAMBDA_INLINE { body(i, n, load<T>(grid.x + i), load<T>(grid.y + i)); });
    }
}

// `fill` stands in for the pixels after the last.
template <class T>
PYHAR_INLINE Vec<T> load_some(const T* p, std::int64_t n, T fill) {
    return n == lanes<T> ? load<T>(p) : load_first<T>(p, n, fill);
}

template <class T>
PYHAR_INLINE void store_some(T* p, Vec<T> v, std::int64_t n) {
    if (n == lanes<T>) {
        store<T>(p, v);
    } else {
        store_first<T>(p, v, n);
    }
}

template <class T>
constexpr T infinity = std::numeric_limits<T>::infinity();

// The unmasked logit at which beta * logit is largest; minus infinity where all are masked.
template <class T>
T peak_logit(const T* logits, std::int64_t pixels, T beta) {
    if (beta >= T(0)) {
        Vec<T> a = splat<T>(-infinity<T>), b = a;
        std::int64_t i = 0;
        for (; i + 2 * lanes<T> <= pixels; i += 2 * lanes<T>) {
            a = larger<T>(load<T>(logits + i), a);
            b = larger<T>(load<T>(logits + i + lanes<T>), b);
        }
        each_vector<T>(i, pixels, [&](std::int64_t k, std::int64_t n) {
            a = larger<T>(load_some<T>(logits + k, n, -infinity<T>), a);
        });
        return largest_lane<T>(larger<T>(a, b));
    }
    Vec<T> a = splat<T>(infinity<T>);
    each_vector<T>(0, pixels, [&](std::int64_t k, std::int64_t n) {
        const Vec<T> v = load_some<T>(logits + k, n, -infinity<T>);
        a = smaller<T>(v == splat<T>(-infinity<T>) ? splat<T>(infinity<T>) : v, a);
    });
    const T least = smallest_lane<T>(a);
    return least == infinity<T> ? -infinity<T> : least;
}

// e = exp(beta * (logit - m)) of a vector, 0 where masked.
template <class T>
struct Exponentials {
    Vec<T> rate, m;  // rate: beta in powers of two
    bool positive;   // then rate * t is minus infinity where t is, and e is 0 by itself

    Exponentials(T beta, T m_) : m(splat<T>(m_ == -infinity<T> ? T(0) : m_)), positive(beta > T(0)) {
        const T finite = std::numeric_limits<T>::max(), product = beta * Exponential<T>::log2e;
        rate = splat<T>(product > finite ? finite : product < -finite ? -finite : product);
    }

    PYHAR_INLINE Vec<T> below(Vec<T> logits) const { return logits - m; }

    PYHAR_INLINE Vec<T> operator()(Vec<T> logits) const {
        const Vec<T> t = below(logits);
        const Vec<T> e = exp2_nonpositive<T>(rate * t);
        if (positive) return e;
        return t == splat<T>(-infinity<T>) ? Vec<T>{} : e;
    }
};

// The exponentials of a plane, 0 in the lanes after the last pixel; without softmax the plane itself.
template <class T>
void exponentials_of_plane(const T* logits, std::int64_t pixels, bool softmax, T beta, T m, T* e) {
    const Exponentials<T> exponentials(beta, m);
    if (softmax) {
        each_vector<T>(0, pixels, [&](std::int64_t i, std::int64_t n) {
            store<T>(e + i, exponentials(load_some<T>(logits + i, n, -infinity<T>)));
        });
    } else {
        each_vector<T>(0, pixels,
                       [&](std::int64_t i, std::int64_t n) { store<T>(e + i, load_some<T>(logits + i, n, T(0))); });
    }
}

// Sums over a plane of e, e*gx, e*gy and e*sigmoid(depth), e being the probabilities themselves without softmax.
template <class T>
struct Moments {
    T e, x, y, z;
};

// `e_out`, if not null, receives e, and with `padded` 0 in the lanes after the last pixel.
template <class T, bool softmax, bool coordinates, bool deep>
Moments<T> moments(const T* logits, const T* depth, std::int64_t pixels, T beta, T m, Grid<T> grid, T* e_out,
                   bool padded) {
    const Exponentials<T> exponentials(beta, m);
    Moments<T> total{};
    each_stretch<T>(pixels, grid, [&](std::int64_t begin, std::int64_t end) {
        Vec<T> sum{}, x{}, y{}, z{};
        each_vector_of<T, coordinates>(grid, begin, end, [&](std::int64_t i, std::int64_t n, Vec<T> gx, Vec<T> gy)
                                                             PYHAR_LAMBDA_INLINE {
            Vec<T> e = load_some<T>(logits + i, n, softmax ? -infinity<T> : T(0));
            if constexpr (softmax) e = exponentials(e);
            sum += e;
            if constexpr (coordinates) {
                x += e * gx;
                y += e * gy;
            }
            if constexpr (deep) z += e * sigmoid<T>(load_some<T>(depth + i, n, T(0))).value;
            if (e_out != nullptr) store_some<T>(e_out + i, e, padded ? lanes<T> : n);
        });
        total.e += sum_lanes<T>(sum);
        total.x += sum_lanes<T>(x);
        total.y += sum_lanes<T>(y);
        total.z += sum_lanes<T>(z);
    });
    return total;
}

// The largest of n values, NaN if one is.
template <class T>
T largest(const T* values, std::int64_t pixels) {
    Vec<T> best = splat<T>(-infinity<T>);
    each_vector<T>(0, pixels, [&](std::int64_t i, std::int64_t n) {
        const Vec<T> v = load_some<T>(values + i, n, -infinity<T>);
        const Vec<T> more = larger<T>(best, v);  // v where v is NaN
        best = best != best ? best : more;
    });
    return largest_lane<T>(best);
}

// body(address of the window's first pixel, sums, windows among them) for vectors of windows along each row of a plane
// of probabilities h; memory after the plane must be readable.
template <class T, class Body>
PYHAR_INLINE void each_window(const T* h, std::int64_t rows, std::int64_t columns, const Body& body) {
    const std::int64_t down = rows > 1 ? columns : 0, across = columns > 1 ? 1 : 0;
    const std::int64_t last_row = rows > 1 ? rows - 1 : 1, wide = columns > 1 ? columns - 1 : 1;
    for (std::int64_t k = 0; k < last_row; ++k) {
        for (std::int64_t i = 0; i < wide; i += lanes<T>) {
            const T* p = h + k * columns + i;
            Vec<T> left = load<T>(p), right{};
            if (down != 0) left = left + load<T>(p + down);
            if (across != 0) {
                right = load<T>(p + 1);
                if (down != 0) right = right + load<T>(p + down + 1);
                left = left + right;
            }
            body(k * columns + i, left, wide - i < lanes<T> ? wide - i : lanes<T>);
        }
    }
}

// Numbers 0, 1, 2, ... to compare a count of lanes with.
template <class T>
PYHAR_INLINE Vec<T> lane_numbers() {
    T n[lanes<T>];
    for (std::int64_t i = 0; i < lanes<T>; ++i) n[i] = static_cast<T>(i);
    return load<T>(n);
}

// The largest window sum, NaN if one is.
template <class T>
T largest_window(const T* h, std::int64_t rows, std::int64_t columns) {
    const Vec<T> number = lane_numbers<T>();
    Vec<T> best = splat<T>(-infinity<T>);
    each_window<T>(h, rows, columns, [&](std::int64_t, Vec<T> sums, std::int64_t n) {
        const Vec<T> v = number < splat<T>(static_cast<T>(n)) ? sums : splat<T>(-infinity<T>);
        const Vec<T> more = larger<T>(best, v);
        best = best != best ? best : more;
    });
    return largest_lane<T>(best);
}

// Adds `gradient` in equal shares to the pixels of the windows of largest sum; returns that sum.
template <class T>
T share_among_windows(const T* h, std::int64_t rows, std::int64_t columns, T gradient, T* s) {
    const T best = largest_window<T>(h, rows, columns);
    const Vec<T> number = lane_numbers<T>();
    const auto each_best = [&](const auto& visit) {
        each_window<T>(h, rows, columns, [&](std::int64_t first, Vec<T> sums, std::int64_t n) {
            const Vec<T> hit =
                sums == splat<T>(best) ? (number < splat<T>(static_cast<T>(n)) ? splat<T>(1) : Vec<T>{}) : Vec<T>{};
            if (sum_lanes<T>(hit) == T(0)) return;
            T hits[lanes<T>];
            store<T>(hits, hit);
            for (std::int64_t i = 0; i < n; ++i) {
                if (hits[i] != T(0)) visit(first + i);
            }
        });
    };
    std::int64_t ties = 0;
    each_best([&](std::int64_t) { ++ties; });
    if (ties == 0) return best;  // a NaN
    const T share = gradient / static_cast<T>(ties);
    each_best([&](std::int64_t p) {
        s[p] += share;
        if (rows > 1) s[p + columns] += share;
        if (columns > 1) s[p + 1] += share;
        if (rows > 1 && columns > 1) s[p + columns + 1] += share;
    });
    return best;
}

// Numbers in working memory for a plane: windows look one pixel and one vector past the end.
template <class T>
constexpr std::int64_t plane_memory(std::int64_t pixels) {
    return round_up<T>(pixels) + 2 * lanes<T>;
}

// The gradient of one plane. `s` starts as what appearance or probability maps add to it, or as nothing.
template <class T>
struct PlaneGradient {
    std::int64_t rows, columns;
    bool softmax, window;
    Grid<T> grid;
    // In:
    const T* logits;  // needed where e is not given, or d_beta is wanted
    const T* depth;   // null where no gradient comes through the depth
    bool e_given;     // e holds exp(beta * (logits - m)), or the probabilities, already
    bool s_given;     // s holds terms already
    T beta, m, r;     // r = 1 without softmax
    T g_x, g_y, g_z, g_confidence;
    bool confident;  // a gradient comes through the confidence
    // Working memory, plane_memory(pixels) numbers each, save that e may be the map itself where it is given and not
    // window. s is there where window, depth or s_given; where it is given and neither of the others, it is only read.
    // h is there where window:
    T *e, *s, *h;
    // Out, null where not wanted; d_logits may lie over logits and d_depth over depth:
    T *d_logits, *d_depth, *d_beta;
};

// The terms of s that are not those of the confidence nor of the depth.
template <class T>
struct Terms {
    const T* given;
    Vec<T> g_x, g_y;

    explicit Terms(const PlaneGradient<T>& g)
        : given(g.s), g_x(splat<T>(g.g_x)), g_y(splat<T>(g.g_y)) {}

    template <bool s_given, bool coordinates>
    PYHAR_INLINE Vec<T> at(std::int64_t i, std::int64_t n, Vec<T> x, Vec<T> y) const {
        Vec<T> s{};
        if constexpr (coordinates) s = g_x * x + g_y * y;
        if constexpr (s_given) s += load_some<T>(given + i, n, T(0));
        return s;
    }
};

// Sums e*s, and counts the pixels whose e is `peak`; stores e where it is computed, and s where `keep`.
template <class T, bool compute_e, bool s_given, bool coordinates, bool deep>
void gather_terms(const PlaneGradient<T>& g, T& dot, T& ties, T peak, bool keep) {
    const std::int64_t pixels = g.rows * g.columns;
    const Exponentials<T> exponentials(g.beta, g.m);
    const Terms<T> terms(g);
    const Vec<T> g_z = splat<T>(g.g_z), scaled = splat<T>(g.g_z * g.r), top = splat<T>(peak);
    dot = ties = T(0);
    each_stretch<T>(pixels, g.grid, [&](std::int64_t begin, std::int64_t end) {
        Vec<T> sum{}, count{};
        each_vector_of<T, coordinates>(g.grid, begin, end, [&](std::int64_t i, std::int64_t n, Vec<T> x, Vec<T> y)
                                                               PYHAR_LAMBDA_INLINE {
            Vec<T> e;
            if constexpr (compute_e) {
                e = exponentials(load_some<T>(g.logits + i, n, -infinity<T>));
                store<T>(g.e + i, e);
            } else {
                e = load_some<T>(g.e + i, n, T(0));
            }
            Vec<T> s = terms.template at<s_given, coordinates>(i, n, x, y);
            if constexpr (deep) {
                const Sigmoid<T> d = sigmoid<T>(load_some<T>(g.depth + i, n, T(0)));
                s += g_z * d.value;
                if (g.d_depth != nullptr) store_some<T>(g.d_depth + i, scaled * e * d.slope, n);
            }
            if (keep) store<T>(g.s + i, s);
            sum += e * s;
            count += e == top ? splat<T>(1) : Vec<T>{};
        });
        dot += sum_lanes<T>(sum);
        ties += sum_lanes<T>(count);
    });
}

// Pixels whose value is `peak`.
template <class T>
T count_equal(const T* values, std::int64_t pixels, T peak) {
    Vec<T> count{};
    each_vector<T>(0, pixels, [&](std::int64_t i, std::int64_t n) {
        count += load_some<T>(values + i, n, -infinity<T>) == splat<T>(peak) ? splat<T>(1) : Vec<T>{};
    });
    return sum_lanes<T>(count);
}

// body(a, b) with two conditions as types.
template <class Body>
PYHAR_INLINE void choose(bool a, bool b, const Body& body) {
    if (a) {
        b ? body(std::true_type{}, std::true_type{}) : body(std::true_type{}, std::false_type{});
    } else {
        b ? body(std::false_type{}, std::true_type{}) : body(std::false_type{}, std::false_type{});
    }
}

template <class T>
void plane_backward(const PlaneGradient<T>& g) {
    const std::int64_t pixels = g.rows * g.columns;
    const bool peaked = g.confident && !g.window;
    // What is cheaper to compute again than to keep, is not kept.
    const bool keep = g.depth != nullptr || (g.confident && g.window);
    const bool coordinates = g.g_x != T(0) || g.g_y != T(0);
    // With softmax the largest e is exp(0).
    const T peak = !peaked ? T(0) : g.softmax ? T(1) : largest<T>(g.e, pixels);
    T dot = T(0), ties = T(0);
    const bool linear = !g.softmax && !g.confident && g.depth == nullptr;  // then the gradient is s, whatever the map
    if (!linear) {
        choose(!g.e_given, g.s_given, [&](auto compute_e, auto s_given) {
            choose(coordinates, g.depth != nullptr, [&](auto with_coordinates, auto deep) {
                gather_terms<T, decltype(compute_e)::value, decltype(s_given)::value, decltype(with_coordinates)::value,
                             decltype(deep)::value>(g, dot, ties, peak, keep);
            });
        });
    }
    if (peaked && !g.softmax) ties = count_equal<T>(g.e, pixels, peak);
    dot *= g.r;  // sum of h*s
    T share = T(0);
    if (g.confident) {
        if (g.window) {
            const Vec<T> r = splat<T>(g.r);
            each_vector<T>(0, pixels, [&](std::int64_t i, std::int64_t) { store<T>(g.h + i, load<T>(g.e + i) * r); });
            dot += g.g_confidence * share_among_windows<T>(g.h, g.rows, g.columns, g.g_confidence, g.s);
        } else {
            // Without a tie the plane has a NaN, and dot says so.
            share = ties > T(0) ? g.g_confidence / ties : T(0);
            dot += g.g_confidence * (peak * g.r);
        }
    }
    if (g.d_logits == nullptr && g.d_beta == nullptr) return;
    const Vec<T> r = splat<T>(g.r), beta = splat<T>(g.beta), mean = splat<T>(dot), extra = splat<T>(share);
    const Vec<T> top = splat<T>(peak);
    const Exponentials<T> exponentials(g.beta, g.m);
    T d_beta = T(0);
    const Terms<T> terms(g);
    choose(keep || g.s_given, coordinates && !keep, [&](auto s_given, auto with_coordinates) {
        constexpr bool given = decltype(s_given)::value, placed = decltype(with_coordinates)::value;
        each_stretch<T>(pixels, g.grid, [&](std::int64_t begin, std::int64_t end) {
            Vec<T> sum{};
            each_vector_of<T, placed>(g.grid, begin, end, [&](std::int64_t i, std::int64_t n, Vec<T> x, Vec<T> y)
                                                              PYHAR_LAMBDA_INLINE {
                const Vec<T> e = load_some<T>(g.e + i, n, T(0));
                Vec<T> s = terms.template at<given, placed>(i, n, x, y);
                if (peaked) s += e == top ? extra : Vec<T>{};
                if (g.softmax) {
                    const Vec<T> q = e * r * (s - mean);
                    if (g.d_beta != nullptr) {
                        const Vec<T> t = exponentials.below(load_some<T>(g.logits + i, n, T(0)));
                        sum += e == Vec<T>{} ? Vec<T>{} : t * q;  // a pixel without weight may be masked: t infinite
                    }
                    if (g.d_logits != nullptr) store_some<T>(g.d_logits + i, beta * q, n);
                } else if (g.d_logits != nullptr) {
                    store_some<T>(g.d_logits + i, s, n);
                }
            });
            d_beta += sum_lanes<T>(sum);
        });
    });
    if (g.d_beta != nullptr) *g.d_beta = d_beta;
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
