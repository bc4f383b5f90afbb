// Appearance V[j,c] = sum_p h[j,p]*F[c,p] and its two gradients, as tiled products. h is made from H and the statistics
// wherever it is needed and never written to memory.
#pragma once

#include "plane_forward.cuh"
#include "product.cuh"

namespace pyhar {

// Features of one image, by channel and pixel.
template <typename T, typename TF>
struct Features {
    const TF* data;
    long long channel;
    PixelOffset pixel;

    PYHAR_DEVICE Features(const Params& p, long long image)
        : data(static_cast<const TF*>(p.F) + image * p.at_F.image),
          channel(p.at_F.channel),
          pixel(p, p.at_F) {}

    PYHAR_DEVICE const TF* at(int c, int i) const { return data + c * channel + pixel(i); }

    // Brings in an operand of which one dimension is channels from c0 on, the other pixels from i0 on.
    template <int ROWS>
    PYHAR_DEVICE void fill(const Params& p, const Operand<T, ROWS>& B, bool rows_are_channels, int c0, int i0) const {
        constexpr int V = 16 / sizeof(TF);
        const bool along_rows = has(p, channel_is_innermost) == rows_are_channels;
        if (has(p, features_in_packs)) {
            B.template fill_packs<V>(along_rows, [&](int row, int k, T(&value)[V]) {
                const int c = c0 + (rows_are_channels ? row : k), i = i0 + (rows_are_channels ? k : row);
                if (c < channels(p) && i < pixels(p)) {
                    const Pack<TF, V> pack = *reinterpret_cast<const Pack<TF, V>*>(at(c, i));
#pragma unroll
                    for (int v = 0; v < V; ++v) value[v] = static_cast<T>(widen(pack.value[v]));
                } else {
#pragma unroll
                    for (int v = 0; v < V; ++v) value[v] = T(0);
                }
            });
        } else {
            B.fill(along_rows, [&](int row, int k) {
                const int c = c0 + (rows_are_channels ? row : k), i = i0 + (rows_are_channels ? k : row);
                return c < channels(p) && i < pixels(p) ? static_cast<T>(widen(*at(c, i))) : T(0);
            });
        }
    }
};

// Probabilities of up to ROWS joints of one image; what their planes have in common lies in shared memory.
template <typename T, typename TH, int ROWS>
struct Probabilities {
    const TH* data;
    T* facts;  // [ROWS][3]: beta, m, r
    int first;
    bool on;
    PixelOffset pixel;

    static constexpr int SIZE = 3 * ROWS;

    PYHAR_DEVICE Probabilities(const Params& p, long long image, T* memory)
        : data(static_cast<const TH*>(p.H) + image * p.at_H.image),
          facts(memory),
          first(0),
          on(has(p, with_softmax)),
          pixel(p, p.at_H) {}

    PYHAR_DEVICE void know(int row, T beta, T m, T r) const {
        facts[3 * row] = beta, facts[3 * row + 1] = m, facts[3 * row + 2] = r;
    }

    // Takes the joints from `joint` on; the statistics are read by some of the threads, for all.
    PYHAR_DEVICE void read_facts(const Params& p, long long image, int joint) {
        first = joint;
        if (!on) return;
        for (int row = static_cast<int>(threadIdx.x); row < ROWS; row += static_cast<int>(blockDim.x)) {
            if (joint + row >= joints(p)) continue;
            const T* stats = static_cast<const T*>(p.stats) + 2 * (image * joints(p) + joint + row);
            know(row, beta_of<T>(p, image, joint + row), stats[0], stats[1]);
        }
    }

    PYHAR_DEVICE T at(const Params& p, int row, int i) const {
        if (first + row >= joints(p) || i >= pixels(p)) return T(0);
        const T logit = static_cast<T>(widen(data[(first + row) * p.at_H.channel + pixel(i)]));
        if (!on) return logit;
        const T t = logit - facts[3 * row + 1], r = facts[3 * row + 2];
        const bool masked = logit == -infinity<T>() || t == -infinity<T>();
        return (masked ? T(0) : exponential(facts[3 * row] * t)) * r;
    }
};

template <typename T, typename TF, int ROWS, int COLS, int SPLIT, typename Joints>
PYHAR_DEVICE void pool(
    const Params& p, const Features<T, TF>& F, const Joints& h, T* memory, long long image, int j0, int c0) {
    const Operand<T, ROWS> A{memory};
    const Operand<T, COLS> B{memory + A.SIZE};
    const auto bring = [&](int i0) {
        F.template fill<COLS>(p, B, true, c0, i0);
        A.fill(has(p, joint_is_innermost), [&](int row, int k) { return h.at(p, row, i0 + k); });
    };
    const auto store = [&](int m, int n, T value) {
        if (j0 + m >= joints(p) || c0 + n >= channels(p)) return;
        const long long plane = image * joints(p) + j0 + m;
        static_cast<TF*>(p.appearance)[plane * channels(p) + c0 + n] = narrow<TF>(value);
    };
    product<T, ROWS, COLS, SPLIT>(A, B, pixels(p), false, bring, store);
}

// Blocks: x over tiles of channels, then of joints, then images.
struct Tile {
    long long image;
    int across, down;

