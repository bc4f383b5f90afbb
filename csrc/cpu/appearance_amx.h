// The products of the appearance (products.h) with features in bfloat16, by tiles of 16 x 16 sums (AMX).
//
// Features are factors as they lie, or two rows of them interleaved. The other factor, a row for each joint, is
// float32: it is split into the nearest bfloat16 and the nearest of the rest, and both are multiplied, so that no more
// is lost than in float32. Gradients from above are bfloat16 from the beginning.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/parallel.h"
#include "cpu/problem.h"
#include "cpu/scratch.h"
#include "cpu/transpose.h"
#include "cpu/unit_product.h"

namespace pyhar {
namespace PYHAR_ISA {

constexpr std::int64_t tile_depth = Factors<BFloat16>::depth;  // numbers in a row of a tile
constexpr std::int64_t rows_of_work = 3 * block_pixels;        // rows of features that are one piece of work,
constexpr std::int64_t columns_of_work = 256;                  // and columns
constexpr std::int64_t interleaved_rows = 96;                  // so many rows of them stay in the second-level cache

PYHAR_INLINE std::int64_t rounded(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

PYHAR_INLINE const float* as_floats(const BFloat16* pairs) { return reinterpret_cast<const float*>(pairs); }
PYHAR_INLINE float* as_floats(BFloat16* pairs) { return reinterpret_cast<float*>(pairs); }

// What the rows of a narrow factor are: the joints' alone, the joints' and their remainders', the joints' twice.
enum class Rows { alone, split, twice };

// m (joints, columns) in bfloat16, each row times its factor if there are any, filled up with zeros. If `tiled`, the
// rows are 16 joints, then what stands beside them, then the next 16 joints and so on, filled up to whole 16.
struct JointRows {
    std::int64_t parts, count, step;
    BFloat16* rows;

    JointRows(const float* m, std::int64_t m_step, std::int64_t joints, std::int64_t columns, Rows what, bool tiled,
              const float* factors = nullptr)
        : parts(what == Rows::alone ? 1 : 2),
          count((tiled ? rounded(joints, tile_side) : joints) * parts),
          step(spread<BFloat16>(rounded(columns, tile_depth))),
          rows(scratch<BFloat16>(count * step)) {
        for (std::int64_t j = 0; j < count / parts; ++j) {
            BFloat16* const high = rows + (tiled ? j / tile_side * parts * tile_side + j % tile_side : j) * step;
            BFloat16* const low = high + (tiled ? tile_side : joints) * step;
            std::int64_t i = 0;
            for (; j < joints && i < columns; i += lanes<float>) {
                const std::int64_t n = columns - i < lanes<float> ? columns - i : lanes<float>;
                Vec<float> v = load_first<float>(m + j * m_step + i, n, 0.0f);
                if (factors != nullptr) v *= splat<float>(factors[j]);
                const __m256i nearest = narrow_words(v);
                store_words(high + i, nearest);
                if (what == Rows::split) store_words(low + i, narrow_words(rest(v, widen_words(nearest))));
                if (what == Rows::twice) store_words(low + i, nearest);
            }
            std::memset(static_cast<void*>(high + i), 0, sizeof(BFloat16) * (step - i));
            if (parts == 2) std::memset(static_cast<void*>(low + i), 0, sizeof(BFloat16) * (step - i));
        }
    }

private:
    static PYHAR_INLINE void store_words(BFloat16* to, __m256i words) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), words);
    }

    // What `nearest` lacks of v; nothing where it is infinite.
    static PYHAR_INLINE Vec<float> rest(Vec<float> v, Vec<float> nearest) {
        constexpr int infinite = 0x18;  // either sign
        __m512 all, near;
        std::memcpy(&all, &v, sizeof all);
        std::memcpy(&near, &nearest, sizeof near);
        const __mmask16 finite = static_cast<__mmask16>(~_mm512_fpclass_ps_mask(near, infinite));
        const __m512 left = _mm512_maskz_sub_ps(finite, all, near);
        std::memcpy(&v, &left, sizeof v);
        return v;
    }
};

PYHAR_INLINE __m512i interleaved(__m256i first, __m256i second) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}

