// Products of pixels with packed weights by tiles of 16 x 16 sums (AMX): 16 pixels times 16 outputs, 32 deep a step.
//
// A tile of pixels is read from the maps as they lie, a tile of weights as they are packed.
#pragma once

#include <cstdint>

#include "cpu/unit_product.h"

namespace pyhar {
namespace PYHAR_ISA {

constexpr std::int64_t tile_side = 16, block_pixels = 2 * tile_side;

// Tiles 0 to 3 are sums (two of pixels times two of outputs), 4 and 5 pixels, 6 and 7 weights. While a configuration
// lives, tiles of pixels have as many rows as there are pixels, so that none beyond them is read.
class TileConfiguration {
public:
    // For blocks of `pixels` <= block_pixels.
    explicit TileConfiguration(std::int64_t pixels) {
        struct alignas(64) {
            std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
            std::uint16_t row_bytes[16] = {};
            std::uint8_t rows[16] = {};
        } config;
        const std::int64_t first = pixels < tile_side ? pixels : tile_side, second = pixels - first;
        const std::int64_t rows[8] = {first, first, second, second, first, second, tile_side, tile_side};
        for (int i = 0; i < 8; ++i) {
            config.row_bytes[i] = rows[i] == 0 ? 0 : 64;
            config.rows[i] = static_cast<std::uint8_t>(rows[i]);
        }
        __asm__ volatile("" : : "r"(&config) : "memory");  // GCC 12 takes only its first bytes for read
        _tile_loadconfig(&config);
    }
    ~TileConfiguration() { _tile_release(); }
    TileConfiguration(const TileConfiguration&) = delete;
    TileConfiguration& operator=(const TileConfiguration&) = delete;
};

// Sums of a block of up to 32 pixels times the vectors of outputs [vector, vector + wide), to rows of two vectors.
template <bool tall, bool wide>
PYHAR_INLINE void tile_sums(const Term<BFloat16>* terms, int count, std::int64_t pixel, std::int64_t vector, float* sums) {
    constexpr std::int64_t step_bytes = tile_side * 4, row_bytes = 2 * step_bytes;
    _tile_zero(0);
    if constexpr (wide) _tile_zero(1);
    if constexpr (tall) _tile_zero(2);
    if constexpr (tall && wide) _tile_zero(3);
    for (int t = 0; t < count; ++t) {
        const Term<BFloat16>& term = terms[t];
        const std::int64_t next = term.vector_step(), a_bytes = term.a_step * 2;
        const BFloat16 *a = term.a + pixel * term.a_step, *b = term.b + vector * next;
        const BFloat16* const below = a + tile_side * term.a_step;
        for (std::int64_t k = 0; k < term.depth; k += Factors<BFloat16>::depth) {
            const BFloat16* const ahead = b + (k + 64) * tile_side;
            PYHAR_UNROLL
            for (int i = 0; i < 16; ++i) _mm_prefetch(reinterpret_cast<const char*>(ahead + i * 32), _MM_HINT_T0);
            if constexpr (wide) {
                PYHAR_UNROLL
                for (int i = 0; i < 16; ++i) _mm_prefetch(reinterpret_cast<const char*>(ahead + next + i * 32), _MM_HINT_T0);
            }
            _tile_loadd(6, b + k * tile_side, step_bytes);
            _tile_loadd(4, a + k, a_bytes);
            _tile_dpbf16ps(0, 4, 6);
            if constexpr (wide) {
                _tile_loadd(7, b + next + k * tile_side, step_bytes);
                _tile_dpbf16ps(1, 4, 7);
            }
            if constexpr (tall) {
                _tile_loadd(5, below + k, a_bytes);
                _tile_dpbf16ps(2, 5, 6);
                if constexpr (wide) _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
    _tile_stored(0, sums, row_bytes);
    if constexpr (wide) _tile_stored(1, sums + tile_side, row_bytes);
    if constexpr (tall) _tile_stored(2, sums + tile_side * 2 * tile_side, row_bytes);
    if constexpr (tall && wide) _tile_stored(3, sums + tile_side * 2 * tile_side + tile_side, row_bytes);
}

// All outputs of the `pixels` pixels from `pixel` on, which the configuration is for.
template <bool tall>
void product_block(const Term<BFloat16>* terms, int count, std::int64_t pixel, std::int64_t pixels, std::int64_t outputs,
                   const Finish<BFloat16>& finish) {
    alignas(64) float sums[block_pixels * 2 * tile_side];
    for (std::int64_t first = 0; first < outputs; first += 2 * tile_side) {
        const bool wide = outputs - first > tile_side;
        wide ? tile_sums<tall, true>(terms, count, pixel, first / tile_side, sums)
             : tile_sums<tall, false>(terms, count, pixel, first / tile_side, sums);
        for (std::int64_t c = first; c < outputs && c < first + 2 * tile_side; c += tile_side) {
            const std::int64_t last = outputs - c;
            for (std::int64_t i = 0; i < pixels; ++i) {
                finish.write(load<float>(sums + i * 2 * tile_side + (c - first)), pixel + i, c, last);
            }
        }
    }
}

template <>
inline void product<BFloat16, BFloat16>(const Term<BFloat16>* terms, int count, std::int64_t pixels,
                                        std::int64_t outputs, const Finish<BFloat16>& finish) {
    // The compiler does not know that tiles are read from memory: what was written before must be there.
    __asm__ volatile("" ::: "memory");
    const std::int64_t whole = pixels / block_pixels * block_pixels;
    if (whole > 0) {
        const TileConfiguration configuration(block_pixels);
        for (std::int64_t pixel = 0; pixel < whole; pixel += block_pixels) {
            product_block<true>(terms, count, pixel, block_pixels, outputs, finish);
        }
    }
    if (whole < pixels) {
        const std::int64_t left = pixels - whole;
        const TileConfiguration configuration(left);
        left > tile_side ? product_block<true>(terms, count, whole, left, outputs, finish)
                         : product_block<false>(terms, count, whole, left, outputs, finish);
    }
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
