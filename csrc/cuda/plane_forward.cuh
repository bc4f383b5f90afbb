// Softmax statistics, coordinates, depth, confidence and probability map of one plane.
#pragma once

#include "plane.cuh"

namespace pyhar {

// The sums over a plane that its outputs are made of, in units of e.
template <typename T>
struct Moments {
    T sum, x, y, z, peak;

    PYHAR_DEVICE void scale(T factor) { sum *= factor, x *= factor, y *= factor, z *= factor; }

    PYHAR_DEVICE void add(T e, int column, int row) {
        sum += e;
        x += e * static_cast<T>(column);
        y += e * static_cast<T>(row);
    }
};

template <typename T, int MAPPING>
PYHAR_DEVICE void reduce(const Group<T, MAPPING>& group, Moments<T>& moments) {
    T sums[4] = {moments.sum, moments.x, moments.y, moments.z};
    group.template reduce<Sum>(sums);
    moments.sum = sums[0], moments.x = sums[1], moments.y = sums[2], moments.z = sums[3];
}

// Adds V pixels from (y, x) on and leaves their weights in `value`.
template <typename T, typename TD, int V>
PYHAR_DEVICE void add_pixels(
    const Softmax<T>& softmax, const Map<const TD>& D, bool with_depth, const Walk<V>& at, T (&value)[V],
    Moments<T>& moments) {
    T depth[V];
    if (with_depth) D.template read<T, V>(depth, at.y, at.x, at.i);
    int y = at.y, x = at.x;
#pragma unroll
    for (int v = 0; v < V; ++v) {
        value[v] = softmax.weight(value[v]);
        moments.add(value[v], x, y);
        if (with_depth) moments.z += value[v] * sigmoid(depth[v]);
        if (!softmax.on) moments.peak = larger_or_nan(moments.peak, value[v]);
        if (++x == at.width) x = 0, ++y;
    }
}

template <typename T>
struct Statistics {
    T m, r;
};

// One plane by the threads of `group`. VALUES is how many pixels a thread keeps in registers; 0 where they do not fit,
// and then the maximum is found along with the sums, which are scaled down whenever it rises. `outputs` false leaves
// the statistics to the caller and writes nothing.
template <typename T, typename TH, typename TD, int MAPPING, int V, int VALUES>
PYHAR_DEVICE Statistics<T> forward_of_plane(
    const Params& p, const Group<T, MAPPING>& group, const Place& place, T* staged_memory, bool outputs) {
    constexpr int STEPS = VALUES / V > 0 ? VALUES / V : 1;
    const int n = place.active ? pixels(p) : 0;
    const long long image = place.active ? place.image : 0;
    const int joint = place.active ? place.joint : 0;
    const Map<const TH> H(p.H, p.at_H, image, joint);
    const Map<const TD> D(p.D, p.at_D, image, joint);
    const bool with_depth = outputs && p.z;
    Softmax<T> softmax(p, image, joint);
    Moments<T> moments{T(0), T(0), T(0), T(0), -infinity<T>()};
    T kept[STEPS][V];
    if constexpr (VALUES > 0) {
        Walk<V> at(p, group.lane, group.size);
        T mine = softmax.nothing();
#pragma unroll
        for (int k = 0; k < STEPS; ++k) {
            if (at.i < n) {
                H.template read<T, V>(kept[k], at.y, at.x, at.i);
#pragma unroll
                for (int v = 0; v < V; ++v) mine = softmax.likelier(mine, kept[k][v]);
            }
            at.next(group.size);
        }
        if (softmax.on) softmax.m = LikelierOf<T>{softmax}.in(group, mine);
        at = Walk<V>(p, group.lane, group.size);
#pragma unroll
        for (int k = 0; k < STEPS; ++k) {
            if (at.i < n) add_pixels<T, TD, V>(softmax, D, with_depth, at, kept[k], moments);
            at.next(group.size);
        }
    } else {
#pragma unroll 1
        for (Walk<V> at(p, group.lane, group.size); at.i < n; at.next(group.size)) {
            H.template read<T, V>(kept[0], at.y, at.x, at.i);
            T m = softmax.m;
#pragma unroll
            for (int v = 0; v < V; ++v) m = softmax.likelier(m, kept[0][v]);
            if (softmax.on && m != softmax.m) {
                moments.scale(softmax.weight(softmax.m, m));
                softmax.m = m;
            }
            add_pixels<T, TD, V>(softmax, D, with_depth, at, kept[0], moments);
        }
        if (softmax.on) {
            const T m = LikelierOf<T>{softmax}.in(group, softmax.m);
            if (m != softmax.m) moments.scale(softmax.weight(softmax.m, m));
            softmax.m = m;
        }
    }
    reduce(group, moments);
    const T r = softmax.on ? T(1) / moments.sum : T(1);
    if (!outputs) return {softmax.m, r};

    T confidence = T(0);
    if (p.confidence && has(p, confidence_of_window)) {
        T* h = staging(p, group, staged_memory, image * joints(p) + joint);
        Walk<V> at(p, group.lane, group.size);
        if constexpr (VALUES > 0) {
#pragma unroll
            for (int k = 0; k < STEPS; ++k) {
                if (at.i < n) {
#pragma unroll
                    for (int v = 0; v < V; ++v) h[at.i + v] = kept[k][v] * r;
                }
                at.next(group.size);
            }
        } else {
#pragma unroll 1
            for (; at.i < n; at.next(group.size)) {
                H.template read<T, V>(kept[0], at.y, at.x, at.i);
#pragma unroll
                for (int v = 0; v < V; ++v) h[at.i + v] = softmax.weight(kept[0][v]) * r;
            }
        }
        group.wait();
        confidence = largest_window(p, group, h, place.active);
    } else if (softmax.on) {
        // The pixel at m has e = 1, so h = r there; a plane that is wholly masked has sum 0 and gives 0*inf.
        confidence = r * (moments.sum == T(0) ? T(0) : T(1));
    } else if (p.confidence) {
        confidence = group.template reduce<LargestOrNan>(moments.peak);
    }

    if (p.probs && place.active) {
        const Map<TH> probs(p.probs, p.at_probs, image, joint);
        Walk<V> at(p, group.lane, group.size);
        if constexpr (VALUES > 0) {
#pragma unroll
            for (int k = 0; k < STEPS; ++k) {
                if (at.i < n) {
#pragma unroll
                    for (int v = 0; v < V; ++v) kept[k][v] *= r;
                    probs.template write<T, V>(kept[k], at.y, at.x, at.i);
                }
                at.next(group.size);
            }
        } else {
#pragma unroll 1
            for (; at.i < n; at.next(group.size)) {
                H.template read<T, V>(kept[0], at.y, at.x, at.i);
#pragma unroll
                for (int v = 0; v < V; ++v) kept[0][v] = softmax.weight(kept[0][v]) * r;
                probs.template write<T, V>(kept[0], at.y, at.x, at.i);
            }
        }
    }
    if (group.lane == 0 && place.active) {
        const long long plane = image * joints(p) + joint;
        if (p.stats && softmax.on) {
            static_cast<T*>(p.stats)[2 * plane] = softmax.m;
            static_cast<T*>(p.stats)[2 * plane + 1] = r;
        }
        if (p.xy) {
            const T all = moments.sum * r;  // 1, or what the given probabilities sum to
            T* xy = static_cast<T*>(p.xy) + 2 * plane;
            xy[0] = moments.x * r / static_cast<T>(p.unit_x) + all * static_cast<T>(p.first_x);
            xy[1] = moments.y * r / static_cast<T>(p.unit_y) + all * static_cast<T>(p.first_y);
        }
        if (p.z) static_cast<T*>(p.z)[plane] = moments.z * r;
        if (p.confidence) static_cast<T*>(p.confidence)[plane] = confidence;
    }
    return {softmax.m, r};
}

template <typename T, typename TH, typename TD, int MAPPING, int V, int VALUES>
PYHAR_DEVICE void plane_forward(const Params& p, unsigned char* memory) {
    T* scratch = reinterpret_cast<T*>(memory);
    const Group<T, MAPPING> group(p, scratch);
    const Place place = Place::of(p, group);
    if (MAPPING == warp_of_plane && !place.active) return;
    forward_of_plane<T, TH, TD, MAPPING, V, VALUES>(
        p, group, place, scratch + scratch_values<T, MAPPING>(4), true);
}

}  // namespace pyhar