// A matrix (rows, columns) packed as unit.h has it, its rows being the depth: [columns / 16][filled / 2][16][2].
inline void pack_rows(const BFloat16* from, std::int64_t from_step, std::int64_t rows, std::int64_t columns,
                      BFloat16* to) {
    const std::int64_t filled = rounded(rows, tile_depth), vector = filled * tile_side;
    for (std::int64_t u = 0; u < rows; u += 2) {
        const BFloat16 *first = from + u * from_step, *second = first + from_step;
        const bool both = u + 1 < rows;
        BFloat16* p = to + u * tile_side;
        std::int64_t w = 0;
        for (; both && w + 2 * tile_side <= columns; w += 2 * tile_side, p += 2 * vector) {
            const __m512i a = _mm512_loadu_si512(first + w), b = _mm512_loadu_si512(second + w);
            _mm512_storeu_si512(p, interleaved(_mm512_castsi512_si256(a), _mm512_castsi512_si256(b)));
            _mm512_storeu_si512(p + vector,
                                interleaved(_mm512_extracti64x4_epi64(a, 1), _mm512_extracti64x4_epi64(b, 1)));
        }
        for (; w < columns; w += tile_side, p += vector) {
            const std::int64_t n = columns - w;
            const __mmask16 mask = static_cast<__mmask16>(n < tile_side ? (1u << n) - 1 : 0xffff);
            const __m256i b = both ? _mm256_maskz_loadu_epi16(mask, second + w) : _mm256_setzero_si256();
            _mm512_storeu_si512(p, interleaved(_mm256_maskz_loadu_epi16(mask, first + w), b));
        }
    }
    const std::int64_t done = rounded(rows, 2);
    for (std::int64_t v = 0; v * tile_side < columns && done < filled; ++v) {
        std::memset(static_cast<void*>(to + v * vector + done * tile_side), 0,
                    sizeof(BFloat16) * (filled - done) * tile_side);
    }
}

// The sum of products with factors and of those with their remainders; where the first is infinite or no number, that.
PYHAR_INLINE Vec<float> joined(const float* high, const float* low) {
    constexpr int not_finite = 0x99;
    const __m512 sum = _mm512_load_ps(high);
    const __mmask16 finite = static_cast<__mmask16>(~_mm512_fpclass_ps_mask(sum, not_finite));
    return _mm512_mask_add_ps(sum, finite, sum, _mm512_load_ps(low));
}

// Sums of a block of 32 pixels, or 16 unless `tall`, times one or two vectors of outputs, to rows of two vectors.
template <bool tall, bool wide>
PYHAR_INLINE void tile_sums(const Term<BFloat16>* terms, int count, std::int64_t pixel, std::int64_t vector,
                            float* sums) {
    zero_tiles<tall, wide>();
    for (int t = 0; t < count; ++t) {
        add_to_tiles<tall, wide>(terms[t], pixel, vector, nullptr, later(terms[t], vector), []() PYHAR_LAMBDA_INLINE {});
    }
    take_all_sums<tall, wide>(sums);
}

template <bool tall>
PYHAR_INLINE void sums_of(const Term<BFloat16>* terms, int count, std::int64_t pixel, std::int64_t vector, bool wide,
                          float* sums) {
    wide ? tile_sums<tall, true>(terms, count, pixel, vector, sums)
         : tile_sums<tall, false>(terms, count, pixel, vector, sums);
}

// out[j][i] = the sums of a joint and of its remainders, or that added. `sums` are rows of 32: of joints, then of their
// remainders if `tall`.
PYHAR_INLINE void write_sums(const float* sums, bool tall, std::int64_t joints, std::int64_t columns, float* out,
                             std::int64_t out_step, bool add) {
    for (std::int64_t j = 0; j < joints; ++j) {
        for (std::int64_t c = 0; c < columns; c += lanes<float>) {
            const std::int64_t n = columns - c < lanes<float> ? columns - c : lanes<float>;
            const float* const high = sums + j * 2 * tile_side + c;
            Vec<float> v = tall ? joined(high, high + tile_side * 2 * tile_side) : load<float>(high);
            float* const to = out + j * out_step + c;
            if (add) v += load_first<float>(to, n, 0.0f);
            store_first<float>(to, v, n);
        }
    }
}

