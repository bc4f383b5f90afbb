// Planes whose numbers alternate in memory (channels_last), a lane for each joint: nothing is transposed, and sums over
// a plane are sums of vectors. For softmax with coordinates, depth, the largest probability, the probabilities; neither
// for windows nor for gradients through the probabilities.
#pragma once

#include "cpu/pose.h"

namespace pyhar {
namespace PYHAR_ISA {

// Vectors of joints that are taken together: whole cache lines side by side.
constexpr int vectors_together = 4;

// Sums over a plane are added up in stretches of so many pixels.
constexpr std::int64_t lane_stretch = 64;

// A vector of numbers of storage type S; unless `whole`, its first n, and `T(0)` in the other lanes.
template <class T, bool whole, class S>
PYHAR_INLINE Vec<T> load_lanes(const S* p, std::int64_t n) {
    T numbers[lanes<T>];
    if constexpr (whole) {
        load_row_of<S, T>(p, 1, numbers, lanes<T>);
    } else {
        for (std::int64_t i = 0; i < lanes<T>; ++i) numbers[i] = T(0);
        load_row_of<S, T>(p, 1, numbers, n);
    }
    return load<T>(numbers);
}

template <class T, bool whole, class S>
PYHAR_INLINE void store_lanes(S* p, Vec<T> v, std::int64_t n) {
    T numbers[lanes<T>];
    store<T>(numbers, v);
    store_row_of<S, T>(p, 1, numbers, whole ? lanes<T> : n);
}

// One image's map: a row of joints for each pixel.
template <class S>
struct JointMap {
    S* rows = nullptr;
    std::int64_t step = 0;

    JointMap() = default;
    template <class T>
    explicit JointMap(const Image<T>& image) {
        if (image) rows = reinterpret_cast<S*>(image.data()), step = image.row_step(true);
    }
    S* at(std::int64_t pixel, std::int64_t joint) const { return rows + pixel * step + joint; }
};

// e = exp(beta * (logit - m)) with a beta and an m for each lane; see Exponentials.
template <class T>
struct LaneExponentials {
    Vec<T> rate, m;

    LaneExponentials() = default;
    LaneExponentials(Vec<T> beta, Vec<T> peak) {
        const Vec<T> finite = splat<T>(std::numeric_limits<T>::max());
        rate = beta * splat<T>(Exponential<T>::log2e);
        rate = rate > finite ? finite : rate < -finite ? -finite : rate;
        m = peak == splat<T>(-infinity<T>) ? Vec<T>{} : peak;
    }

    PYHAR_INLINE Vec<T> below(Vec<T> logits) const { return logits - m; }

