// Vectors of floating-point numbers as wide as the instruction set of this translation unit has them.
//
// With GCC and Clang they are the compilers' vector extensions, so that operators, comparisons and selections are plain
// C++; elsewhere a "vector" is one number, and the same code compiles to scalar code.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(PYHAR_AVX512) || defined(PYHAR_AVX2)
#include <immintrin.h>
#endif

#if defined(__GNUC__) || defined(__clang__)
#define PYHAR_INLINE inline __attribute__((always_inline))
#define PYHAR_LAMBDA_INLINE __attribute__((always_inline))
#define PYHAR_NOINLINE __attribute__((noinline))
#ifdef __clang__
#define PYHAR_UNROLL _Pragma("unroll")
#else
#define PYHAR_UNROLL _Pragma("GCC unroll 32")
#endif
#define PYHAR_RESTRICT __restrict__
#else
#define PYHAR_INLINE inline
#define PYHAR_LAMBDA_INLINE
#define PYHAR_NOINLINE
#define PYHAR_UNROLL
#define PYHAR_RESTRICT __restrict
#endif

namespace pyhar {
namespace PYHAR_ISA {

#if defined(__GNUC__) || defined(__clang__)

#if defined(PYHAR_AVX512)
#define PYHAR_WIDTH 64
#elif defined(PYHAR_AVX2)
#define PYHAR_WIDTH 32
#else
#define PYHAR_WIDTH 16
#endif

template <class T>
struct Simd;

template <>
struct Simd<float> {
    typedef float Vector __attribute__((vector_size(PYHAR_WIDTH)));
    typedef float Unaligned __attribute__((vector_size(PYHAR_WIDTH), aligned(4), may_alias));
    typedef std::int32_t Integers __attribute__((vector_size(PYHAR_WIDTH)));
    typedef std::int32_t Integer;
};

template <>
struct Simd<double> {
    typedef double Vector __attribute__((vector_size(PYHAR_WIDTH)));
    typedef double Unaligned __attribute__((vector_size(PYHAR_WIDTH), aligned(8), may_alias));
    typedef std::int64_t Integers __attribute__((vector_size(PYHAR_WIDTH)));
    typedef std::int64_t Integer;
};

#else

template <class T>
struct Simd;

template <>
struct Simd<float> {
    using Vector = float;
    using Unaligned = float;
    using Integers = std::int32_t;
    using Integer = std::int32_t;
};

template <>
struct Simd<double> {
    using Vector = double;
    using Unaligned = double;
    using Integers = std::int64_t;
    using Integer = std::int64_t;
};

#endif

template <class T>
using Vec = typename Simd<T>::Vector;
template <class T>
using IVec = typename Simd<T>::Integers;

// Numbers in a vector.
template <class T>
constexpr std::int64_t lanes = static_cast<std::int64_t>(sizeof(typename Simd<T>::Vector) / sizeof(T));

template <class T>
PYHAR_INLINE Vec<T> load(const T* p) {
    return *reinterpret_cast<const typename Simd<T>::Unaligned*>(p);
}

template <class T>
PYHAR_INLINE void store(T* p, Vec<T> v) {
    *reinterpret_cast<typename Simd<T>::Unaligned*>(p) = v;
}

template <class T>
PYHAR_INLINE Vec<T> splat(T x) {
    return x - Vec<T>{};  // not a sum: that would lose the sign of -0, and so cost an instruction
}

template <class T>
PYHAR_INLINE IVec<T> bits(Vec<T> v) {
    IVec<T> i;
    std::memcpy(&i, &v, sizeof i);
    return i;
}

template <class T>
PYHAR_INLINE Vec<T> from_bits(IVec<T> i) {
    Vec<T> v;
    std::memcpy(&v, &i, sizeof v);
    return v;
}

// The first n numbers at p, 0 <= n <= lanes, and `fill` in the other lanes; memory beyond is not touched.
template <class T>
PYHAR_INLINE Vec<T> load_first(const T* p, std::int64_t n, T fill) {
    T buffer[lanes<T>];
    for (std::int64_t i = 0; i < lanes<T>; ++i) buffer[i] = i < n ? p[i] : fill;
    return load<T>(buffer);
}

template <class T>
PYHAR_INLINE void store_first(T* p, Vec<T> v, std::int64_t n) {
    T buffer[lanes<T>];
    store<T>(buffer, v);
    for (std::int64_t i = 0; i < n; ++i) p[i] = buffer[i];
}

#ifdef PYHAR_AVX512
template <>
PYHAR_INLINE Vec<float> load_first<float>(const float* p, std::int64_t n, float fill) {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), static_cast<__mmask16>((1u << n) - 1), p);
}
template <>
PYHAR_INLINE Vec<double> load_first<double>(const double* p, std::int64_t n, double fill) {
    return _mm512_mask_loadu_pd(_mm512_set1_pd(fill), static_cast<__mmask8>((1u << n) - 1), p);
}
template <>
PYHAR_INLINE void store_first<float>(float* p, Vec<float> v, std::int64_t n) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
}
template <>
PYHAR_INLINE void store_first<double>(double* p, Vec<double> v, std::int64_t n) {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), v);
}
#endif

