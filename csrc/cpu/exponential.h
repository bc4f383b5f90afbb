// exp of numbers that are not positive, and the sigmoid made of it; within 2 units in the last place.
#pragma once

#include "cpu/simd.h"

namespace pyhar {
namespace PYHAR_ISA {

template <class T>
struct Exponential;

// exp(r) = 1 + r + r^2 q(r) for |r| <= ln(2)/2, q minimax for the relative error; ln2 in two parts of which the first
// has few enough digits that its product with an exponent is exact; below `lowest` exp rounds to 0.
template <>
struct Exponential<float> {
    static constexpr float q[] = {0.49999993412501565687f, 0.16666520107819589424f, 0.041668394210893869329f,
                                  0.0083687804111805336497f, 0.0013814467059326510579f};
    static constexpr float log2e = 1.44269504088896340736f, ln2_high = 0.693359375f, ln2_low = -2.12194440054690583e-4f;
    static constexpr float lowest = -104.0f, shift = 12582912.0f;  // 1.5 * 2^23
    static constexpr int bias = 127, digits = 23;
};

template <>
struct Exponential<double> {
    static constexpr double q[] = {0.5000000000000010721,    0.16666666666666410234,    0.041666666666529188524,
                                   0.0083333333334956237914, 0.0013888888943922654965,  0.00019841269504765382794,
                                   0.000024801492762781810918, 2.75575873421640255e-6,  2.7630378625210987254e-7,
                                   2.4999965359640574466e-8};
    static constexpr double log2e = 1.44269504088896340736;
    static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
    static constexpr double lowest = -746.0, shift = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr int bias = 1023, digits = 52;
};

// exp(x) for x <= 0: exactly 1 at 0, 0 at minus infinity, NaN for NaN.
template <class T>
PYHAR_INLINE Vec<T> exp_nonpositive(Vec<T> x) {
    using E = Exponential<T>;
    constexpr int degree = static_cast<int>(sizeof(E::q) / sizeof(T)) - 1;
    x = larger<T>(splat<T>(E::lowest), x);
    const Vec<T> shifted = x * splat<T>(E::log2e) + splat<T>(E::shift);
    const Vec<T> n = shifted - splat<T>(E::shift);
    Vec<T> r = x - n * splat<T>(E::ln2_high);
    r = r - n * splat<T>(E::ln2_low);
    Vec<T> q = splat<T>(E::q[degree]);
    PYHAR_UNROLL
    for (int i = degree - 1; i >= 0; --i) q = q * r + splat<T>(E::q[i]);
    const Vec<T> p = (r * r * q + r) + splat<T>(T(1));
#ifdef PYHAR_AVX512
    if constexpr (sizeof(T) == 4) {
        return _mm512_scalef_ps(p, n);
    } else {
        return _mm512_scalef_pd(p, n);
    }
#else
    // 2^n in two factors, either of which is a normal number.
    using Integer = typename Simd<T>::Integer;
    const IVec<T> whole = bits<T>(shifted) - bits<T>(splat<T>(E::shift));
    const IVec<T> half = whole >> 1;
    const IVec<T> rest = whole - half;
    const Vec<T> first = from_bits<T>((half + Integer(E::bias)) << E::digits);
    const Vec<T> second = from_bits<T>((rest + Integer(E::bias)) << E::digits);
    return p * first * second;
#endif
}

// The sigmoid d of x and its slope d(1-d), without loss of digits at either end.
template <class T>
struct Sigmoid {
    Vec<T> value, slope;
};

template <class T>
PYHAR_INLINE Sigmoid<T> sigmoid(Vec<T> x) {
    const Vec<T> z = exp_nonpositive<T>(x > splat<T>(0) ? -x : x);  // exp(-|x|)
    const Vec<T> inverse = splat<T>(1) / (splat<T>(1) + z);
    const Vec<T> below = z * inverse;
    return {x > splat<T>(0) ? inverse : below, below * inverse};
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
