// What the forward and the backward of a plane share: the weight of a pixel, the statistics, the window confidence.
#pragma once

#include "group.cuh"

namespace pyhar {

// Shared memory of a block, given by the launcher: first what the group reduces with, then staged planes.
template <typename T, int MAPPING>
PYHAR_DEVICE int scratch_values(int values_at_once) {
    if constexpr (MAPPING == warp_of_plane) {
        return 0;
    } else if constexpr (MAPPING == block_of_plane) {
        return 32 * values_at_once;
    } else {
        return static_cast<int>(blockDim.x) * values_at_once;
    }
}

// Logits to unnormalised probabilities.
template <typename T>
struct Softmax {
    bool on;
    T beta, m;

    PYHAR_DEVICE Softmax(const Params& p, long long image, int joint)
        : on(has(p, with_softmax)), beta(on ? beta_of<T>(p, image, joint) : T(1)), m(nothing()) {}

    // Where m starts: everything is at least as likely.
    PYHAR_DEVICE T nothing() const { return beta < T(0) ? infinity<T>() : -infinity<T>(); }

    // The likelier of two logits; a mask is never it, nor is a NaN.
    PYHAR_DEVICE T likelier(T a, T b) const {
        if (beta < T(0)) return b < a && b != -infinity<T>() ? b : a;
        return b > a ? b : a;
    }

    PYHAR_DEVICE T weight(T logit) const { return weight(logit, m); }

    PYHAR_DEVICE T weight(T logit, T reference) const {
        if (!on) return logit;
        const T t = logit - reference;
        if (logit == -infinity<T>() || t == -infinity<T>()) return T(0);
        return exponential(beta * t);
    }
};

template <typename T>
struct LikelierOf {
    Softmax<T> softmax;

    // In a group: the likeliest logit that one of its threads has seen. One reduction for both signs of beta: threads of
    // one block may have planes of either, and all of them must meet at the same barriers.
    template <int MAPPING>
    PYHAR_DEVICE T in(const Group<T, MAPPING>& group, T mine) const {
        const T sign = softmax.beta < T(0) ? T(-1) : T(1);
        return sign * group.template reduce<Largest>(sign * mine);
    }
};

// Sum over the window whose first pixel is (y, x), of a plane stored without gaps.
template <typename T>
PYHAR_DEVICE T window_sum(const Params& p, const T* h, int y, int x) {
    const int width = columns(p);
    const T* first = h + y * width + x;
    const bool two_rows = rows(p) > 1;
    T sum = two_rows ? first[0] + first[width] : first[0];
    if (width > 1) sum += two_rows ? first[1] + first[width + 1] : first[1];
    return sum;
}

PYHAR_DEVICE int window_rows(const Params& p) { return rows(p) > 1 ? rows(p) - 1 : 1; }
PYHAR_DEVICE int window_columns(const Params& p) { return columns(p) > 1 ? columns(p) - 1 : 1; }

// Where a plane's probabilities are put for the window confidence, whose pixels belong to several threads. In shared
// memory planes are an odd number of values apart, so that threads at the same pixel of several planes meet no bank twice.
template <typename T, int MAPPING>
PYHAR_DEVICE T* staging(const Params& p, const Group<T, MAPPING>& group, T* memory, long long plane) {
    if (has(p, staged_in_shared)) return memory + group.slot * (pixels(p) | 1);
    return static_cast<T*>(p.staged) + plane * pixels(p);
}

template <typename T, int MAPPING>
PYHAR_DEVICE T largest_window(const Params& p, const Group<T, MAPPING>& group, const T* h, bool active) {
    T peak = -infinity<T>();
    if (active) {
#pragma unroll 1
        for (Walk<1> at(p, group.lane, group.size); at.i < pixels(p); at.next(group.size)) {
            if (at.y < window_rows(p) && at.x < window_columns(p)) {
                peak = larger_or_nan(peak, window_sum(p, h, at.y, at.x));
            }
        }
    }
    return group.template reduce<LargestOrNan>(peak);
}

// Which plane a group has; a block past the last has none.
struct Place {
    long long image;
    int joint;
    bool active;

    template <typename T, int MAPPING>
    static PYHAR_DEVICE Place of(const Params& p, const Group<T, MAPPING>& group) {
        Place place;
        if constexpr (MAPPING == lanes_of_joints) {
            const long long blocks = (joints(p) + p.planes - 1) / p.planes;
            place.image = blockIdx.x / blocks;
            place.joint = static_cast<int>(blockIdx.x % blocks) * p.planes + group.slot;
            place.active = place.joint < joints(p);
        } else {
            const long long plane = static_cast<long long>(blockIdx.x) * group.slots + group.slot;
            place.image = plane / joints(p);
            place.joint = static_cast<int>(plane % joints(p));
            place.active = place.image < p.images;
        }
        return place;
    }
};

}  // namespace pyhar
