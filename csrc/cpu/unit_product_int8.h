// Products in int8: pixels as bytes with a scale for each pixel or row of pixels, weights as int8 with a scale for each
// output. Sums are whole numbers within a term, and scaled at its end.
#pragma once

#include <cstdint>

#include "cpu/scratch.h"
#include "cpu/unit_product.h"

namespace pyhar {
namespace PYHAR_ISA {

// A factor of a pixel, 0 to 255 times its scale; of signed pixels -127 to 127 times the scale, and 128 added.
struct Byte {
    std::uint8_t value;
};

using Integers = IVec<float>;

PYHAR_INLINE Integers load_integers(const void* p) {
    Integers v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

#ifdef PYHAR_AVX512
PYHAR_INLINE Vec<float> to_floats(Integers v) { return _mm512_cvtepi32_ps((__m512i)v); }
PYHAR_INLINE Integers larger_integers(Integers a, Integers b) {
    return (Integers)_mm512_max_epi32((__m512i)a, (__m512i)b);
}
PYHAR_INLINE std::int32_t largest_integer(Integers v) { return _mm512_reduce_max_epi32((__m512i)v); }
PYHAR_INLINE void store_bytes(Byte* to, Vec<float> v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(v)));
}
PYHAR_INLINE Integers add_products(Integers sum, std::int32_t bytes, Integers weights) {
    return (Integers)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(bytes), (__m512i)weights);
}
#else
PYHAR_INLINE Vec<float> to_floats(Integers v) { return _mm256_cvtepi32_ps((__m256i)v); }
PYHAR_INLINE Integers larger_integers(Integers a, Integers b) {
    return (Integers)_mm256_max_epi32((__m256i)a, (__m256i)b);
}
PYHAR_INLINE std::int32_t largest_integer(Integers v) {
    __m128i most = _mm_max_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0x4e));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0xb1));
    return _mm_cvtsi128_si32(most);
}
PYHAR_INLINE void store_bytes(Byte* to, Vec<float> v) {
    const __m256i whole = _mm256_cvtps_epi32(v);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
}
PYHAR_INLINE Integers add_products(Integers sum, std::int32_t bytes, Integers weights) {
    return (Integers)_mm256_dpbusd_avx_epi32((__m256i)sum, _mm256_set1_epi32(bytes), (__m256i)weights);
}
#endif

template <>
struct Factors<Byte> {
#ifdef PYHAR_AMX
    static constexpr std::int64_t group = 4, depth = 64;
#else
    static constexpr std::int64_t group = 4, depth = 4;
#endif
    using Row = Integers;
    static PYHAR_INLINE Row row(const Byte* b) { return load_integers(b); }
    static PYHAR_INLINE void add(Integers& sum, const Byte* a, const Row& b) {
        std::int32_t four;
        std::memcpy(&four, a, sizeof four);
        sum = add_products(sum, four, b);
    }
};

// Pixel i has the scale scale[i * scale_step]. Behind the weights of each vector of outputs lie their scales, and 128
// times their sums, which signed pixels have too much.
template <>
struct Term<Byte> {
    const Byte* a;
    std::int64_t a_step;
    const Byte* b;
    std::int64_t depth;
    const float* scale;
    std::int64_t scale_step;
    bool is_signed;

    std::int64_t filled() const {
        return (depth + Factors<Byte>::depth - 1) / Factors<Byte>::depth * Factors<Byte>::depth;
    }
    std::int64_t vector_step() const { return (filled() + 8) * lanes<float>; }
    Term from(std::int64_t pixel) const {
        return {a + pixel * a_step, a_step, b, depth, scale + pixel * scale_step, scale_step, is_signed};
    }
    Vec<float> output_scales(std::int64_t vector) const {
        return load<float>(reinterpret_cast<const float*>(b + (vector + 1) * vector_step() - 8 * lanes<float>));
    }
    Integers excess(std::int64_t vector) const {
        return is_signed ? load_integers(b + (vector + 1) * vector_step() - 4 * lanes<float>) : Integers{};
    }
};

template <int pixels, int vectors>
PYHAR_INLINE void add_term(const Term<Byte>& term, std::int64_t pixel, std::int64_t vector,
                           Vec<float> (&sum)[pixels][vectors]) {
    Integers whole[pixels][vectors];
    PYHAR_UNROLL
    for (int v = 0; v < vectors; ++v) {
        const Integers start = -term.excess(vector + v);
        PYHAR_UNROLL
        for (int i = 0; i < pixels; ++i) whole[i][v] = start;
    }
    multiply(term, pixel, vector, whole);
    PYHAR_UNROLL
    for (int v = 0; v < vectors; ++v) {
        const Vec<float> scales = term.output_scales(vector + v);
        PYHAR_UNROLL
        for (int i = 0; i < pixels; ++i) {
            const float scale = term.scale[(pixel + i) * term.scale_step];
            sum[i][v] += to_floats(whole[i][v]) * (splat<float>(scale) * scales);
        }
    }
}

// The largest magnitude of what it sees, as bits, which order like magnitudes: NaN above infinity above numbers.
class Magnitude {
public:
    PYHAR_INLINE void see(Vec<float> v) { bits_ = larger_integers(bits_, bits<float>(v) & 0x7fffffff); }
    void see_all(const float* pixel, std::int64_t channels) {
        for (std::int64_t c = 0; c < channels; c += lanes<float>) see(load<float>(pixel + c));
    }
    float largest() const { return float_of(static_cast<std::uint32_t>(largest_integer(bits_))); }

private:
    Integers bits_{};
};

// How numbers up to a magnitude become bytes.
class Quantisation {
public:
    Quantisation(float largest, bool is_signed) : offset_(is_signed ? 128.0f : 0.0f) {
        const float most = is_signed ? 127.0f : 255.0f;
        const bool tiny = largest < 1e-30f;  // the inverse of its scale would be infinite
        inverse_ = tiny ? 0.0f : most / largest;
        // What is not finite makes NaN of all that is multiplied.
        scale_ = tiny ? 0.0f : largest / most + (largest - largest);
    }
    float scale() const { return scale_; }

    // A pixel: whole vectors.
    void write(const float* from, std::int64_t channels, Byte* to) const {
        const Vec<float> inverse = splat<float>(inverse_), offset = splat<float>(offset_);
        for (std::int64_t c = 0; c < channels; c += lanes<float>) {
            store_bytes(to + c, load<float>(from + c) * inverse + offset);
        }
    }

private:
    float offset_, inverse_, scale_;
};

// Pixels as bytes, each with a scale of its own.
class BytePixels {
public:
    BytePixels(std::int64_t channels, std::int64_t most_pixels, bool is_signed)
        : channels_(channels),
          step_(spread<Byte>(channels)),
          is_signed_(is_signed),
          bytes_(scratch<Byte>(most_pixels * step_)),
          scales_(scratch<float>(most_pixels)) {}

    void write(std::int64_t i, const float* from, float largest) const {
        const Quantisation quantisation(largest, is_signed_);
        quantisation.write(from, channels_, bytes_ + i * step_);
        scales_[i] = quantisation.scale();
    }
    Term<Byte> term(const void* weight) const {
        return {bytes_, step_, static_cast<const Byte*>(weight), channels_, scales_, 1, is_signed_};
    }

private:
    const std::int64_t channels_, step_;
    const bool is_signed_;
    Byte* const bytes_;
    float* const scales_;
};

}  // namespace PYHAR_ISA
}  // namespace pyhar
