// Products of pixels with packed weights by tiles of 16 x 16 sums (AMX): 16 pixels times 16 outputs, 32 deep a
// step in bfloat16, 64 in int8.
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

PYHAR_INLINE void prefetch_tile(const char* p) {
    PYHAR_UNROLL
    for (int i = 0; i < 16; ++i) _mm_prefetch(p + i * 64, _MM_HINT_T0);
}

// Each tile of sums += its pixels times its weights. The intrinsics take literals alone.
template <class S>
struct Tiles;

template <>
struct Tiles<BFloat16> {
    static PYHAR_INLINE void upper_left() { _tile_dpbf16ps(0, 4, 6); }
    static PYHAR_INLINE void upper_right() { _tile_dpbf16ps(1, 4, 7); }
    static PYHAR_INLINE void lower_left() { _tile_dpbf16ps(2, 5, 6); }
    static PYHAR_INLINE void lower_right() { _tile_dpbf16ps(3, 5, 7); }
};

template <>
struct Tiles<Byte> {
    static PYHAR_INLINE void upper_left() { _tile_dpbusd(0, 4, 6); }
    static PYHAR_INLINE void upper_right() { _tile_dpbusd(1, 4, 7); }
    static PYHAR_INLINE void lower_left() { _tile_dpbusd(2, 5, 6); }
    static PYHAR_INLINE void lower_right() { _tile_dpbusd(3, 5, 7); }
};

template <bool tall, bool wide>
PYHAR_INLINE void zero_tiles() {
    _tile_zero(0);
    if constexpr (wide) _tile_zero(1);
    if constexpr (tall) _tile_zero(2);
    if constexpr (tall && wide) _tile_zero(3);
}

// Adds to the sums a block of up to 32 pixels times the vectors of outputs [vector, vector + wide].
template <bool tall, bool wide, class S>
PYHAR_INLINE void add_to_tiles(const Term<S>& term, std::int64_t pixel, std::int64_t vector) {
    constexpr std::int64_t step_bytes = tile_side * 4, depth = Factors<S>::depth;
    const std::int64_t next = term.vector_step(), a_bytes = term.a_step * static_cast<std::int64_t>(sizeof(S));
    const S *a = term.a + pixel * term.a_step, *b = term.b + vector * next;
    const S* const below = a + tile_side * term.a_step;
    for (std::int64_t k = 0; k < term.depth; k += depth) {
        const S* const ahead = b + (k + 2 * depth) * tile_side;
        prefetch_tile(reinterpret_cast<const char*>(ahead));
        if constexpr (wide) prefetch_tile(reinterpret_cast<const char*>(ahead + next));
        _tile_loadd(6, b + k * tile_side, step_bytes);
        _tile_loadd(4, a + k, a_bytes);
        Tiles<S>::upper_left();
        if constexpr (wide) {
            _tile_loadd(7, b + next + k * tile_side, step_bytes);
            Tiles<S>::upper_right();
        }
        if constexpr (tall) {
            _tile_loadd(5, below + k, a_bytes);
            Tiles<S>::lower_left();
            if constexpr (wide) Tiles<S>::lower_right();
        }
    }
}

// The sums, to rows of two vectors.
template <bool tall, bool wide, class T>
PYHAR_INLINE void store_tiles(T* sums) {
    constexpr std::int64_t row_bytes = 2 * tile_side * 4;
    _tile_stored(0, sums, row_bytes);
    if constexpr (wide) _tile_stored(1, sums + tile_side, row_bytes);
    if constexpr (tall) _tile_stored(2, sums + tile_side * 2 * tile_side, row_bytes);
    if constexpr (tall && wide) _tile_stored(3, sums + tile_side * 2 * tile_side + tile_side, row_bytes);
}

