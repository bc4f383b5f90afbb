// Vectors of floats from and to maps of floats or bfloat16, and products of what maps hold.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/convert.h"
#include "cpu/simd.h"

namespace pyhar {
namespace PYHAR_ISA {

PYHAR_INLINE Vec<float> load_map(const float* p) { return load<float>(p); }
PYHAR_INLINE Vec<float> load_map_first(const float* p, std::int64_t n) { return load_first<float>(p, n, 0.0f); }
PYHAR_INLINE void store_map(float* p, Vec<float> v) { store<float>(p, v); }
PYHAR_INLINE void store_map_first(float* p, Vec<float> v, std::int64_t n) { store_first<float>(p, v, n); }

// What is below zero cut off; what is no number stays so.
PYHAR_INLINE Vec<float> rectified(Vec<float> v) { return larger<float>(Vec<float>{}, v); }

// How numbers of storage type S are multiplied: `group` neighbours in depth at a time, sum[lane] += sum over g of
// a[g] * b[lane][g]. Pixels and weights are filled up with zeros to a multiple of `depth`.
template <class S>
struct Factors;

template <>
struct Factors<float> {
    static constexpr std::int64_t group = 1, depth = 1;
    using Row = Vec<float>;
    static PYHAR_INLINE Row row(const float* b) { return load<float>(b); }
    static PYHAR_INLINE void add(Vec<float>& sum, const float* a, const Row& b) { sum += splat<float>(*a) * b; }
};

#ifdef PYHAR_AVX512_BF16

PYHAR_INLINE Vec<float> widen_words(__m256i words) {
    const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16);
    Vec<float> v;
    std::memcpy(&v, &wide, sizeof v);
    return v;
}

PYHAR_INLINE __m256i narrow_words(Vec<float> v) {
    const __m256bh words = _mm512_cvtneps_pbh(v);
    __m256i i;
    std::memcpy(&i, &words, sizeof i);
    return i;
}

PYHAR_INLINE Vec<float> load_map(const BFloat16* p) {
    return widen_words(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
PYHAR_INLINE Vec<float> load_map_first(const BFloat16* p, std::int64_t n) {
    return widen_words(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), p));
}
PYHAR_INLINE void store_map(BFloat16* p, Vec<float> v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_words(v));
}
PYHAR_INLINE void store_two(BFloat16* p, Vec<float> v, Vec<float> w) {
    const __m512bh words = _mm512_cvtne2ps_pbh((__m512)w, (__m512)v);
    std::memcpy(static_cast<void*>(p), &words, sizeof words);
}
PYHAR_INLINE void store_map_first(BFloat16* p, Vec<float> v, std::int64_t n) {
    _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1), narrow_words(v));
}

template <>
struct Factors<BFloat16> {
#ifdef PYHAR_AMX
    static constexpr std::int64_t group = 2, depth = 32;
#else
    static constexpr std::int64_t group = 2, depth = 2;
#endif
    using Row = __m512bh;
    static PYHAR_INLINE Row row(const BFloat16* b) {
        Row words;
        std::memcpy(&words, b, sizeof words);
        return words;
    }
    static PYHAR_INLINE void add(Vec<float>& sum, const BFloat16* a, const Row& b) {
        std::int32_t pair;
        std::memcpy(&pair, a, sizeof pair);
        const __m512i both = _mm512_set1_epi32(pair);
        Row left;
        std::memcpy(&left, &both, sizeof left);
        sum = _mm512_dpbf16_ps(sum, left, b);
    }
};

#endif

// Zeros behind the whole vectors of `channels` numbers of each of `count` pixels, as far as a product reads them.
template <class S>
void fill_up(S* pixels, std::int64_t count, std::int64_t step, std::int64_t channels) {
    const std::int64_t written = round_up<float>(channels), depth = Factors<S>::depth;
    const std::int64_t missing = (channels + depth - 1) / depth * depth - written;
    for (std::int64_t i = 0; missing > 0 && i < count; ++i) {
        std::memset(static_cast<void*>(pixels + i * step + written), 0, sizeof(S) * missing);
    }
}

// Elements from one row of `count` to the next: whole cache lines, an odd number of them, so that rows side by side do
// not compete for the same cache sets.
template <class S>
constexpr std::int64_t spread(std::int64_t count) {
    constexpr std::int64_t line = 64 / static_cast<std::int64_t>(sizeof(S));
    return ((count + line - 1) / line | 1) * line;
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
