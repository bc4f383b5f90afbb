// Rows of numbers between a storage type and the computing type.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/problem.h"
#include "cpu/simd.h"

namespace pyhar {
namespace PYHAR_ISA {

struct Half {
    std::uint16_t word;
};
struct BFloat16 {
    std::uint16_t word;
};

PYHAR_INLINE float float_of(std::uint32_t word) {
    float f;
    std::memcpy(&f, &word, sizeof f);
    return f;
}

PYHAR_INLINE std::uint32_t word_of(float f) {
    std::uint32_t word;
    std::memcpy(&word, &f, sizeof word);
    return word;
}

PYHAR_INLINE float widen(float f) { return f; }
PYHAR_INLINE double widen(double f) { return f; }
PYHAR_INLINE float widen(BFloat16 b) { return float_of(static_cast<std::uint32_t>(b.word) << 16); }

PYHAR_INLINE float widen(Half h) {
#if defined(PYHAR_AVX512) || defined(PYHAR_AVX2)
    return _cvtsh_ss(h.word);
#else
    // Exponent and digits are shifted into place, and the difference of the biases is added; infinity and NaN keep the
    // largest exponent. A subnormal number is a multiple of 2^-24.
    const std::uint32_t sign = static_cast<std::uint32_t>(h.word & 0x8000u) << 16;
    const std::uint32_t rest = static_cast<std::uint32_t>(h.word & 0x7fffu) << 13;
    const std::uint32_t normal = rest >= 0x0f800000u ? rest | 0x7f800000u : rest + 0x38000000u;
    const float small = static_cast<float>(static_cast<std::int32_t>(h.word & 0x7fffu)) * 5.9604644775390625e-8f;
    return float_of((rest < 0x00800000u ? word_of(small) : normal) | sign);
#endif
}

// To the nearest, ties to even.
template <class S>
PYHAR_INLINE S narrow(float f);
template <>
PYHAR_INLINE float narrow<float>(float f) {
    return f;
}
template <>
PYHAR_INLINE double narrow<double>(float f) {
    return f;
}
template <>
PYHAR_INLINE BFloat16 narrow<BFloat16>(float f) {
    const std::uint32_t word = word_of(f);
    const std::uint32_t rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
    return {static_cast<std::uint16_t>(f != f ? 0x7fc0u : rounded)};
}
template <>
PYHAR_INLINE Half narrow<Half>(float f) {
#if defined(PYHAR_AVX512) || defined(PYHAR_AVX2)
    return {static_cast<std::uint16_t>(_cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT))};
#else
    const std::uint32_t sign = (word_of(f) >> 16) & 0x8000u, word = word_of(f) & 0x7fffffffu;
    std::uint32_t half;
    if (word > 0x7f800000u) {
        half = 0x7e00u;
    } else if (word >= 0x477ff000u) {  // 65520 and above
        half = 0x7c00u;
    } else if (word < 0x38800000u) {  // subnormal: adding 0.5 leaves multiples of 2^-24 in the low digits
        half = word_of(float_of(word) + 0.5f) - 0x3f000000u;
    } else {
        half = (word - 0x38000000u + 0xfffu + ((word >> 13) & 1u)) >> 13;
    }
    return {static_cast<std::uint16_t>(sign | half)};
#endif
}

template <class S, class T>
PYHAR_INLINE S narrow_from(T x) {
    if constexpr (sizeof(S) == 8) {
        return static_cast<S>(x);
    } else {
        return narrow<S>(static_cast<float>(x));
    }
}

template <class S, class T>
inline void load_row_of(const S* PYHAR_RESTRICT from, std::int64_t step, T* PYHAR_RESTRICT to, std::int64_t n) {
    if (step == 1) {
        for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(widen(from[i]));
    } else {
        for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(widen(from[i * step]));
    }
}

template <class S, class T>
inline void store_row_of(S* PYHAR_RESTRICT to, std::int64_t step, const T* PYHAR_RESTRICT from, std::int64_t n) {
    if (step == 1) {
        for (std::int64_t i = 0; i < n; ++i) to[i] = narrow_from<S, T>(from[i]);
    } else {
        for (std::int64_t i = 0; i < n; ++i) to[i * step] = narrow_from<S, T>(from[i]);
    }
}

#ifdef PYHAR_AVX512
// The compilers do not vectorise these by themselves.
template <>
inline void store_row_of<BFloat16, float>(BFloat16* PYHAR_RESTRICT to, std::int64_t step,
                                          const float* PYHAR_RESTRICT from, std::int64_t n) {
    std::int64_t i = 0;
    if (step == 1) {
        for (; i + 16 <= n; i += 16) {
            const __m512 v = _mm512_loadu_ps(from + i);
            const __m512i word = _mm512_castps_si512(v);
            const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(word, 16), _mm512_set1_epi32(1));
            const __m512i rounded = _mm512_add_epi32(word, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            const __mmask16 number = _mm512_cmp_ps_mask(v, v, _CMP_ORD_Q);
            const __m512i high = _mm512_srli_epi32(
                _mm512_mask_mov_epi32(_mm512_set1_epi32(0x7fc00000), number, rounded), 16);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), _mm512_cvtepi32_epi16(high));
        }
    }
    for (; i < n; ++i) to[i * step] = narrow<BFloat16>(from[i]);
}
template <>
inline void load_row_of<Half, float>(const Half* PYHAR_RESTRICT from, std::int64_t step, float* PYHAR_RESTRICT to,
                                     std::int64_t n) {
    std::int64_t i = 0;
    if (step == 1) {
        for (; i + 16 <= n; i += 16) {
            const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
            _mm512_storeu_ps(to + i, _mm512_cvtph_ps(words));
        }
    }
    for (; i < n; ++i) to[i] = widen(from[i * step]);
}
template <>
inline void store_row_of<Half, float>(Half* PYHAR_RESTRICT to, std::int64_t step, const float* PYHAR_RESTRICT from,
                                      std::int64_t n) {
    std::int64_t i = 0;
    if (step == 1) {
        for (; i + 16 <= n; i += 16) {
            const __m256i words = _mm512_cvtps_ph(_mm512_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), words);
        }
    }
    for (; i < n; ++i) to[i * step] = narrow<Half>(from[i]);
}
#elif defined(PYHAR_AVX2)
template <>
inline void load_row_of<Half, float>(const Half* PYHAR_RESTRICT from, std::int64_t step, float* PYHAR_RESTRICT to,
                                     std::int64_t n) {
    std::int64_t i = 0;
    if (step == 1) {
        for (; i + 8 <= n; i += 8) {
            const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
            _mm256_storeu_ps(to + i, _mm256_cvtph_ps(words));
        }
    }
    for (; i < n; ++i) to[i] = widen(from[i * step]);
}
template <>
inline void store_row_of<Half, float>(Half* PYHAR_RESTRICT to, std::int64_t step, const float* PYHAR_RESTRICT from,
                                      std::int64_t n) {
    std::int64_t i = 0;
    if (step == 1) {
        for (; i + 8 <= n; i += 8) {
            const __m128i words = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), words);
        }
    }
    for (; i < n; ++i) to[i * step] = narrow<Half>(from[i]);
}
#endif

template <class T>
constexpr Type type_of = sizeof(T) == 8 ? Type::f64 : Type::f32;

// n numbers, `step` elements apart in storage.
template <class T>
inline void load_row(Type type, const void* from, std::int64_t step, T* to, std::int64_t n) {
    switch (type) {
        case Type::f16: return load_row_of(static_cast<const Half*>(from), step, to, n);
        case Type::bf16: return load_row_of(static_cast<const BFloat16*>(from), step, to, n);
        case Type::f32: return load_row_of(static_cast<const float*>(from), step, to, n);
        case Type::f64: return load_row_of(static_cast<const double*>(from), step, to, n);
    }
}

template <class T>
inline void store_row(Type type, void* to, std::int64_t step, const T* from, std::int64_t n) {
    switch (type) {
        case Type::f16: return store_row_of(static_cast<Half*>(to), step, from, n);
        case Type::bf16: return store_row_of(static_cast<BFloat16*>(to), step, from, n);
        case Type::f32: return store_row_of(static_cast<float*>(to), step, from, n);
        case Type::f64: return store_row_of(static_cast<double*>(to), step, from, n);
    }
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
