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

// The sums of a tile go to their place in `to`, rows of two vectors, and begin anew at 0. As above, literals alone.
#define PYHAR_TAKE_SUMS(tile, to)                                                                          \
    _tile_stored(tile, static_cast<char*>(to) + ((tile) / 2 * tile_side * 2 + (tile) % 2) * tile_side * 4, \
                 2 * tile_side * 4);                                                                       \
    _tile_zero(tile)

template <bool tall, bool wide>
PYHAR_INLINE void take_all_sums(void* to) {
    PYHAR_TAKE_SUMS(0, to);
    if constexpr (wide) {
        PYHAR_TAKE_SUMS(1, to);
    }
    if constexpr (tall) {
        PYHAR_TAKE_SUMS(2, to);
    }
    if constexpr (tall && wide) {
        PYHAR_TAKE_SUMS(3, to);
    }
}

// Adds the products of a step: pixels at `a` and `below` with weights at `b` and `beside`. With `take`, what the sums were
// goes to `taken` first, a tile at a time between products of others, which costs next to nothing.
template <bool tall, bool wide, bool take, class S>
PYHAR_INLINE void tile_step(const S* a, const S* below, std::int64_t a_bytes, const S* b, const S* beside, void* taken) {
    constexpr std::int64_t b_bytes = tile_side * 4;
    _tile_loadd(6, b, b_bytes);
    _tile_loadd(4, a, a_bytes);
    if constexpr (take) {
        PYHAR_TAKE_SUMS(0, taken);
    }
    Tiles<S>::upper_left();
    if constexpr (wide) {
        _tile_loadd(7, beside, b_bytes);
        if constexpr (take) {
            PYHAR_TAKE_SUMS(1, taken);
        }
        Tiles<S>::upper_right();
    }
    if constexpr (tall) {
        _tile_loadd(5, below, a_bytes);
        if constexpr (take) {
            PYHAR_TAKE_SUMS(2, taken);
        }
        Tiles<S>::lower_left();
    }
    if constexpr (tall && wide) {
        if constexpr (take) {
            PYHAR_TAKE_SUMS(3, taken);
        }
        Tiles<S>::lower_right();
    }
}

// Weights that are multiplied later, and how far those of the next vector of outputs are from there. Null: nothing is
// brought into the first-level cache, where weights are in the second already.
template <class S>
struct Later {
    const S* b = nullptr;
    std::int64_t next = 0;
};

template <class S>
PYHAR_INLINE Later<S> later(const Term<S>& term, std::int64_t vector) {
    return {term.b + vector * term.vector_step(), term.vector_step()};
}

// Adds to the sums a block of up to 32 pixels times the vectors of outputs [vector, vector + wide]. What they were goes
// to `taken` in the first step, unless that is null. Weights are fetched two steps ahead, those that come `then` too.
// Calls meanwhile() after the other steps, for what can be done while tiles are multiplied.
template <bool tall, bool wide, class S, class Meanwhile>
PYHAR_INLINE void add_to_tiles(const Term<S>& term, std::int64_t pixel, std::int64_t vector, void* taken,
                               const Later<S>& then, const Meanwhile& meanwhile) {
    constexpr std::int64_t depth = Factors<S>::depth;
    const std::int64_t filled = term.filled(), next = term.vector_step();
    const std::int64_t a_bytes = term.a_step * static_cast<std::int64_t>(sizeof(S));
    const S *a = term.a + pixel * term.a_step, *b = term.b + vector * next;
    for (std::int64_t k = 0; k < filled; k += depth, a += depth, b += depth * tile_side) {
        const S* const below = a + tile_side * term.a_step;
        if (then.b != nullptr) {
            const std::int64_t beyond = k + 2 * depth - filled;
            const S* const ahead = beyond < 0 ? b + 2 * depth * tile_side : then.b + beyond * tile_side;
            prefetch_tile(reinterpret_cast<const char*>(ahead));
            if constexpr (wide) prefetch_tile(reinterpret_cast<const char*>(ahead + (beyond < 0 ? next : then.next)));
        }
        if (taken != nullptr && k == 0) {
            tile_step<tall, wide, true>(a, below, a_bytes, b, b + next, taken);
        } else {
            tile_step<tall, wide, false>(a, below, a_bytes, b, b + next, nullptr);
            meanwhile();
        }
    }
}

// The weights that are multiplied after those of term t, if they are worth fetching: those of a kernel's taps serve row
// after row.
template <class S>
PYHAR_INLINE Later<S> after(const Term<S>* terms, int count, int t, std::int64_t vector, std::int64_t following) {
    if (count > 2) return {};
    return t + 1 < count ? later(terms[t + 1], vector) : later(terms[0], following);
}

// Products a block at a time. Of bfloat16, the sums of a block leave the tiles and are finished while the next is
// multiplied.
template <class S, class D>
class Blocks;

template <>
class Blocks<BFloat16, BFloat16> {
public:
    Blocks(const Term<BFloat16>* terms, int count, std::int64_t outputs, const Finish<BFloat16>& finish)
        : terms_(terms), count_(count), outputs_(outputs), finish_(finish) {
        std::int64_t steps = 0;
        for (int t = 0; t < count; ++t) steps += terms[t].filled() / Factors<BFloat16>::depth;
        // All is finished in the steps but the first.
        share_ = steps > 1 ? (block_pixels + steps - 2) / (steps - 1) : block_pixels;
    }

