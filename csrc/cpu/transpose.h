// Transposition of small matrices of the computing type.
#pragma once

#include "cpu/simd.h"

namespace pyhar {
namespace PYHAR_ISA {

#if defined(PYHAR_AVX512)
// 16 x 16, in four rounds of exchanges between registers.
PYHAR_INLINE void transpose_square(const float* from, std::int64_t from_step, float* to, std::int64_t to_step) {
    __m512 r[16], t[16];
    PYHAR_UNROLL
    for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps(from + i * from_step);
    PYHAR_UNROLL
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    PYHAR_UNROLL
    for (int i = 0; i < 16; i += 4) {
        const __m512d a = _mm512_castps_pd(t[i]), b = _mm512_castps_pd(t[i + 1]);
        const __m512d c = _mm512_castps_pd(t[i + 2]), d = _mm512_castps_pd(t[i + 3]);
        r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    // r[4g + k], quarter q: rows 4g..4g+3 of column 4q + k. Now gather the four g of each.
    PYHAR_UNROLL
    for (int k = 0; k < 4; ++k) {
        const __m512 low = _mm512_shuffle_f32x4(r[k], r[k + 4], 0x88),
                     high = _mm512_shuffle_f32x4(r[k], r[k + 4], 0xdd);
        const __m512 low2 = _mm512_shuffle_f32x4(r[k + 8], r[k + 12], 0x88);
        const __m512 high2 = _mm512_shuffle_f32x4(r[k + 8], r[k + 12], 0xdd);
        _mm512_storeu_ps(to + k * to_step, _mm512_shuffle_f32x4(low, low2, 0x88));
        _mm512_storeu_ps(to + (k + 4) * to_step, _mm512_shuffle_f32x4(high, high2, 0x88));
        _mm512_storeu_ps(to + (k + 8) * to_step, _mm512_shuffle_f32x4(low, low2, 0xdd));
        _mm512_storeu_ps(to + (k + 12) * to_step, _mm512_shuffle_f32x4(high, high2, 0xdd));
    }
}
constexpr std::int64_t square = 16;
#elif defined(PYHAR_AVX2)
// 8 x 8.
PYHAR_INLINE void transpose_square(const float* from, std::int64_t from_step, float* to, std::int64_t to_step) {
    __m256 r[8], t[8];
    PYHAR_UNROLL
    for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(from + i * from_step);
    PYHAR_UNROLL
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    PYHAR_UNROLL
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    PYHAR_UNROLL
    for (int k = 0; k < 4; ++k) {
        _mm256_storeu_ps(to + k * to_step, _mm256_permute2f128_ps(r[k], r[k + 4], 0x20));
        _mm256_storeu_ps(to + (k + 4) * to_step, _mm256_permute2f128_ps(r[k], r[k + 4], 0x31));
    }
}
constexpr std::int64_t square = 8;
#else
constexpr std::int64_t square = 8;
#endif

template <class T>
PYHAR_INLINE void transpose_square_of(const T* from, std::int64_t from_step, T* to, std::int64_t to_step) {
#if defined(PYHAR_AVX512) || defined(PYHAR_AVX2)
    if constexpr (sizeof(T) == 4) {
        transpose_square(from, from_step, to, to_step);
        return;
    }
#endif
    for (std::int64_t i = 0; i < square; ++i) {
        for (std::int64_t j = 0; j < square; ++j) to[i * to_step + j] = from[j * from_step + i];
    }
}

// to[j][i] = from[i][j] for i < rows, j < columns.
template <class T>
inline void transpose(const T* from, std::int64_t from_step, std::int64_t rows, std::int64_t columns, T* to,
                      std::int64_t to_step) {
    std::int64_t i = 0;
    for (; i + square <= rows; i += square) {
        std::int64_t j = 0;
        for (; j + square <= columns; j += square) {
            transpose_square_of<T>(from + i * from_step + j, from_step, to + j * to_step + i, to_step);
        }
        for (; j < columns; ++j) {
            for (std::int64_t k = i; k < i + square; ++k) to[j * to_step + k] = from[k * from_step + j];
        }
    }
    for (std::int64_t j = 0; j < columns && i < rows; ++j) {
        for (std::int64_t k = i; k < rows; ++k) to[j * to_step + k] = from[k * from_step + j];
    }
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
