// Gradients of one plane: logits, depth logits, beta.
#pragma once

#include "plane.cuh"

namespace pyhar {

// dL/dh of a pixel, but for the confidence.
template <typename T, typename TH, typename TD>
struct Slope {
    T along_x, along_y, constant, g_z;
    const T* pooled;
    Map<const TH> g_probs;
    Map<const TD> D;

    PYHAR_DEVICE Slope(const Params& p, long long image, int joint)
        : pooled(static_cast<const T*>(p.pooled_gradient)),
          g_probs(p.g_probs, p.at_g_probs, image, joint),
          D(p.D, p.at_D, image, joint) {
        const long long plane = image * joints(p) + joint;
        const T g_x = value_or_zero<T>(p.g_xy, 2 * plane), g_y = value_or_zero<T>(p.g_xy, 2 * plane + 1);
        along_x = g_x / static_cast<T>(p.unit_x);
        along_y = g_y / static_cast<T>(p.unit_y);
        // Under a softmax the probabilities sum to 1, and what all pixels have in common has no effect.
        constant = has(p, with_softmax) ? T(0) : g_x * static_cast<T>(p.first_x) + g_y * static_cast<T>(p.first_y);
        g_z = value_or_zero<T>(p.g_z, plane);
        if (pooled) pooled += plane * pixels(p);
    }

    template <int V>
    PYHAR_DEVICE void depth(const Walk<V>& at, T (&d)[V]) const {
        D.template read<T, V>(d, at.y, at.x, at.i);
#pragma unroll
        for (int v = 0; v < V; ++v) d[v] = sigmoid(d[v]);
    }

    // s of V pixels from (y, x) on.
    template <int V>
    PYHAR_DEVICE void of(const Params& p, const Walk<V>& at, T (&s)[V]) const {
        int y = at.y, x = at.x;
#pragma unroll
        for (int v = 0; v < V; ++v) {
            s[v] = along_x * static_cast<T>(x) + along_y * static_cast<T>(y) + constant;
            if (++x == at.width) x = 0, ++y;
        }
        T more[V];
        if (p.g_z) {
            depth<V>(at, more);
#pragma unroll
            for (int v = 0; v < V; ++v) s[v] += g_z * more[v];
        }
        if (p.g_probs) {
            g_probs.template read<T, V>(more, at.y, at.x, at.i);
#pragma unroll
            for (int v = 0; v < V; ++v) s[v] += more[v];
        }
        if (pooled) {
            const Pack<T, V> pack = *reinterpret_cast<const Pack<T, V>*>(pooled + at.i);
#pragma unroll
            for (int v = 0; v < V; ++v) s[v] += pack.value[v];
        }
    }
};

// The confidence of a plane and what each pixel, or window, that ties for it gets of its gradient.
template <typename T>
struct Peak {
    T largest, ties, gradient;
    bool in_windows;
    const T* h;

    PYHAR_DEVICE Peak(const Params& p, long long plane)
        : largest(T(1)),
          ties(T(0)),
          gradient(value_or_zero<T>(p.g_confidence, plane)),
          in_windows(has(p, confidence_of_window)),
          h(nullptr) {
        // One window that is the whole plane: its sum is 1 whatever the logits are.
        const bool whole = in_windows && has(p, with_softmax) && rows(p) <= 2 && columns(p) <= 2;
        if (whole) gradient = T(0);
    }

    PYHAR_DEVICE T share() const { return gradient / ties; }

