// Powers of two that are at most one, which exponentials of softmax and sigmoid are made of.
#pragma once

#include "cpu/simd.h"

namespace pyhar {
namespace PYHAR_ISA {

template <class T>
struct Exponential;

// 2^f = 1 + f * c(f) for |f| <= 1/2, c minimax for the relative error.
template <>
struct Exponential<float> {
    static constexpr float c[] = {0.69314721518455629792f,   0.24022652796561134048f,   0.055503101307290583452f,
                                  0.0096176910670893875222f, 0.0013406796844073023751f, 0.00015595103381378287047f};
    static constexpr float log2e = 1.44269504088896340736f;
    static constexpr float shift = 12582912.0f;  // 1.5 * 2^23
    static constexpr int bias = 127, digits = 23;
};

template <>
struct Exponential<double> {
    static constexpr double c[] = {0.69314718055994570067,     0.24022650695910098276,   0.055504108664790142641,
                                   0.0096181291076068298821,   0.0013333558153482512429, 0.00015403530441861952792,
                                   0.000015252727359086309572, 1.3215442498681450101e-6, 1.0180652953457735809e-7,
                                   7.0726057390316242774e-9,   4.0780542026249883323e-10};
    static constexpr double log2e = 1.44269504088896340736;
    static constexpr double shift = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr int bias = 1023, digits = 52;
};

// 2^u for u <= 0 within 2 units in the last place: exactly 1 at 0, 0 at minus infinity, NaN for NaN. Results too small
// for a normal number are flushed to 0 (FlushSubnormals).
template <class T>
PYHAR_INLINE Vec<T> exp2_nonpositive(Vec<T> u) {
    using E = Exponential<T>;
    constexpr int last = static_cast<int>(sizeof(E::c) / sizeof(T)) - 1;
    const auto power = [](Vec<T> f) PYHAR_LAMBDA_INLINE {
        Vec<T> p = splat<T>(E::c[last]);
        PYHAR_UNROLL
        for (int i = last - 1; i >= 0; --i) p = p * f + splat<T>(E::c[i]);
        return p * f + splat<T>(T(1));
    };
#ifdef PYHAR_AVX512
    // The instructions have infinities right: what reduce leaves of one is 0.
    constexpr int nearest = 0;
    if constexpr (sizeof(T) == 4) {
        const Vec<T> f = _mm512_reduce_ps(u, nearest);
        return _mm512_scalef_ps(power(f), u - f);
    } else {
        const Vec<T> f = _mm512_reduce_pd(u, nearest);
        return _mm512_scalef_pd(power(f), u - f);
    }
#else
    u = larger<T>(splat<T>(T(-E::bias)), u);
    const Vec<T> shifted = u + splat<T>(E::shift);  // the whole number is its last digits
    using Integer = typename Simd<T>::Integer;
    const Vec<T> two_to_whole = from_bits<T>((bits<T>(shifted) + Integer(E::bias)) << E::digits);  // 0 for -bias
    return power(u - (shifted - splat<T>(E::shift))) * two_to_whole;
#endif
}

// 1/x for x from 1 to 2, within 1 unit in the last place, or NaN.
template <class T>
PYHAR_INLINE Vec<T> reciprocal(Vec<T> x) {
#ifdef PYHAR_AVX512
    if constexpr (sizeof(T) == 4) {  // half the time of a division
        const Vec<float> guess = _mm512_rcp14_ps(x);
        return guess + guess * (splat<float>(1) - x * guess);
    }
#endif
    return splat<T>(1) / x;
}

// The sigmoid d of x and its slope d(1-d), without loss of digits at either end.
template <class T>
struct Sigmoid {
    Vec<T> value, slope;
};

template <class T>
PYHAR_INLINE Sigmoid<T> sigmoid(Vec<T> x) {
    const Vec<T> down = from_bits<T>(bits<T>(x) | bits<T>(splat<T>(T(-0.0))));  // -|x|
    const Vec<T> z = exp2_nonpositive<T>(down * splat<T>(Exponential<T>::log2e));
    const Vec<T> inverse = reciprocal<T>(splat<T>(1) + z);
    const Vec<T> below = z * inverse;
    return {x > splat<T>(0) ? inverse : below, below * inverse};
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