// The larger of two, b where either is not a number: as x86 has it.
template <class T>
PYHAR_INLINE Vec<T> larger(Vec<T> a, Vec<T> b) {
    return a > b ? a : b;
}
template <class T>
PYHAR_INLINE Vec<T> smaller(Vec<T> a, Vec<T> b) {
    return a < b ? a : b;
}
#ifdef PYHAR_AVX512
template <>
PYHAR_INLINE Vec<float> larger<float>(Vec<float> a, Vec<float> b) {
    return _mm512_max_ps(a, b);
}
template <>
PYHAR_INLINE Vec<float> smaller<float>(Vec<float> a, Vec<float> b) {
    return _mm512_min_ps(a, b);
}
template <>
PYHAR_INLINE Vec<double> larger<double>(Vec<double> a, Vec<double> b) {
    return _mm512_max_pd(a, b);
}
template <>
PYHAR_INLINE Vec<double> smaller<double>(Vec<double> a, Vec<double> b) {
    return _mm512_min_pd(a, b);
}
#elif defined(PYHAR_AVX2)
template <>
PYHAR_INLINE Vec<float> larger<float>(Vec<float> a, Vec<float> b) {
    return _mm256_max_ps(a, b);
}
template <>
PYHAR_INLINE Vec<float> smaller<float>(Vec<float> a, Vec<float> b) {
    return _mm256_min_ps(a, b);
}
#endif

// Whether a lane of one equals that of the other.
template <class T>
PYHAR_INLINE bool any_equal(Vec<T> a, Vec<T> b) {
#if defined(PYHAR_AVX512)
    if constexpr (sizeof(T) == 4) {
        return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ) != 0;
    } else {
        return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ) != 0;
    }
#elif defined(PYHAR_AVX2)
    if constexpr (sizeof(T) == 4) {
        return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)) != 0;
    } else {
        return _mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_EQ_OQ)) != 0;
    }
#else
    T p[lanes<T>], q[lanes<T>];
    store<T>(p, a);
    store<T>(q, b);
    bool any = false;
    for (std::int64_t i = 0; i < lanes<T>; ++i) any |= p[i] == q[i];
    return any;
#endif
}

// Past the caches, where the instruction set can; p divisible by the vector's size. Other threads see it after
// finish_streams().
template <class T>
PYHAR_INLINE void stream(T* p, Vec<T> v) {
#if defined(PYHAR_AVX512)
    __m512i words;
    std::memcpy(&words, &v, sizeof v);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), words);
#elif defined(PYHAR_AVX2)
    __m256i words;
    std::memcpy(&words, &v, sizeof v);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), words);
#else
    store<T>(p, v);
#endif
}

PYHAR_INLINE void finish_streams() {
#if defined(PYHAR_AVX512) || defined(PYHAR_AVX2)
    _mm_sfence();
#endif
}

PYHAR_INLINE void prefetch(const void* p) {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(p, 0, 2);
#else
    (void)p;
#endif
}

PYHAR_INLINE void prefetch_to_write(const void* p) {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(p, 1, 3);
#else
    (void)p;
#endif
}

// Across the lanes, in a fixed order.
template <class T>
PYHAR_INLINE T sum_lanes(Vec<T> v) {
#ifdef PYHAR_AVX512
    if constexpr (sizeof(T) == 4) {
        return _mm512_reduce_add_ps(v);
    } else {
        return _mm512_reduce_add_pd(v);
    }
#else
    T a[lanes<T>];
    store<T>(a, v);
    if constexpr (lanes<T> == 8) {
        return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
    } else if constexpr (lanes<T> == 4) {
        return (a[0] + a[2]) + (a[1] + a[3]);
    } else if constexpr (lanes<T> == 2) {
        return a[0] + a[1];
    } else {
        return a[0];
    }
#endif
}

// NaN if a lane is.
template <class T>
PYHAR_INLINE T largest_lane(Vec<T> v) {
#ifdef PYHAR_AVX512
    if constexpr (sizeof(T) == 4) {
        if (_mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q) == 0) return _mm512_reduce_max_ps(v);
    } else {
        if (_mm512_cmp_pd_mask(v, v, _CMP_UNORD_Q) == 0) return _mm512_reduce_max_pd(v);
    }
#endif
    T a[lanes<T>];
    store<T>(a, v);
    T best = a[0];
    for (std::int64_t i = 1; i < lanes<T>; ++i) best = a[i] > best || a[i] != a[i] ? a[i] : best;
    return best;
}

template <class T>
PYHAR_INLINE T smallest_lane(Vec<T> v) {
    T a[lanes<T>];
    store<T>(a, v);
    T best = a[0];
    for (std::int64_t i = 1; i < lanes<T>; ++i) best = a[i] < best ? a[i] : best;
    return best;
}

template <class T>
constexpr std::int64_t round_up(std::int64_t n) {
    return (n + lanes<T> - 1) / lanes<T> * lanes<T>;
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