    PYHAR_DEVICE Tile(int tiles_across, int tiles_down) {
        const long long block = blockIdx.x;
        across = static_cast<int>(block % tiles_across);
        down = static_cast<int>(block / tiles_across % tiles_down);
        image = block / tiles_across / tiles_down;
    }
};

PYHAR_DEVICE int tiles(int size, int tile) { return (size + tile - 1) / tile; }

// The appearance, of known statistics.
template <typename T, typename TH, typename TF, int ROWS, int COLS, int SPLIT>
PYHAR_DEVICE void appearance_forward(const Params& p, unsigned char* memory) {
    const Tile tile(tiles(channels(p), COLS), tiles(joints(p), ROWS));
    T* values = reinterpret_cast<T*>(memory);
    Probabilities<T, TH, ROWS> h(p, tile.image, values + product_values<T, ROWS, COLS>());
    h.read_facts(p, tile.image, tile.down * ROWS);
    __syncthreads();
    const Features<T, TF> F(p, tile.image);
    pool<T, TF, ROWS, COLS, SPLIT>(p, F, h, values, tile.image, tile.down * ROWS, tile.across * COLS);
}

// Pose and appearance in one launch: each block finds the statistics of its joints for itself, which costs less than a
// second launch where there are few blocks. The first block of channels writes the pose.
template <typename T, typename TH, typename TF, typename TD, int V, int VALUES, int ROWS, int COLS, int SPLIT>
PYHAR_DEVICE void pose_and_appearance(const Params& p, unsigned char* memory) {
    const Tile tile(tiles(channels(p), COLS), tiles(joints(p), ROWS));
    T* values = reinterpret_cast<T*>(memory);
    Probabilities<T, TH, ROWS> h(p, tile.image, values + product_values<T, ROWS, COLS>());
    h.first = tile.down * ROWS;
    const Group<T, warp_of_plane> group(p, values);
    for (int row = group.slot; row < ROWS && h.first + row < joints(p); row += group.slots) {
        const Place place{tile.image, h.first + row, true};
        T* staged = values + product_values<T, ROWS, COLS>() + h.SIZE;
        const Statistics<T> found =
            forward_of_plane<T, TH, TD, warp_of_plane, V, VALUES>(p, group, place, staged, tile.across == 0);
        if (group.lane == 0) h.know(row, h.on ? beta_of<T>(p, place.image, place.joint) : T(1), found.m, found.r);
        group.wait();  // the staged plane is free again
    }
    __syncthreads();
    const Features<T, TF> F(p, tile.image);
    pool<T, TF, ROWS, COLS, SPLIT>(p, F, h, values, tile.image, h.first, tile.across * COLS);
}

// sum_c g_appearance[j,c]*F[c,i], for the gradient of each plane.
template <typename T, typename TF, int ROWS, int COLS, int SPLIT>
PYHAR_DEVICE void appearance_to_planes(const Params& p, unsigned char* memory) {
    const Tile tile(tiles(pixels(p), COLS), tiles(joints(p), ROWS));
    const int j0 = tile.down * ROWS, i0 = tile.across * COLS;
    const Operand<T, ROWS> A{reinterpret_cast<T*>(memory)};
    const Operand<T, COLS> B{A.data + A.SIZE};
    const Features<T, TF> F(p, tile.image);
    const TF* g = static_cast<const TF*>(p.g_appearance) + tile.image * joints(p) * channels(p);
    T* out = static_cast<T*>(p.pooled_gradient) + tile.image * joints(p) * pixels(p);
    const auto bring = [&](int c0) {
        F.template fill<COLS>(p, B, false, c0, i0);
        A.fill(false, [&](int row, int k) {
            const long long j = j0 + row, c = c0 + k;
            return j < joints(p) && c < channels(p) ? static_cast<T>(widen(g[j * channels(p) + c])) : T(0);
        });
    };
    const auto store = [&](int m, int n, T value) {
        const long long j = j0 + m, i = i0 + n;
        if (j < joints(p) && i < pixels(p)) out[j * pixels(p) + i] = value;
    };
    product<T, ROWS, COLS, SPLIT>(A, B, channels(p), false, bring, store);
}

// d_F[c,i] = sum_j g_appearance[j,c]*h[j,i].
template <typename T, typename TH, typename TF, int ROWS, int COLS, int SPLIT>
PYHAR_DEVICE void appearance_to_features(const Params& p, unsigned char* memory) {
    const Tile tile(tiles(pixels(p), COLS), tiles(channels(p), ROWS));
    const int c0 = tile.down * ROWS, i0 = tile.across * COLS;
    const Operand<T, ROWS> A{reinterpret_cast<T*>(memory)};
    const Operand<T, COLS> B{A.data + A.SIZE};
    Probabilities<T, TH, DEPTH> h(p, tile.image, B.data + B.SIZE);
    const TF* g = static_cast<const TF*>(p.g_appearance) + tile.image * joints(p) * channels(p);
    const auto bring = [&](int j0) {
        h.read_facts(p, tile.image, j0);
        __syncthreads();
        B.fill(!has(p, joint_is_innermost), [&](int row, int k) { return h.at(p, k, i0 + row); });
        A.fill(true, [&](int row, int k) {
            const long long j = j0 + k, c = c0 + row;
            return j < joints(p) && c < channels(p) ? static_cast<T>(widen(g[j * channels(p) + c])) : T(0);
        });
    };
    TF* d_F = static_cast<TF*>(p.d_F) + tile.image * p.at_d_F.image;
    const PixelOffset pixel(p, p.at_d_F);
    const auto store = [&](int m, int n, T value) {
        const int c = c0 + m, i = i0 + n;
        if (c >= channels(p) || i >= pixels(p)) return;
        d_F[c * p.at_d_F.channel + pixel(i)] = narrow<TF>(value);
    };
    product<T, ROWS, COLS, SPLIT>(A, B, joints(p), has(p, channel_of_gradient), bring, store);
}

}  // namespace pyhar