// O[j][w] = sum over u of M[j][u] * F[u][w] for w in [begin, end) and u < rows; m is tiled.
inline void tiles_over_rows(const BFloat16* features, std::int64_t step, std::int64_t rows, std::int64_t begin,
                            std::int64_t end, const JointRows& m, std::int64_t joints, float* out,
                            std::int64_t out_step) {
    const Frame frame;
    const TileConfiguration configuration(block_pixels);
    BFloat16* const packed = scratch<BFloat16>(interleaved_rows * columns_of_work);
    alignas(64) float sums[block_pixels * 2 * tile_side];
    const bool split = m.parts == 2;
    for (std::int64_t w = begin; w < end; w += columns_of_work) {
        const std::int64_t columns = end - w < columns_of_work ? end - w : columns_of_work;
        for (std::int64_t u = 0; u < rows; u += interleaved_rows) {
            const std::int64_t height = rows - u < interleaved_rows ? rows - u : interleaved_rows;
            pack_rows(features + u * step + w, step, height, columns, packed);
            __asm__ volatile("" ::: "memory");  // the compiler does not know that tiles are read from memory
            for (std::int64_t j = 0; j < joints; j += tile_side) {
                const Term<BFloat16> term{m.rows + j * m.parts * m.step + u, m.step, packed, height};
                for (std::int64_t c = 0; c < columns; c += 2 * tile_side) {
                    split ? sums_of<true>(&term, 1, 0, c / tile_side, columns - c > tile_side, sums)
                          : sums_of<false>(&term, 1, 0, c / tile_side, columns - c > tile_side, sums);
                    write_sums(sums, split, joints - j < tile_side ? joints - j : tile_side,
                               columns - c < 2 * tile_side ? columns - c : 2 * tile_side,
                               out + j * out_step + (w - begin) + c, out_step, u > 0);
                }
            }
        }
    }
}

// The factors that tiles_over_columns takes: tiled rows M packed with its columns as depth, the last incomplete tile by
// itself.
struct JointColumns {
    std::int64_t parts, vectors, whole, left;
    BFloat16 *packed, *last;

    JointColumns(const JointRows& m, std::int64_t columns)
        : parts(m.parts),
          vectors(m.count / tile_side),
          whole(columns / tile_depth * tile_depth),
          left(columns - whole),
          packed(scratch<BFloat16>(vectors * whole * tile_side)),
          last(left == 0 ? nullptr : scratch<BFloat16>(vectors * tile_depth * tile_side)) {
        for (std::int64_t v = 0; v < vectors; ++v) {
            const BFloat16* const rows = m.rows + v * tile_side * m.step;
            transpose<float>(as_floats(rows), m.step / 2, tile_side, whole / 2,
                             as_floats(packed + v * whole * tile_side), tile_side);
            if (left == 0) continue;
            transpose<float>(as_floats(rows + whole), m.step / 2, tile_side, tile_depth / 2,
                             as_floats(last + v * tile_depth * tile_side), tile_side);
        }
    }
};

// O[j][u] = sum over w of F[u][w] * M[j][w] for u in [begin, end) and all columns.
inline void tiles_over_columns(const BFloat16* features, std::int64_t step, std::int64_t begin, std::int64_t end,
                               const JointColumns& m, std::int64_t joints, float* out, std::int64_t out_step) {
    const Frame frame;
    const TileConfiguration configuration(block_pixels);
    BFloat16* const whole = scratch<BFloat16>(m.whole * block_pixels);
    BFloat16* const rest = scratch<BFloat16>(tile_depth * block_pixels);
    std::memset(static_cast<void*>(rest), 0, sizeof(BFloat16) * tile_depth * block_pixels);
    alignas(64) float sums[block_pixels * 2 * tile_side];
    float* const by_joint = scratch<float>(2 * tile_side * block_pixels);
    for (std::int64_t u = begin; u < end; u += block_pixels) {
        const std::int64_t rows = end - u < block_pixels ? end - u : block_pixels;
        const BFloat16* const from = features + u * step;
        Term<BFloat16> terms[2];
        int count = 0;
        if (m.whole > 0) {
            terms[count] = {from, step, m.packed, m.whole};
            if (rows < block_pixels) {
                std::memset(static_cast<void*>(whole), 0, sizeof(BFloat16) * m.whole * block_pixels);
                for (std::int64_t i = 0; i < rows; ++i) {
                    std::memcpy(whole + i * m.whole, from + i * step, sizeof(BFloat16) * m.whole);
                }
                terms[count].a = whole, terms[count].a_step = m.whole;
            }
            ++count;
        }
        if (m.left > 0) {
            for (std::int64_t i = 0; i < block_pixels; ++i) {
                if (i < rows) {
                    std::memcpy(rest + i * tile_depth, from + i * step + m.whole, sizeof(BFloat16) * m.left);
                } else {
                    std::memset(static_cast<void*>(rest + i * tile_depth), 0, sizeof(BFloat16) * m.left);
                }
            }
            terms[count++] = {rest, tile_depth, m.last, tile_depth};
        }
        __asm__ volatile("" ::: "memory");  // the compiler does not know that tiles are read from memory
        for (std::int64_t v = 0; v < m.vectors; v += 2) {
            const bool wide = v + 1 < m.vectors;
            sums_of<true>(terms, count, 0, v, wide, sums);
            // Columns of the sums are joints, or joints and their remainders.
            const std::int64_t first = v / m.parts * tile_side;
            if (m.parts == 2) {
                for (std::int64_t i = 0; i < block_pixels; ++i) {
                    float* const row = sums + i * 2 * tile_side;
                    store<float>(row, joined(row, row + tile_side));
                }
            }
            const std::int64_t held = (m.parts == 2 || !wide ? 1 : 2) * tile_side;
            transpose<float>(sums, 2 * tile_side, block_pixels, held, by_joint, block_pixels);
            for (std::int64_t j = first; j < joints && j < first + held; ++j) {
                std::memcpy(out + j * out_step + (u - begin), by_joint + (j - first) * block_pixels, sizeof(float) * rows);
            }
        }
    }
}

