// What a kernel is told: one plain struct for all of them. kernels/cuda_plan.py packs the same fields in the same order.
#pragma once

#include "types.cuh"

namespace pyhar {

struct Strides {  // in elements
    long long image, channel, row, column;
};

struct Params {
    // Addresses; 0 where there is none. Upper case as in pyhar/ops: H logits, F features, D depth logits.
    const void *H, *F, *D, *beta;
    void *stats, *probs, *xy, *z, *confidence, *appearance;
    const void *g_probs, *g_xy, *g_z, *g_confidence, *g_appearance;
    void *d_H, *d_F, *d_D, *d_beta;
    void* pooled_gradient;  // (B, J, Y*X) in T: sum_c g_appearance[c]*F[c]
    void* staged;           // (B, J, Y*X) in T: probabilities of planes that do not fit into shared memory
    double scale, unit_x, first_x, unit_y, first_y;
    Strides at_H, at_F, at_D, at_probs, at_g_probs, at_d_H, at_d_F, at_d_D;
    long long beta_image, beta_joint;
    long long images;
    int joints, channels, rows, columns;
    int flags, beta_type, planes;  // planes: those that a block takes
    int unused;
};

enum Flag : int {
    confidence_of_window = 1,
    with_softmax = 2,
    joint_is_innermost = 4,       // in H: threads next to each other take joints, not pixels
    channel_is_innermost = 8,     // in F
    channel_of_gradient = 16,     // in d_F
    features_in_packs = 32,       // F can be read 16 bytes at a time along its innermost dimension
    staged_in_shared = 64,        // probabilities, for the window confidence
    slopes_in_shared = 128,       // between the two passes of the backward
};

// Compiled at run time, a kernel knows its sizes.
#ifdef PYHAR_JOINTS
PYHAR_DEVICE constexpr int joints(const Params&) { return PYHAR_JOINTS; }
PYHAR_DEVICE constexpr int channels(const Params&) { return PYHAR_CHANNELS; }
PYHAR_DEVICE constexpr int rows(const Params&) { return PYHAR_ROWS; }
PYHAR_DEVICE constexpr int columns(const Params&) { return PYHAR_COLUMNS; }
PYHAR_DEVICE constexpr bool has(const Params&, Flag flag) { return (PYHAR_FLAGS & flag) != 0; }
#else
PYHAR_DEVICE int joints(const Params& p) { return p.joints; }
PYHAR_DEVICE int channels(const Params& p) { return p.channels; }
PYHAR_DEVICE int rows(const Params& p) { return p.rows; }
PYHAR_DEVICE int columns(const Params& p) { return p.columns; }
PYHAR_DEVICE bool has(const Params& p, Flag flag) { return (p.flags & flag) != 0; }
#endif
PYHAR_DEVICE int pixels(const Params& p) { return rows(p) * columns(p); }

// Where pixel i of a plane lies, without a division where the rows follow each other.
struct PixelOffset {
    long long row, column;
    int width;
    bool gapless;

    PYHAR_DEVICE PixelOffset(const Params& p, const Strides& at)
        : row(at.row), column(at.column), width(columns(p)), gapless(at.row == at.column * columns(p)) {}

    PYHAR_DEVICE long long operator()(int i) const {
        return gapless ? i * column : i / width * row + i % width * column;
    }
};

// One plane of a tensor.
template <typename Storage>
struct Map {
    Storage* data;
    long long row, column;

    PYHAR_DEVICE Map(const void* base, const Strides& at, long long image, long long channel)
        : data(static_cast<Storage*>(const_cast<void*>(base)) + image * at.image + channel * at.channel),
          row(at.row),
          column(at.column) {}

    PYHAR_DEVICE Storage& operator()(int y, int x) const { return data[y * row + x * column]; }

    // V pixels from (y, x) on; more than one only where the plane is contiguous.
    template <typename T, int V>
    PYHAR_DEVICE void read(T (&value)[V], int y, int x, int i) const {
        if constexpr (V == 1) {
            value[0] = static_cast<T>(widen((*this)(y, x)));
        } else {
            const Pack<Storage, V> pack = *reinterpret_cast<const Pack<Storage, V>*>(data + i);
#pragma unroll
            for (int v = 0; v < V; ++v) value[v] = static_cast<T>(widen(pack.value[v]));
        }
    }

    template <typename T, int V>
    PYHAR_DEVICE void write(const T (&value)[V], int y, int x, int i) const {
        if constexpr (V == 1) {
            (*this)(y, x) = narrow<Storage>(value[0]);
        } else {
            Pack<Storage, V> pack;
#pragma unroll
            for (int v = 0; v < V; ++v) pack.value[v] = narrow<Storage>(value[v]);
            *reinterpret_cast<Pack<Storage, V>*>(data + i) = pack;
        }
    }
};

// A contiguous (B, J) tensor of the computing type, or zero where there is none.
template <typename T>
PYHAR_DEVICE T value_or_zero(const void* base, long long i) {
    return base ? static_cast<const T*>(base)[i] : T(0);
}

template <typename T>
PYHAR_DEVICE T beta_of(const Params& p, long long image, int joint) {
    if (!p.beta) return static_cast<T>(p.scale);
    const long long i = image * p.beta_image + joint * p.beta_joint;
    switch (p.beta_type) {
        case 0: return static_cast<T>(widen(static_cast<const f16*>(p.beta)[i]));
        case 1: return static_cast<T>(widen(static_cast<const bf16*>(p.beta)[i]));
        case 2: return static_cast<T>(static_cast<const float*>(p.beta)[i]);
        default: return static_cast<T>(static_cast<const double*>(p.beta)[i]);
    }
}

}  // namespace pyhar
