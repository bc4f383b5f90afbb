// Storage types, their conversion to the computing type, and the few functions that differ between the ways in which
// these kernels are compiled: by nvcc, by NVRTC (which has no standard headers) and as plain C++ against a stand-in.
#pragma once

#define PYHAR_DEVICE __device__ __forceinline__

namespace pyhar {

struct f16 {
    unsigned short bits;
};

struct bf16 {
    unsigned short bits;
};

PYHAR_DEVICE unsigned bits_of(float value) {
#ifdef __CUDA_ARCH__
    return __float_as_uint(value);
#else
    return __builtin_bit_cast(unsigned, value);
#endif
}

PYHAR_DEVICE float float_of(unsigned bits) {
#ifdef __CUDA_ARCH__
    return __uint_as_float(bits);
#else
    return __builtin_bit_cast(float, bits);
#endif
}

PYHAR_DEVICE float widen(float value) { return value; }
PYHAR_DEVICE double widen(double value) { return value; }
PYHAR_DEVICE float widen(bf16 value) { return float_of(static_cast<unsigned>(value.bits) << 16); }

PYHAR_DEVICE float widen(f16 value) {
#ifdef __CUDA_ARCH__
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
#else
    const unsigned sign = (value.bits & 0x8000u) << 16, exponent = value.bits >> 10 & 31u, fraction = value.bits & 1023u;
    if (exponent == 31) return float_of(sign | 0x7f800000u | fraction << 13);
    if (exponent) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
    const float magnitude = static_cast<float>(fraction) * (1.0f / 16777216.0f);
    return float_of(sign | bits_of(magnitude));
#endif
}

template <typename Storage>
PYHAR_DEVICE Storage narrow(double value);

template <>
PYHAR_DEVICE double narrow<double>(double value) { return value; }

template <>
PYHAR_DEVICE float narrow<float>(double value) { return static_cast<float>(value); }

template <>
PYHAR_DEVICE bf16 narrow<bf16>(double value) {
    const float single = static_cast<float>(value);
    const unsigned bits = bits_of(single);
    if (single != single) return {static_cast<unsigned short>(bits >> 16 | 64u)};
    return {static_cast<unsigned short>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};  // to nearest, ties to even
}

template <>
PYHAR_DEVICE f16 narrow<f16>(double value) {
    const float single = static_cast<float>(value);
#ifdef __CUDA_ARCH__
    f16 half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(single));
    return half;
#else
    const unsigned bits = bits_of(single), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {static_cast<unsigned short>(sign | 0x7e00u)};
    if (magnitude >= 0x477ff000u) return {static_cast<unsigned short>(sign | 0x7c00u)};  // rounds to beyond 65504
    if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 lets the float unit round at the last place of f16
        const unsigned rounded = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
        return {static_cast<unsigned short>(sign | rounded)};
    }
    return {static_cast<unsigned short>(sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13)};
#endif
}

// V values next to each other, read and written as one where that is at most 16 bytes.
template <typename Storage, int V>
struct alignas(sizeof(Storage) * V < 16 ? sizeof(Storage) * V : 16) Pack {
    Storage value[V];
};

template <typename T>
PYHAR_DEVICE T infinity() {
    return static_cast<T>(float_of(0x7f800000u));
}

PYHAR_DEVICE float exponential(float x) { return expf(x); }
PYHAR_DEVICE double exponential(double x) { return exp(x); }

template <typename T>
PYHAR_DEVICE T sigmoid(T x) {
    return T(1) / (T(1) + exponential(-x));
}

template <typename T>
PYHAR_DEVICE T larger(T a, T b) {  // of two numbers; of a number and a NaN, the number
    return a > b || b != b ? a : b;
}

template <typename T>
PYHAR_DEVICE T larger_or_nan(T a, T b) {
    return a > b || a != a ? a : b;
}

}  // namespace pyhar