// The factors of the outer product: L with its rows as depth, a row for each u, and R packed.
struct OuterFactors {
    std::int64_t depth;
    BFloat16 *left, *right;

    OuterFactors(const JointRows& l, std::int64_t rows, const JointRows& r, std::int64_t columns)
        : depth(rounded(l.count, tile_depth)),
          left(scratch<BFloat16>(rounded(rows, block_pixels) * depth)),
          right(scratch<BFloat16>(rounded(columns, tile_side) * depth)) {
        pack_rows(r.rows, r.step, r.count, columns, right);
        const Frame frame;
        BFloat16* const packed = scratch<BFloat16>(rounded(rows, tile_side) * depth);
        pack_rows(l.rows, l.step, l.count, rows, packed);
        const std::int64_t filled = rounded(rows, block_pixels);
        for (std::int64_t u = 0; u < rows; u += tile_side) {
            transpose<float>(as_floats(packed + u * depth), tile_side, depth / 2, tile_side, as_floats(left + u * depth),
                             depth / 2);
        }
        const std::int64_t done = rounded(rows, tile_side);
        std::memset(static_cast<void*>(left + done * depth), 0, sizeof(BFloat16) * (filled - done) * depth);
    }
};

// Rows of 32 sums, or of the first n, as bfloat16, past the caches if asked.
PYHAR_INLINE void write_words(const float* sums, std::int64_t rows, std::int64_t n, BFloat16* to, std::int64_t step,
                              bool past) {
    const __mmask32 mask = n < 2 * tile_side ? (1u << n) - 1 : ~0u;
    for (std::int64_t i = 0; i < rows; ++i, sums += 2 * tile_side, to += step) {
        const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_load_ps(sums + tile_side), _mm512_load_ps(sums));
        __m512i words;
        std::memcpy(&words, &both, sizeof words);
        if (past && n >= 2 * tile_side) {
            _mm512_stream_si512(reinterpret_cast<__m512i*>(to), words);
        } else {
            _mm512_mask_storeu_epi16(to, mask, words);
        }
    }
}

