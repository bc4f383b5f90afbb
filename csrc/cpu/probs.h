// The gradient of probability maps alone, the softmax's backward, where all maps are plain rows of pixels of one type.
#pragma once

#include "cpu/plane_lanes.h"

namespace pyhar {
namespace PYHAR_ISA {

template <class T>
bool probs_rows_serve(const Pose<T>& pose, const Gradients& out) {
    const Problem& problem = pose.problem();
    if (!out.g_probs || !out.logits || !pose.softmax() || out.beta != nullptr) return false;
    for (const Map* map : {&problem.logits, &out.probs, &out.g_probs, &out.logits}) {
        if (!pose.image(*map, 0).plain(problem.logits.type, false)) return false;
    }
    return true;
}

// Planes j .. j + count of image b. Probabilities are read where they are as computed; those of a half type are rounded,
// and computed anew.
template <class T, class S>
void probs_backward(const Pose<T>& pose, const Gradients& out, std::int64_t b, std::int64_t j, std::int64_t count) {
    constexpr bool exact = sizeof(S) == sizeof(T);
    Frame frame;
    const std::int64_t pixels = pose.size().pixels();
    const auto rows = [&](const Map& map) {
        return static_cast<S*>(map.data) + b * map.stride[0] + j * map.stride[1];
    };
    const Map &logits = pose.problem().logits, &probs = out.probs;
    const S *h = rows(logits), *q = rows(probs), *g = rows(out.g_probs);
    S* d = rows(out.logits);
    T* const weights = exact ? nullptr : scratch<T>(round_up<T>(pixels));
    const Vec<T> number = lane_numbers<T>();
    const auto numbers = [&](const S* p, std::int64_t n) {
        return n == lanes<T> ? load_lanes<T, true, S>(p, n) : load_lanes<T, false, S>(p, n);
    };
    for (std::int64_t k = 0; k < count; ++k) {
        const T beta = pose.beta(b, j + k), r = exact ? T(1) : pose.stats(b, j + k)[1];
        const Exponentials<T> exponentials(beta, pose.stats(b, j + k)[0]);
        T total = T(0);
        for (std::int64_t begin = 0; begin < pixels; begin += stretch) {
            const std::int64_t end = least(begin + stretch, pixels);
            Vec<T> sum{};
            each_vector<T>(begin, end, [&](std::int64_t i, std::int64_t n) {
                Vec<T> e;
                if constexpr (exact) {
                    e = numbers(q + i, n);
                } else {
                    e = exponentials(numbers(h + i, n));
                    if (n < lanes<T>) e = number < splat<T>(static_cast<T>(n)) ? e : Vec<T>{};
                    store<T>(weights + i, e);
                }
                prefetch_to_write(d + i);
                sum += e * numbers(g + i, n);
            });
            total += sum_lanes<T>(sum);
        }
        const Vec<T> mean = splat<T>(r * total), rate = splat<T>(beta * r);
        each_vector<T>(0, pixels, [&](std::int64_t i, std::int64_t n) {
            Vec<T> e;
            if constexpr (exact) {
                e = numbers(q + i, n);
            } else {
                e = load<T>(weights + i);
            }
            const Vec<T> gradient = rate * e * (numbers(g + i, n) - mean);
            n == lanes<T> ? store_lanes<T, true, S>(d + i, gradient, n) : store_lanes<T, false, S>(d + i, gradient, n);
        });
        h += logits.stride[1], q += probs.stride[1], g += out.g_probs.stride[1], d += out.logits.stride[1];
    }
}

// The same for all planes.
template <class T>
void all_probs_backward(const Pose<T>& pose, const Gradients& out) {
    const auto run = [&](auto type) {
        each_group(pose, 0, pose.size().batch, pose.together(true), true, backward_work,
                   [&](std::int64_t b, std::int64_t j, std::int64_t count) {
                       probs_backward<T, std::remove_pointer_t<decltype(type)>>(pose, out, b, j, count);
                   });
    };
    with_storage_type(pose, run);
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
