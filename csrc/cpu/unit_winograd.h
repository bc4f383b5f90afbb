// Winograd's convolution F(4 x 4, 3 x 3): 36 products for 16 pixels of an output instead of 144.
//
// A patch of 6 x 6 pixels d of a channel becomes B' d B, a kernel g becomes G g G', and the 4 x 4 pixels of an output are
// A' (sum over channels of their products, element by element) A. The points of the interpolation are 0, +-3/4, +-3/2 and
// infinity: every factor below is a binary fraction, and sums lose about three times less than with the usual 0, +-1,
// +-2, infinity (root mean square error 6e-7 of the output's at 96 channels; a plain sum in float32 has about as much).
// kernels/cpu_units.py computes G g G' where it packs the weights.
#pragma once

#include <cstdint>

#include "cpu/unit_product.h"

namespace pyhar {
namespace PYHAR_ISA {

constexpr int patch_side = 6, patch_outputs = 4, patch_elements = patch_side * patch_side;

namespace winograd {

constexpr float p = 0.75f, q = 1.5f;

// B' times a column of six.
PYHAR_INLINE void forward(const Vec<float> (&d)[6], Vec<float> (&v)[6]) {
    constexpr float product = p * p * q * q, sum = p * p + q * q;
    v[0] = d[0] * splat<float>(product) - d[2] * splat<float>(sum) + d[4];
    v[5] = d[1] * splat<float>(product) - d[3] * splat<float>(sum) + d[5];
    const Vec<float> even_p = d[4] - d[2] * splat<float>(q * q), odd_p = (d[3] - d[1] * splat<float>(q * q));
    const Vec<float> even_q = d[4] - d[2] * splat<float>(p * p), odd_q = (d[3] - d[1] * splat<float>(p * p));
    v[1] = even_p + odd_p * splat<float>(p);
    v[2] = even_p - odd_p * splat<float>(p);
    v[3] = even_q + odd_q * splat<float>(q);
    v[4] = even_q - odd_q * splat<float>(q);
}

// A' times a column of six.
PYHAR_INLINE void inverse(const Vec<float> (&m)[6], Vec<float> (&y)[4]) {
    const Vec<float> sum_p = m[1] + m[2], difference_p = m[1] - m[2];
    const Vec<float> sum_q = m[3] + m[4], difference_q = m[3] - m[4];
    y[0] = m[0] + sum_p + sum_q;
    y[1] = difference_p * splat<float>(p) + difference_q * splat<float>(q);
    y[2] = sum_p * splat<float>(p * p) + sum_q * splat<float>(q * q);
    y[3] = difference_p * splat<float>(p * p * p) + difference_q * splat<float>(q * q * q) + m[5];
}

}  // namespace winograd

// One vector of channels of a patch at `from`, to 36 places `element` apart.
PYHAR_INLINE void patch_forward(const float* from, std::int64_t row_step, std::int64_t pixel_step, float* to,
                                std::int64_t element) {
    Vec<float> half[patch_side][patch_side];
    PYHAR_UNROLL
    for (int x = 0; x < patch_side; ++x) {
        Vec<float> d[patch_side], v[patch_side];
        PYHAR_UNROLL
        for (int y = 0; y < patch_side; ++y) d[y] = load<float>(from + y * row_step + x * pixel_step);
        winograd::forward(d, v);
        PYHAR_UNROLL
        for (int y = 0; y < patch_side; ++y) half[y][x] = v[y];
    }
    PYHAR_UNROLL
    for (int y = 0; y < patch_side; ++y) {
        Vec<float> v[patch_side];
        winograd::forward(half[y], v);
        PYHAR_UNROLL
        for (int x = 0; x < patch_side; ++x) store<float>(to + (y * patch_side + x) * element, v[x]);
    }
}

// One vector of outputs of a patch from 36 places: write(y, x, vector) for its 4 x 4 pixels.
template <class Write>
PYHAR_INLINE void patch_inverse(const float* from, std::int64_t element, const Write& write) {
    Vec<float> half[patch_outputs][patch_side];
    PYHAR_UNROLL
    for (int x = 0; x < patch_side; ++x) {
        Vec<float> m[patch_side], y[patch_outputs];
        PYHAR_UNROLL
        for (int i = 0; i < patch_side; ++i) m[i] = load<float>(from + (i * patch_side + x) * element);
        winograd::inverse(m, y);
        PYHAR_UNROLL
        for (int i = 0; i < patch_outputs; ++i) half[i][x] = y[i];
    }
    PYHAR_UNROLL
    for (int i = 0; i < patch_outputs; ++i) {
        Vec<float> y[patch_outputs];
        winograd::inverse(half[i], y);
        PYHAR_UNROLL
        for (int x = 0; x < patch_outputs; ++x) write(i, x, y[x]);
    }
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