// G[u][w] = sum over k of left[u][k] * right[k][w] for u in [begin, end), a multiple of 32 or the end, and w < columns,
// written past the caches if it is `large`.
inline void tiles_outer(BFloat16* gradient, std::int64_t step, std::int64_t begin, std::int64_t end, std::int64_t columns,
                        const OuterFactors& factors, bool large) {
    const TileConfiguration configuration(block_pixels);
    // Of this block and the one before, which is written meanwhile.
    alignas(64) float sums[2][block_pixels * 2 * tile_side];
    const bool past = large && reinterpret_cast<std::uintptr_t>(gradient) % 64 == 0 && step % tile_depth == 0;
    const Term<BFloat16> term{factors.left, factors.depth, factors.right, factors.depth};
    const std::int64_t across = (columns + 2 * tile_side - 1) / (2 * tile_side);
    const std::int64_t blocks = (end - begin + block_pixels - 1) / block_pixels * across;
    __asm__ volatile("" ::: "memory");  // the compiler does not know that tiles are read from memory
    for (std::int64_t block = 0; block <= blocks; ++block) {
        if (block < blocks) {
            const std::int64_t u = begin + block / across * block_pixels, w = block % across * 2 * tile_side;
            sums_of<true>(&term, 1, u, w / tile_side, columns - w > tile_side, sums[block % 2]);
        }
        if (block == 0) continue;
        const std::int64_t u = begin + (block - 1) / across * block_pixels, w = (block - 1) % across * 2 * tile_side;
        const std::int64_t rows = end - u < block_pixels ? end - u : block_pixels;
        write_words(sums[(block - 1) % 2], rows, columns - w, gradient + u * step + w, step, past);
    }
    if (large) _mm_sfence();
}

// Calls body(begin, end) for pieces of [0, count).
template <class Body>
void shared_out(std::int64_t count, std::int64_t piece, bool parallel, const Body& body) {
    const std::int64_t pieces = (count + piece - 1) / piece;
    auto range = [&](std::int64_t begin, std::int64_t end) {
        body(begin * piece, end * piece < count ? end * piece : count);
    };
    const int threads = parallel ? max_threads() : 1;
    parallel_for(pieces, parallel ? 1 : pieces, threads, range);
}

inline const BFloat16* words(const void* map) { return static_cast<const BFloat16*>(map); }

inline void tile_appearance_forward(const WordImage& image, const float* e, std::int64_t e_step, std::int64_t joints, float* v,
                                    std::int64_t v_step, bool parallel) {
    const Frame frame;
    const JointRows rows(e, e_step, joints, image.pixels, Rows::split, true);
    const BFloat16* const features = words(image.features);
    if (image.by_pixel) {
        shared_out(image.channels, columns_of_work, parallel, [&](std::int64_t begin, std::int64_t end) {
            tiles_over_rows(features, image.step, image.pixels, begin, end, rows, joints, v + begin, v_step);
        });
        return;
    }
    const JointColumns columns(rows, image.pixels);
    shared_out(image.channels, rows_of_work, parallel, [&](std::int64_t begin, std::int64_t end) {
        tiles_over_columns(features, image.step, begin, end, columns, joints, v + begin, v_step);
    });
}

inline void tile_appearance_backward(const WordImage& image, const float* e, std::int64_t e_step, const float* r,
                                     const float* g, std::int64_t g_step, std::int64_t joints, float* s,
                                     std::int64_t s_step, bool parallel, bool large) {
    const Frame frame;
    if (s != nullptr) {
        const JointRows rows(g, g_step, joints, image.channels, Rows::alone, true);
        const BFloat16* const features = words(image.features);
        if (image.by_pixel) {
            const JointColumns columns(rows, image.channels);
            shared_out(image.pixels, rows_of_work, parallel, [&](std::int64_t begin, std::int64_t end) {
                tiles_over_columns(features, image.step, begin, end, columns, joints, s + begin, s_step);
            });
        } else {
            shared_out(image.pixels, columns_of_work, parallel, [&](std::int64_t begin, std::int64_t end) {
                tiles_over_rows(features, image.step, image.channels, begin, end, rows, joints, s + begin, s_step);
            });
        }
    }
    if (image.gradient == nullptr) return;
    const JointRows probabilities(e, e_step, joints, image.pixels, Rows::split, false, r);
    const JointRows upstream(g, g_step, joints, image.channels, Rows::twice, false);
    const std::int64_t rows = image.by_pixel ? image.pixels : image.channels;
    const std::int64_t columns = image.by_pixel ? image.channels : image.pixels;
    const OuterFactors factors(image.by_pixel ? probabilities : upstream, rows, image.by_pixel ? upstream : probabilities,
                               columns);
    BFloat16* const gradient = static_cast<BFloat16*>(image.gradient);
    shared_out(rows, rows_of_work, parallel, [&](std::int64_t begin, std::int64_t end) {
        tiles_outer(gradient, image.gradient_step, begin, end, columns, factors, large);
    });
}

constexpr TileAppearance tile_appearance = {&tile_appearance_forward, &tile_appearance_backward};

}  // namespace PYHAR_ISA
}  // namespace pyhar