    PYHAR_INLINE Vec<T> operator()(Vec<T> logits) const {
        const Vec<T> t = below(logits);
        return t == splat<T>(-infinity<T>) ? Vec<T>{} : exp2_nonpositive<T>(rate * t);
    }
};

// The betas of `vectors` vectors of joints from j on, of which `count` are there; 1 in the other lanes.
template <class T, int vectors>
PYHAR_INLINE void load_betas(const Pose<T>& pose, std::int64_t b, std::int64_t j, std::int64_t count, Vec<T>* beta) {
    T numbers[vectors * lanes<T>];
    for (std::int64_t i = 0; i < vectors * lanes<T>; ++i) numbers[i] = i < count ? pose.beta(b, j + i) : T(1);
    for (int v = 0; v < vectors; ++v) beta[v] = load<T>(numbers + v * lanes<T>);
}

// Joints j .. j + count of image b, `vectors` vectors of them, all filled if `whole`, forward.
template <class T, class S, int vectors, bool whole>
void joints_forward(const Pose<T>& pose, const ForwardOutputs& out, std::int64_t b, std::int64_t j, std::int64_t count) {
    Frame frame;
    const Problem& problem = pose.problem();
    const std::int64_t pixels = pose.size().pixels();
    const bool deep = out.z != nullptr;
    const JointMap<const S> logits(pose.image(problem.logits, b));
    const JointMap<const S> depth(deep ? pose.image(problem.depth, b) : Image<T>());
    const JointMap<S> probs(pose.image(out.probs, b));
    constexpr std::int64_t row = vectors * lanes<T>;
    T* const copy = scratch<T>(pixels * row);
    const auto left = [&](int v) { return count - v * lanes<T>; };

    Vec<T> beta[vectors], sign[vectors], peak[vectors];
    load_betas<T, vectors>(pose, b, j, count, beta);
    PYHAR_UNROLL
    for (int v = 0; v < vectors; ++v) {
        sign[v] = beta[v] < Vec<T>{} ? splat<T>(-1) : splat<T>(1);
        peak[v] = splat<T>(-infinity<T>);
    }
    for (std::int64_t i = 0; i < pixels; ++i) {
        PYHAR_UNROLL
        for (int v = 0; v < vectors; ++v) {
            const Vec<T> h = load_lanes<T, whole, S>(logits.at(i, j + v * lanes<T>), left(v));
            store<T>(copy + i * row + v * lanes<T>, h);
            peak[v] = larger<T>(h == splat<T>(-infinity<T>) ? h : h * sign[v], peak[v]);
        }
    }
    LaneExponentials<T> exponentials[vectors];
    Vec<T> total[vectors][4];
    PYHAR_UNROLL
    for (int v = 0; v < vectors; ++v) {
        peak[v] = peak[v] == splat<T>(-infinity<T>) ? peak[v] : peak[v] * sign[v];
        exponentials[v] = LaneExponentials<T>(beta[v], peak[v]);
        for (Vec<T>& sum : total[v]) sum = Vec<T>{};
    }
    const Grid<T> grid = pose.grid();
    const auto add_up = [&](auto coordinates, auto with_depth) {
        for (std::int64_t begin = 0; begin < pixels; begin += lane_stretch) {
            const std::int64_t end = least(begin + lane_stretch, pixels);
            PYHAR_UNROLL
            for (int v = 0; v < vectors; ++v) {
                Vec<T> sum{}, x{}, y{}, z{};
                for (std::int64_t i = begin; i < end; ++i) {
                    T* const p = copy + i * row + v * lanes<T>;
                    const Vec<T> e = exponentials[v](load<T>(p));
                    sum += e;
                    if constexpr (decltype(coordinates)::value) {
                        x += e * splat<T>(grid.x[i]);
                        y += e * splat<T>(grid.y[i]);
                    }
                    if constexpr (decltype(with_depth)::value) {
                        z += e * sigmoid<T>(load_lanes<T, whole, S>(depth.at(i, j + v * lanes<T>), left(v))).value;
                    }
                    if (probs.rows != nullptr) store<T>(p, e);
                }
                total[v][0] += sum, total[v][1] += x, total[v][2] += y, total[v][3] += z;
            }
        }
    };
    const std::true_type yes{};
    const std::false_type no{};
    pose.coordinates() ? (deep ? add_up(yes, yes) : add_up(yes, no)) : (deep ? add_up(no, yes) : add_up(no, no));

    T m[row], r[row], x[row], y[row], z[row], largest_e[row];
    PYHAR_UNROLL
    for (int v = 0; v < vectors; ++v) {
        const Vec<T> factor = splat<T>(1) / total[v][0];
        store<T>(m + v * lanes<T>, peak[v]);
        store<T>(r + v * lanes<T>, factor);
        store<T>(x + v * lanes<T>, total[v][1] * factor);
        store<T>(y + v * lanes<T>, total[v][2] * factor);
        store<T>(z + v * lanes<T>, total[v][3] * factor);
        store<T>(largest_e + v * lanes<T>, peak[v] == splat<T>(-infinity<T>) ? factor * Vec<T>{} : factor);
        if (probs.rows == nullptr) continue;
        for (std::int64_t i = 0; i < pixels; ++i) {
            store_lanes<T, whole, S>(probs.at(i, j + v * lanes<T>), load<T>(copy + i * row + v * lanes<T>) * factor, left(v));
        }
    }
    for (std::int64_t k = 0; k < count; ++k) {
        const std::int64_t plane = b * pose.size().joints + j + k;
        pose.stats(b, j + k)[0] = m[k];
        pose.stats(b, j + k)[1] = r[k];
        if (out.xy != nullptr) {
            static_cast<T*>(out.xy)[2 * plane] = x[k];
            static_cast<T*>(out.xy)[2 * plane + 1] = y[k];
        }
        if (deep) static_cast<T*>(out.z)[plane] = z[k];
        if (out.confidence != nullptr) static_cast<T*>(out.confidence)[plane] = largest_e[k];
    }
}

// The same backward.
template <class T, class S, int vectors, bool whole>
void joints_backward(const Pose<T>& pose, const Gradients& out, std::int64_t b, std::int64_t j, std::int64_t count) {
    Frame frame;
    const Problem& problem = pose.problem();
    const std::int64_t pixels = pose.size().pixels();
    const bool deep = out.g_z != nullptr, placed = out.g_xy != nullptr, peaked = out.g_confidence != nullptr;
    const JointMap<const S> logits(pose.image(problem.logits, b));
    const JointMap<const S> depth(deep ? pose.image(problem.depth, b) : Image<T>());
    const JointMap<S> d_logits(pose.image(out.logits, b)), d_depth(pose.image(out.depth, b));
    constexpr std::int64_t row = vectors * lanes<T>;
    const Grid<T> grid = pose.grid();
    const auto left = [&](int v) { return count - v * lanes<T>; };
    const Vec<T> one = splat<T>(1);

    // A number for each joint, 0 in the other lanes: values[step * (plane of the joint) + first].
    const auto gather = [&](const void* values, std::int64_t step, std::int64_t first, Vec<T>* to) {
        T numbers[row];
        for (std::int64_t k = 0; k < row; ++k) {
            const std::int64_t plane = b * pose.size().joints + j + k;
            numbers[k] = values != nullptr && k < count ? static_cast<const T*>(values)[step * plane + first] : T(0);
        }
        for (int v = 0; v < vectors; ++v) to[v] = load<T>(numbers + v * lanes<T>);
    };
    Vec<T> beta[vectors], m[vectors], r[vectors], g_x[vectors], g_y[vectors], g_z[vectors], g_c[vectors];
    Vec<T> x[vectors], y[vectors], z[vectors];
    load_betas<T, vectors>(pose, b, j, count, beta);
    gather(problem.stats, 2, 0, m), gather(problem.stats, 2, 1, r);
    gather(out.g_xy, 2, 0, g_x), gather(out.g_xy, 2, 1, g_y);
    gather(placed ? out.xy : nullptr, 2, 0, x), gather(placed ? out.xy : nullptr, 2, 1, y);
    gather(out.g_z, 1, 0, g_z), gather(deep ? out.z : nullptr, 1, 0, z);
    gather(out.g_confidence, 1, 0, g_c);

    T* const weights = peaked ? scratch<T>(pixels * lanes<T>) : nullptr;
    Vec<T> d_beta[vectors];
    for (Vec<T>& total : d_beta) total = Vec<T>{};
    // Pixels first .. last, a multiple of stretches.
    const auto write = [&](int v, std::int64_t first, std::int64_t last, auto with_depth, auto with_peak, auto with_beta) {
        const std::int64_t joint = j + v * lanes<T>, n = left(v);
        const LaneExponentials<T> exponentials(beta[v], m[v]);
        Vec<T> share{};  // of the confidence's gradient, for each pixel with the largest e, which is exp(0)
        if constexpr (decltype(with_peak)::value) {
            Vec<T> ties{};
            for (std::int64_t i = first; i < last; ++i) {
                const Vec<T> e = exponentials(load_lanes<T, whole, S>(logits.at(i, joint), n));
                ties += e == one ? one : Vec<T>{};
                store<T>(weights + i * lanes<T>, e);
            }
            share = ties > Vec<T>{} ? g_c[v] / ties : Vec<T>{};  // without a tie there is a NaN, and r says so
        }
        const Vec<T> to_x = g_x[v], to_y = g_y[v], to_z = g_z[v], mean_x = x[v], mean_y = y[v], mean_z = z[v];
        const Vec<T> factor = r[v], least_s = -g_c[v] * factor, rate = beta[v] * factor, scaled = to_z * factor;
        for (std::int64_t begin = first; begin < last; begin += lane_stretch) {
            const std::int64_t end = least(begin + lane_stretch, last);
            Vec<T> sum{};
            for (std::int64_t i = begin; i < end; ++i) {
                const Vec<T> h = load_lanes<T, whole, S>(logits.at(i, joint), n);
                const Vec<T> e = decltype(with_peak)::value ? load<T>(weights + i * lanes<T>) : exponentials(h);
                Vec<T> s = least_s;
                s += to_x * (splat<T>(grid.x[i]) - mean_x);
                s += to_y * (splat<T>(grid.y[i]) - mean_y);
                if constexpr (decltype(with_depth)::value) {
                    const Sigmoid<T> d = sigmoid<T>(load_lanes<T, whole, S>(depth.at(i, joint), n));
                    s += to_z * (d.value - mean_z);
                    if (d_depth.rows != nullptr) {
                        store_lanes<T, whole, S>(d_depth.at(i, joint), scaled * e * d.slope, n);
                    }
                }
                if constexpr (decltype(with_peak)::value) s += e == one ? share : Vec<T>{};
                if constexpr (decltype(with_beta)::value) {
                    const Vec<T> tq = exponentials.below(h) * (e * factor * s);
                    sum += e == Vec<T>{} ? Vec<T>{} : tq;  // a pixel without weight may be masked: t infinite
                }
                if (d_logits.rows != nullptr) store_lanes<T, whole, S>(d_logits.at(i, joint), rate * e * s, n);
            }
            d_beta[v] += sum;
        }
    };
    // The peaks of a joint have to be counted before anything is written; else all vectors of some pixels are taken
    // together, so that every cache line comes once.
    const std::int64_t at_once = peaked ? pixels : lane_stretch;
    const std::true_type yes{};
    const std::false_type no{};
    for (std::int64_t first = 0; first < pixels; first += at_once) {
        const std::int64_t last = least(first + at_once, pixels);
        for (int v = 0; v < vectors; ++v) {
            const auto with_beta = [&](auto d, auto p) {
                out.beta != nullptr ? write(v, first, last, d, p, yes) : write(v, first, last, d, p, no);
            };
            const auto with_peak = [&](auto d) { peaked ? with_beta(d, yes) : with_beta(d, no); };
            deep ? with_peak(yes) : with_peak(no);
        }
    }
    if (out.beta != nullptr) {
        T numbers[row];
        for (int v = 0; v < vectors; ++v) store<T>(numbers + v * lanes<T>, d_beta[v]);
        for (std::int64_t k = 0; k < count; ++k) {
            static_cast<T*>(out.beta)[b * pose.size().joints + j + k] = numbers[k];
        }
    }
    if (deep || d_depth.rows == nullptr) return;
    for (std::int64_t i = 0; i < pixels; ++i) {
        for (int v = 0; v < vectors; ++v) store_lanes<T, whole, S>(d_depth.at(i, j + v * lanes<T>), Vec<T>{}, left(v));
    }
}

// run(storage type of the logits, as a null pointer to it)
template <class T, class Run>
void with_storage_type(const Pose<T>& pose, const Run& run) {
    if constexpr (sizeof(T) == 8) {
        run(static_cast<double*>(nullptr));
    } else if (pose.problem().logits.type == Type::bf16) {
        run(static_cast<BFloat16*>(nullptr));
    } else if (pose.problem().logits.type == Type::f16) {
        run(static_cast<Half*>(nullptr));
    } else {
        run(static_cast<float*>(nullptr));
    }
}

// Whether so many joints fill their vectors well enough.
template <class T>
bool fill_lanes(std::int64_t joints) {
    return 4 * round_up<T>(joints) <= 5 * joints;
}

// Whether the lanes are worth it, and all maps lie as they need it, in one type.
template <class T>
bool lanes_serve(const Pose<T>& pose, std::initializer_list<const Map*> maps) {
    const Problem& problem = pose.problem();
    const std::int64_t joints = pose.size().joints;
    if (!pose.softmax() || joints < 2 || (joints < lanes<T> && !fill_lanes<T>(joints))) return false;
    if (problem.wide && problem.logits.type != Type::f64) return false;
    for (const Map* map : maps) {
        if (!*map) continue;
        const Image<T> image = pose.image(*map, 0);
        if (!image.channels_innermost() || !image.plain(problem.logits.type, true)) return false;
    }
    return true;
}

// body(storage type as a null pointer to it, vectors, whether they are whole, batch, first joint, joints) for all joints
// of all images, but for the last of an image that would leave most lanes empty: others(batch, first joint, joints).
template <class T, class Body, class Others>
void each_vector_of_joints(const Pose<T>& pose, double work_per_pixel, const Body& body, const Others& others) {
    constexpr std::int64_t together = vectors_together * lanes<T>;
    const auto run = [&](auto type) {
        each_group(pose, 0, pose.size().batch, together, true, work_per_pixel,
                   [&](std::int64_t b, std::int64_t j, std::int64_t count) {
                       if (count == together) {
                           const std::integral_constant<int, vectors_together> all{};
                           return body(type, all, std::true_type(), b, j, count);
                       }
                       const std::integral_constant<int, 1> one{};
                       std::int64_t k = 0;
                       for (; k + lanes<T> <= count; k += lanes<T>) {
                           body(type, one, std::true_type(), b, j + k, lanes<T>);
                       }
                       if (k == count) return;
                       if (!fill_lanes<T>(count - k)) return others(b, j + k, count - k);
                       body(type, one, std::false_type(), b, j + k, count - k);
                   });
    };
    with_storage_type(pose, run);
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