    // What pixel (y, x) of weight e gets.
    PYHAR_DEVICE T of(const Params& p, T e, int y, int x) const {
        if (!in_windows) return e == largest ? share() : T(0);
        T sum = T(0);
        const int last_y = window_rows(p) - 1, last_x = window_columns(p) - 1;
#pragma unroll 1
        for (int wy = y > 0 && rows(p) > 1 ? y - 1 : y; wy <= y && wy <= last_y; ++wy) {
#pragma unroll 1
            for (int wx = x > 0 && columns(p) > 1 ? x - 1 : x; wx <= x && wx <= last_x; ++wx) {
                if (window_sum(p, h, wy, wx) == largest) sum += share();
            }
        }
        return sum;
    }
};

// Finds the peak where that takes passes of its own: windows, and maps that are probabilities already.
template <typename T, typename TH, int MAPPING>
PYHAR_DEVICE void find_peak(
    const Params& p, const Group<T, MAPPING>& group, int n, long long plane, const Map<const TH>& H,
    const Softmax<T>& softmax, T r, T* staged_memory, Peak<T>& peak) {
    T ties = T(0);
    if (peak.in_windows) {
        T* h = staging(p, group, staged_memory, plane);
#pragma unroll 1
        for (Walk<1> at(p, group.lane, group.size); at.i < n; at.next(group.size)) {
            h[at.i] = softmax.weight(static_cast<T>(widen(H(at.y, at.x)))) * r;
        }
        group.wait();
        peak.h = h;
        peak.largest = largest_window(p, group, h, n > 0);
#pragma unroll 1
        for (Walk<1> at(p, group.lane, group.size); at.i < n; at.next(group.size)) {
            if (at.y < window_rows(p) && at.x < window_columns(p)) {
                ties += window_sum(p, h, at.y, at.x) == peak.largest ? T(1) : T(0);
            }
        }
    } else {
        T largest = -infinity<T>();
#pragma unroll 1
        for (Walk<1> at(p, group.lane, group.size); at.i < n; at.next(group.size)) {
            largest = larger_or_nan(largest, static_cast<T>(widen(H(at.y, at.x))));
        }
        peak.largest = group.template reduce<LargestOrNan>(largest);
#pragma unroll 1
        for (Walk<1> at(p, group.lane, group.size); at.i < n; at.next(group.size)) {
            ties += static_cast<T>(widen(H(at.y, at.x))) == peak.largest ? T(1) : T(0);
        }
    }
    peak.ties = group.template reduce<Sum>(ties);
}

// Two passes: sum h*s, and then the gradients. Between them s is kept in shared memory, where it fits. V is 1 where the
// gradient of the window confidence is wanted.
template <typename T, typename TH, typename TD, int MAPPING, int V>
PYHAR_DEVICE void plane_backward(const Params& p, unsigned char* memory) {
    T* scratch = reinterpret_cast<T*>(memory);
    const Group<T, MAPPING> group(p, scratch);
    const Place place = Place::of(p, group);
    if (MAPPING == warp_of_plane && !place.active) return;
    const int n = place.active ? pixels(p) : 0;
    const long long image = place.active ? place.image : 0;
    const int joint = place.active ? place.joint : 0;
    const long long plane = image * joints(p) + joint;
    const Map<const TH> H(p.H, p.at_H, image, joint);
    Softmax<T> softmax(p, image, joint);
    T r = T(1);
    if (softmax.on) {
        softmax.m = static_cast<const T*>(p.stats)[2 * plane];
        r = static_cast<const T*>(p.stats)[2 * plane + 1];
    }
    T* staged_memory = scratch + scratch_values<T, MAPPING>(3);
    T* kept = has(p, slopes_in_shared) ? staged_memory + threadIdx.x : nullptr;
    if (kept && has(p, staged_in_shared)) kept += group.slots * (pixels(p) | 1);
    const int threads = static_cast<int>(blockDim.x);
    const Slope<T, TH, TD> slope(p, image, joint);
    Peak<T> peak(p, plane);
    if (p.g_confidence && (peak.in_windows || !softmax.on)) {
        find_peak<T, TH, MAPPING>(p, group, n, plane, H, softmax, r, staged_memory, peak);
    }

    T dot = T(0), mean = T(0);
    if (softmax.on) {
        // Of h*s, of the pixels whose e is the largest, 1, and of h*t, for the gradient of beta: q sums to 0, and t less
        // its mean makes the rounding of `dot` cancel, too.
        T sums[3] = {T(0), T(0), T(0)};
        T* keep = kept;
#pragma unroll 1
        for (Walk<V> at(p, group.lane, group.size); at.i < n; at.next(group.size)) {
            T e[V], s[V];
            H.template read<T, V>(e, at.y, at.x, at.i);
            slope.template of<V>(p, at, s);
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const T t = e[v] - softmax.m;
                e[v] = softmax.weight(e[v]);
                if (p.d_beta && e[v] != T(0)) sums[2] += e[v] * r * t;
                sums[0] += e[v] * r * s[v];
                sums[1] += e[v] == T(1) ? T(1) : T(0);
                if (keep) keep[v * threads] = s[v];
            }
            if (keep) keep += V * threads;
        }
        group.template reduce<Sum>(sums);
        dot = sums[0], mean = sums[2];
        if (p.g_confidence) {  // all that tie have the same h or window sum, and their shares add up to the gradient
            if (!peak.in_windows) peak.ties = sums[1];
            dot += peak.gradient * (peak.in_windows ? peak.largest : r);
        }
    }

    const Map<TH> d_H(p.d_H, p.at_d_H, image, joint);
    const Map<TD> d_D(p.d_D, p.at_d_D, image, joint);
    T d_beta = T(0);
#pragma unroll 1
    for (Walk<V> at(p, group.lane, group.size); at.i < n; at.next(group.size)) {
        T logit[V], e[V], s[V];
        H.template read<T, V>(logit, at.y, at.x, at.i);
#pragma unroll
        for (int v = 0; v < V; ++v) e[v] = softmax.weight(logit[v]);
        if (p.d_D) {
            T d[V];
            if (p.g_z) {
                slope.template depth<V>(at, d);
#pragma unroll
                for (int v = 0; v < V; ++v) d[v] = slope.g_z * (e[v] * r) * d[v] * (T(1) - d[v]);
            } else {
#pragma unroll
                for (int v = 0; v < V; ++v) d[v] = T(0);
            }
            d_D.template write<T, V>(d, at.y, at.x, at.i);
        }
        if (!p.d_H && !p.d_beta) continue;
        if (kept && softmax.on) {
#pragma unroll
            for (int v = 0; v < V; ++v) s[v] = kept[v * threads];
            kept += V * threads;
        } else {
            slope.template of<V>(p, at, s);
        }
        if (p.g_confidence) {
            if constexpr (V == 1) {
                s[0] += peak.of(p, e[0], at.y, at.x);
            } else {
#pragma unroll
                for (int v = 0; v < V; ++v) s[v] += e[v] == peak.largest ? peak.share() : T(0);
            }
        }
        if (softmax.on) {
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const T q = e[v] * r * (s[v] - dot);
                // Where q is 0, t may be infinite: under a mask, or out of range.
                if (q != T(0)) d_beta += (logit[v] - softmax.m - mean) * q;
                s[v] = softmax.beta * q;
            }
        }
        if (p.d_H) d_H.template write<T, V>(s, at.y, at.x, at.i);
    }
    if (p.d_beta) {
        if (softmax.on) d_beta = group.template reduce<Sum>(d_beta);
        if (group.lane == 0 && place.active) static_cast<T*>(p.d_beta)[plane] = d_beta;
    }
}

}  // namespace pyhar
