// One plane (batch, joint) in the computing type: its softmax, expectations and confidence, and their gradients.
#pragma once

#include <limits>
#include <type_traits>

#include "cpu/exponential.h"

namespace pyhar {
namespace PYHAR_ISA {

// The coordinates of every pixel, and 0 in the lanes after the last.
template <class T>
struct Grid {
    const T *x, *y;
};

template <class T>
Grid<T> make_grid(const double* grid, std::int64_t rows, std::int64_t columns, T* memory) {
    T* x = memory;
    T* y = memory + round_up<T>(rows * columns);
    for (std::int64_t i = 0; i < columns; ++i)
        x[i] = static_cast<T>(i) / static_cast<T>(grid[0]) + static_cast<T>(grid[1]);
    for (std::int64_t k = 0; k < rows; ++k) {
        const T value = static_cast<T>(k) / static_cast<T>(grid[2]) + static_cast<T>(grid[3]);
        for (std::int64_t i = 0; i < columns; ++i) {
            x[k * columns + i] = x[i];
            y[k * columns + i] = value;
        }
    }
    for (std::int64_t i = rows * columns; i < round_up<T>(rows * columns); ++i) x[i] = y[i] = T(0);
    return {x, y};
}

// Sums over a plane are taken in stretches of so many pixels, so that rounding errors stay small on large planes.
constexpr std::int64_t stretch = 2048;

// body(first pixel, pixels in the vector) over [begin, end) a vector at a time.
template <class T, class Body>
PYHAR_INLINE void each_vector(std::int64_t begin, std::int64_t end, const Body& body) {
    std::int64_t i = begin;
    for (; i + lanes<T> <= end; i += lanes<T>) body(i, lanes<T>);
    if (i < end) body(i, end - i);
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

    PYHAR_INLINE Vec<T> operator()(Vec<T> logits) const { return of(logits, positive); }

    PYHAR_INLINE Vec<T> of(Vec<T> logits, bool beta_is_positive) const {
        const Vec<T> t = below(logits);
        const Vec<T> e = exp2_nonpositive<T>(rate * t);
        if (beta_is_positive) return e;
        return t == splat<T>(-infinity<T>) ? Vec<T>{} : e;
    }
};

// The exponentials of a plane, 0 in the lanes after the last pixel.
template <class T>
void exponentials_of_plane(const T* logits, std::int64_t pixels, T beta, T m, T* e) {
    const Exponentials<T> exponentials(beta, m);
    each_vector<T>(0, pixels, [&](std::int64_t i, std::int64_t n) {
        store<T>(e + i, exponentials(load_some<T>(logits + i, n, -infinity<T>)));
    });
}

// Sums over a plane of e, e*gx, e*gy and e*sigmoid(depth), e being the probabilities themselves without softmax.
template <class T>
struct Moments {
    T e, x, y, z;
};

template <class T, bool softmax, bool coordinates, bool deep>
Moments<T> moments(const T* logits, const T* depth, std::int64_t pixels, T beta, T m, Grid<T> grid, T* e_out) {
    const Exponentials<T> exponentials(beta, m);
    Moments<T> total{};
    for (std::int64_t begin = 0; begin < pixels; begin += stretch) {
        const std::int64_t end = begin + stretch < pixels ? begin + stretch : pixels;
        Vec<T> sum{}, x{}, y{}, z{};
        each_vector<T>(begin, end, [&](std::int64_t i, std::int64_t n) {
            if constexpr (softmax) prefetch(logits + pixels + i);  // the next plane, whose peak is sought first
            Vec<T> e = load_some<T>(logits + i, n, softmax ? -infinity<T> : T(0));
            if constexpr (softmax) e = exponentials(e);
            sum += e;
            if constexpr (coordinates) {
                x += e * load<T>(grid.x + i);
                y += e * load<T>(grid.y + i);
            }
            if constexpr (deep) z += e * sigmoid<T>(load_some<T>(depth + i, n, T(0))).value;
            if (e_out != nullptr) store<T>(e_out + i, e);
        });
        total.e += sum_lanes<T>(sum);
        total.x += sum_lanes<T>(x);
        total.y += sum_lanes<T>(y);
        total.z += sum_lanes<T>(z);
    }
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

// Adds `gradient` in equal shares to the pixels of the windows of largest sum.
template <class T>
void share_among_windows(const T* h, std::int64_t rows, std::int64_t columns, T gradient, T* s) {
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
    if (ties == 0) return;  // a NaN
    const T share = gradient / static_cast<T>(ties);
    each_best([&](std::int64_t p) {
        s[p] += share;
        if (rows > 1) s[p + columns] += share;
        if (columns > 1) s[p + 1] += share;
        if (rows > 1 && columns > 1) s[p + columns + 1] += share;
    });
}

// Numbers in working memory for a plane: windows look one pixel and one vector past the end.
template <class T>
constexpr std::int64_t plane_memory(std::int64_t pixels) {
    return round_up<T>(pixels) + 2 * lanes<T>;
}

// The gradient of one plane.
template <class T>
struct PlaneGradient {
    std::int64_t rows, columns;
    bool softmax, window;
    Grid<T> grid;
    // In:
    const T* logits;  // needed where e is null, or d_beta is wanted
    const T* depth;   // null where no gradient comes through the depth
    const T* e;       // exp(beta * (logits - m)), or the probabilities; null: to be computed
    const T* s;       // terms of s from appearance or probability maps, or null
    T beta, m, r;     // the probabilities are e * r
    bool placed, confident;  // whether gradients come through the coordinates, and through the confidence
    T g_x, g_y, g_z, g_confidence;
    // Sums over the plane of h times what g_x, g_y and g_z are multiplied by, and of h*s; 0 without softmax. Differences
    // from them, not of large sums: where h is all in one pixel, the gradient must not be what rounding leaves.
    T x, y, z, s_mean;
    // Working memory, plane_memory(pixels) numbers each; s_own and h only where window:
    T *e_own, *s_own, *h;
    // Out, null where not wanted; d_logits may lie over logits and d_depth over depth:
    T *d_logits, *d_depth, *d_beta;
};

// Sum of a*b over a plane.
template <class T>
T dot(const T* a, const T* b, std::int64_t pixels) {
    T total = T(0);
    for (std::int64_t begin = 0; begin < pixels; begin += stretch) {
        const std::int64_t end = begin + stretch < pixels ? begin + stretch : pixels;
        Vec<T> sum{};
        each_vector<T>(begin, end, [&](std::int64_t i, std::int64_t n) {
            sum += load_some<T>(a + i, n, T(0)) * load_some<T>(b + i, n, T(0));
        });
        total += sum_lanes<T>(sum);
    }
    return total;
}

// The gradients of a plane whose sums are known. `usual`: of logits by softmax with positive beta, through the
// coordinates, without s; known when compiling, since a loop that asked for each vector would take a third longer.
template <class T, bool compute_e, bool deep, bool usual>
void write_gradients(const PlaneGradient<T>& given) {
    const PlaneGradient<T> g = given;  // in registers: for all the compiler knows, what is stored may lie over `given`
    const std::int64_t pixels = g.rows * g.columns;
    const bool peaked = g.confident && !g.window;
    // With softmax the largest e is exp(0).
    const T peak = !peaked ? T(0) : g.softmax ? T(1) : largest<T>(g.e, pixels);
    const Exponentials<T> exponentials(g.beta, g.m);
    const bool positive = usual || exponentials.positive, placed = usual || g.placed, softmax = usual || g.softmax;
    const bool to_logits = usual || g.d_logits != nullptr, to_beta = !usual && g.d_beta != nullptr;
    const Vec<T> g_x = splat<T>(g.g_x), g_y = splat<T>(g.g_y), g_z = splat<T>(g.g_z), scaled = splat<T>(g.g_z * g.r);
    const Vec<T> x = splat<T>(g.x), y = splat<T>(g.y), z = splat<T>(g.z), s_mean = splat<T>(g.s_mean);
    const Vec<T> least = splat<T>(peaked && g.softmax ? -g.g_confidence * g.r : T(0));  // where there is no peak
    const Vec<T> r = splat<T>(g.r), rate = splat<T>(g.beta * g.r);
    const Vec<T> top = splat<T>(peak);
    const bool weighted = g.softmax || deep || peaked;  // without, the gradient does not depend on the maps
    const T beyond = g.softmax ? T(0) : -infinity<T>;  // no peak
    std::int64_t first = pixels, last = 0;             // vectors with a peak
    T ties = T(0), d_beta = T(0), t_of_peaks = T(0);
    for (std::int64_t begin = 0; begin < pixels; begin += stretch) {
        const std::int64_t end = begin + stretch < pixels ? begin + stretch : pixels;
        Vec<T> sum{};
        each_vector<T>(begin, end, [&](std::int64_t i, std::int64_t n) {
            Vec<T> logits{}, e{};
            if (compute_e || to_beta) logits = load_some<T>(g.logits + i, n, -infinity<T>);
            if constexpr (compute_e) {
                e = exponentials.of(logits, positive);
            } else if (weighted) {
                e = load_some<T>(g.e + i, n, beyond);
            }
            Vec<T> s = least;
            if (!usual && g.s != nullptr) s += load_some<T>(g.s + i, n, T(0)) - s_mean;
            if (placed) {
                s += g_x * (load<T>(g.grid.x + i) - x);
                s += g_y * (load<T>(g.grid.y + i) - y);
            }
            if constexpr (deep) {
                const Sigmoid<T> d = sigmoid<T>(load_some<T>(g.depth + i, n, T(0)));
                s += g_z * (d.value - z);
                if (g.d_depth != nullptr) store_some<T>(g.d_depth + i, scaled * e * d.slope, n);
            }
            if (to_beta) {
                const Vec<T> tq = exponentials.below(logits) * (e * r * s);
                sum += e == Vec<T>{} ? Vec<T>{} : tq;  // a pixel without weight may be masked: t infinite
            }
            if (peaked) {
                store<T>(g.e_own + i, e);
                if (any_equal<T>(e, top)) {
                    first = first < i ? first : i, last = i;
                    ties += sum_lanes<T>(e == top ? splat<T>(1) : Vec<T>{});
                    if (to_beta) {
                        t_of_peaks += sum_lanes<T>(e == top ? exponentials.below(logits) : Vec<T>{});
                    }
                }
            }
            if (to_logits) store_some<T>(g.d_logits + i, softmax ? rate * e * s : s, n);
        });
        d_beta += sum_lanes<T>(sum);
    }
    // Without a tie the plane has a NaN, and r says so.
    const T share = ties > T(0) ? g.g_confidence / ties : T(0);
    if (g.d_beta != nullptr) *g.d_beta = d_beta + (peaked ? t_of_peaks * g.r * share : T(0));
    if (!peaked || g.d_logits == nullptr) return;
    const Vec<T> extra = splat<T>(g.softmax ? g.beta * g.r * share : share);
    each_vector<T>(first, last + lanes<T> < pixels ? last + lanes<T> : pixels, [&](std::int64_t i, std::int64_t n) {
        const Vec<T> more = load<T>(g.e_own + i) == top ? extra : Vec<T>{};
        store_some<T>(g.d_logits + i, load_some<T>(g.d_logits + i, n, T(0)) + more, n);
    });
}

template <class T>
void plane_backward(PlaneGradient<T> g) {
    const std::int64_t pixels = g.rows * g.columns;
    const bool windowed = g.confident && g.window;
    if (g.e == nullptr && (g.s != nullptr || windowed)) {
        exponentials_of_plane<T>(g.logits, pixels, g.beta, g.m, g.e_own);
        g.e = g.e_own;
    }
    if (windowed) {
        const Vec<T> r = splat<T>(g.r);
        each_vector<T>(0, pixels, [&](std::int64_t i, std::int64_t n) {
            store<T>(g.h + i, load_some<T>(g.e + i, n, T(0)) * r);
            store<T>(g.s_own + i, g.s != nullptr ? load_some<T>(g.s + i, n, T(0)) : Vec<T>{});
        });
        share_among_windows<T>(g.h, g.rows, g.columns, g.g_confidence, g.s_own);
        g.s = g.s_own;
    }
    if (g.softmax && g.s != nullptr) g.s_mean = g.r * dot<T>(g.e, g.s, pixels);
    const auto write = [&](auto compute_e, auto usual) {
        constexpr bool c = decltype(compute_e)::value, u = decltype(usual)::value;
        g.depth != nullptr ? write_gradients<T, c, true, u>(g) : write_gradients<T, c, false, u>(g);
    };
    const std::true_type yes{};
    const std::false_type no{};
    if (g.e != nullptr) return write(no, no);
    const bool usual = g.softmax && g.beta > T(0) && g.placed && g.d_beta == nullptr && g.d_logits != nullptr;
    usual ? write(yes, yes) : write(yes, no);
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