    // All outputs of the `pixels` pixels from `pixel` on, which the configuration is for; `tall`: more than a tile.
    template <bool tall>
    void multiply(std::int64_t pixel, std::int64_t pixels) {
        std::int64_t first = 0;
        for (; outputs_ - first > tile_side; first += 2 * tile_side) multiply<tall, true>(pixel, pixels, first);
        if (first >= outputs_) return;
        end<tall, true>();
        multiply<tall, false>(pixel, pixels, first);
        end<tall, false>();
    }

    // What is left of the last block.
    template <bool tall>
    void end() {
        end<tall, true>();
    }

private:
    template <bool tall, bool wide>
    PYHAR_INLINE void multiply(std::int64_t pixel, std::int64_t pixels, std::int64_t first) {
        const std::int64_t vector = first / tile_side, following = outputs_ - first > 2 * tile_side ? vector + 2 : 0;
        void* taken = unfinished_ > 0 ? sums_ : nullptr;
        if (taken == nullptr) zero_tiles<tall, wide>();
        for (int t = 0; t < count_; ++t, taken = nullptr) {
            add_to_tiles<tall, wide>(terms_[t], pixel, vector, taken, after(terms_, count_, t, vector, following),
                                     [&]() PYHAR_LAMBDA_INLINE { go_on(share_); });
        }
        go_on(unfinished_);
        from_ = sums_, unfinished_ = pixels, pixel_ = pixel, first_ = first;
    }

    template <bool tall, bool wide>
    void end() {
        if (unfinished_ > 0) take_all_sums<tall, wide>(sums_);
        go_on(unfinished_);
    }

    // Finishes so many pixels more.
    PYHAR_INLINE void go_on(std::int64_t count) {
        const std::int64_t last = outputs_ - first_;
        for (; count > 0 && unfinished_ > 0; --count, --unfinished_, ++pixel_, from_ += 2 * tile_side) {
            const Vec<float> sums = load<float>(from_), more = load<float>(from_ + tile_side);
            if (last >= 2 * tile_side) {
                finish_.write_two(sums, more, pixel_, first_);
                continue;
            }
            finish_.write(sums, pixel_, first_, last);
            if (last > tile_side) finish_.write(more, pixel_, first_ + tile_side, last - tile_side);
        }
    }

    const Term<BFloat16>* const terms_;
    const int count_;
    const std::int64_t outputs_;
    const Finish<BFloat16> finish_;
    std::int64_t share_;
    alignas(64) float sums_[block_pixels * 2 * tile_side] = {};
    const float* from_ = sums_;
    std::int64_t unfinished_ = 0, pixel_ = 0, first_ = 0;
};

// Whole numbers become floats after each term.
template <class D>
class Blocks<Byte, D> {
public:
    Blocks(const Term<Byte>* terms, int count, std::int64_t outputs, const Finish<D>& finish)
        : terms_(terms), count_(count), outputs_(outputs), finish_(finish) {}

    template <bool tall>
    void multiply(std::int64_t pixel, std::int64_t pixels) {
        for (std::int64_t first = 0; first < outputs_; first += 2 * tile_side) {
            outputs_ - first > tile_side ? multiply<tall, true>(pixel, pixels, first)
                                         : multiply<tall, false>(pixel, pixels, first);
        }
    }

    template <bool tall>
    void end() {}

private:
    template <bool tall, bool wide>
    PYHAR_INLINE void multiply(std::int64_t pixel, std::int64_t pixels, std::int64_t first_output) {
        alignas(64) std::int32_t whole[block_pixels * 2 * tile_side];
        alignas(64) float sums[block_pixels * 2 * tile_side];
        const std::int64_t vector = first_output / tile_side;
        const std::int64_t following = outputs_ - first_output > 2 * tile_side ? vector + 2 : 0;
        const auto write = [&](std::int64_t i, int v, Vec<float> sum) PYHAR_LAMBDA_INLINE {
            const std::int64_t c = first_output + v * tile_side;
            finish_.write(sum, pixel + i, c, outputs_ - c);
        };
        for (int t = 0; t < count_; ++t) {
            const Term<Byte>& term = terms_[t];
            zero_tiles<tall, wide>();
            add_to_tiles<tall, wide>(term, pixel, vector, nullptr, after(terms_, count_, t, vector, following),
                                     []() PYHAR_LAMBDA_INLINE {});
            take_all_sums<tall, wide>(whole);
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
            const bool first = t == 0, last = t == count_ - 1;
            if (first && last) {
                scaled([&](std::int64_t i, int v, std::int64_t, Vec<float> sum)
                           PYHAR_LAMBDA_INLINE { write(i, v, sum); });
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

    const Term<Byte>* const terms_;
    const int count_;
    const std::int64_t outputs_;
    const Finish<D> finish_;
};

template <class S, class D>
void product_by_tiles(const Term<S>* terms, int count, std::int64_t pixels, std::int64_t outputs,
                      const Finish<D>& finish) {
    // The compiler does not know that tiles are read from memory: what was written before must be there.
    __asm__ volatile("" ::: "memory");
    Blocks<S, D> blocks(terms, count, outputs, finish);
    const std::int64_t whole = pixels / block_pixels * block_pixels, left = pixels - whole;
    if (whole > 0) {
        const TileConfiguration configuration(block_pixels);
        for (std::int64_t pixel = 0; pixel < whole; pixel += block_pixels) {
            blocks.template multiply<true>(pixel, block_pixels);
        }
        blocks.template end<true>();
    }
    if (left > 0) {
        const TileConfiguration configuration(left);
        if (left > tile_side) {
            blocks.template multiply<true>(whole, left);
            blocks.template end<true>();
        } else {
            blocks.template multiply<false>(whole, left);
            blocks.template end<false>();
        }
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