// Calls write(pixel, vector, sums) for a block of up to 32 pixels times the vectors of outputs [vector, vector + wide].
template <bool tall, bool wide, class Write>
PYHAR_INLINE void tile_sums(const Term<BFloat16>* terms, int count, std::int64_t pixel, std::int64_t pixels,
                            std::int64_t vector, const Write& write) {
    alignas(64) float sums[block_pixels * 2 * tile_side];
    zero_tiles<tall, wide>();
    for (int t = 0; t < count; ++t) add_to_tiles<tall, wide>(terms[t], pixel, vector);
    store_tiles<tall, wide>(sums);
    for (int v = 0; v <= int{wide}; ++v) {
        for (std::int64_t i = 0; i < pixels; ++i) write(i, v, load<float>(sums + (2 * i + v) * tile_side));
    }
}

// Whole numbers become floats after each term.
template <bool tall, bool wide, class Write>
PYHAR_INLINE void tile_sums(const Term<Byte>* terms, int count, std::int64_t pixel, std::int64_t pixels,
                            std::int64_t vector, const Write& write) {
    alignas(64) std::int32_t whole[block_pixels * 2 * tile_side];
    alignas(64) float sums[block_pixels * 2 * tile_side];
    for (int t = 0; t < count; ++t) {
        const Term<Byte>& term = terms[t];
        zero_tiles<tall, wide>();
        add_to_tiles<tall, wide>(term, pixel, vector);
        store_tiles<tall, wide>(whole);
        const auto scaled = [&](const auto& use) PYHAR_LAMBDA_INLINE {
            for (int v = 0; v <= int{wide}; ++v) {
                const Vec<float> scales = term.output_scales(vector + v);
                const Integers excess = term.excess(vector + v);
                for (std::int64_t i = 0; i < pixels; ++i) {
                    const std::int64_t at = (2 * i + v) * tile_side;
                    const float scale = term.scale[(pixel + i) * term.scale_step];
                    use(i, v, at, to_floats(load_integers(whole + at) - excess) * (splat<float>(scale) * scales));
                }
            }
        };
        const bool first = t == 0, last = t == count - 1;
        if (first && last) {
            scaled([&](std::int64_t i, int v, std::int64_t, Vec<float> sum) PYHAR_LAMBDA_INLINE { write(i, v, sum); });
        } else if (last) {
            scaled([&](std::int64_t i, int v, std::int64_t at, Vec<float> sum) PYHAR_LAMBDA_INLINE {
                write(i, v, load<float>(sums + at) + sum);
            });
        } else {
            scaled([&](std::int64_t, int, std::int64_t at, Vec<float> sum) PYHAR_LAMBDA_INLINE {
                store<float>(sums + at, first ? sum : load<float>(sums + at) + sum);
            });
        }
    }
}

// All outputs of the `pixels` pixels from `pixel` on, which the configuration is for.
template <bool tall, class S, class D>
void product_block(const Term<S>* terms, int count, std::int64_t pixel, std::int64_t pixels, std::int64_t outputs,
                   const Finish<D> finish) {
    for (std::int64_t first = 0; first < outputs; first += 2 * tile_side) {
        const auto write = [&](std::int64_t i, int v, Vec<float> sum) PYHAR_LAMBDA_INLINE {
            const std::int64_t c = first + v * tile_side;
            finish.write(sum, pixel + i, c, outputs - c);
        };
        const std::int64_t vector = first / tile_side;
        outputs - first > tile_side ? tile_sums<tall, true>(terms, count, pixel, pixels, vector, write)
                                    : tile_sums<tall, false>(terms, count, pixel, pixels, vector, write);
    }
}

template <class S, class D>
void product_by_tiles(const Term<S>* terms, int count, std::int64_t pixels, std::int64_t outputs,
                      const Finish<D>& finish) {
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

template <>
inline void product<BFloat16, BFloat16>(const Term<BFloat16>* terms, int count, std::int64_t pixels,
                                        std::int64_t outputs, const Finish<BFloat16>& finish) {
    product_by_tiles(terms, count, pixels, outputs, finish);
}

template <class D>
void product(const Term<Byte>* terms, int count, std::int64_t pixels, std::int64_t outputs, const Finish<D>& finish) {
    product_by_tiles(terms, count, pixels, outputs, finish);
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
