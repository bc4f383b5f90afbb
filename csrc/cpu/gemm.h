// Products of small matrices, a tile of the result at a time in registers.
#pragma once

#include <utility>

#include "cpu/simd.h"

namespace pyhar {
namespace PYHAR_ISA {

// Rows of a tile; with two vectors in a row, its sums just fit the registers.
#ifdef PYHAR_AVX512
constexpr int tile_rows = 12;
#else
constexpr int tile_rows = 6;
#endif

// Columns of a panel of features that is worked on in the first-level cache, and the step between its rows, which is
// not a multiple of a page.
constexpr std::int64_t panel_columns = 256;
template <class T>
constexpr std::int64_t panel_step = panel_columns + lanes<T>;

// What becomes of a product: it is written over C, added to it, or written past the caches. The last spares reading
// what is overwritten, and leaves the caches to what is read again; C must be aligned to vectors.
enum class Write { over, add, stream };

// C[i][n] = sum over k of A(k, i) * B[k][n], or that added to C, for `rows` i and `repeats` times `vectors` vectors of
// n, the last of which has `last` columns if `partial`. A(k, i) is a[k*a_step + i]. With `fetch`, rows like those of B
// at `ahead` are brought into the cache on the way.
template <class T, int rows, int vectors, bool partial, bool fetch>
PYHAR_NOINLINE void tile(std::int64_t depth, const T* PYHAR_RESTRICT a, std::int64_t a_step, const T* PYHAR_RESTRICT b,
                         std::int64_t b_step, T* PYHAR_RESTRICT c, std::int64_t c_step, Write write,
                         std::int64_t repeats, std::int64_t last, const T* ahead) {
    for (std::int64_t repeat = 0; repeat < repeats; ++repeat, b += vectors * lanes<T>, c += vectors * lanes<T>) {
        Vec<T> sum[rows][vectors];
        PYHAR_UNROLL
        for (int i = 0; i < rows; ++i) {
            PYHAR_UNROLL
            for (int v = 0; v < vectors; ++v) sum[i][v] = Vec<T>{};
        }
        const T *left = a, *right = b;
        for (std::int64_t k = 0; k < depth; ++k) {
            Vec<T> row[vectors];
            PYHAR_UNROLL
            for (int v = 0; v < vectors; ++v) {
                const T* p = right + v * lanes<T>;
                row[v] = partial && v == vectors - 1 ? load_first<T>(p, last, T(0)) : load<T>(p);
            }
            PYHAR_UNROLL
            for (int i = 0; i < rows; ++i) {
                const Vec<T> factor = splat<T>(left[i]);
                PYHAR_UNROLL
                for (int v = 0; v < vectors; ++v) sum[i][v] += factor * row[v];
            }
            if constexpr (fetch) {
                prefetch(ahead);
                if (vectors * sizeof(Vec<T>) > 64) prefetch(ahead + 64 / sizeof(T));
                ahead += b_step;
            }
            left += a_step;
            right += b_step;
        }
        PYHAR_UNROLL
        for (int i = 0; i < rows; ++i) {
            PYHAR_UNROLL
            for (int v = 0; v < vectors; ++v) {
                T* p = c + i * c_step + v * lanes<T>;
                if (partial && v == vectors - 1) {
                    if (write == Write::add) sum[i][v] += load_first<T>(p, last, T(0));
                    store_first<T>(p, sum[i][v], last);
                } else if (write == Write::stream) {
                    stream<T>(p, sum[i][v]);
                } else {
                    if (write == Write::add) sum[i][v] += load<T>(p);
                    store<T>(p, sum[i][v]);
                }
            }
        }
    }
}

template <class T>
using Tile = void (*)(std::int64_t, const T*, std::int64_t, const T*, std::int64_t, T*, std::int64_t, Write,
                      std::int64_t, std::int64_t, const T*);

template <class T, int vectors, bool partial, bool fetch, int... i>
PYHAR_INLINE Tile<T> tile_of(int rows, std::integer_sequence<int, i...>) {
    static constexpr Tile<T> table[] = {&tile<T, i + 1, vectors, partial, fetch>...};
    return table[rows - 1];
}

template <class T, int vectors, bool partial, bool fetch>
PYHAR_INLINE Tile<T> tile_of(std::int64_t rows) {
    return tile_of<T, vectors, partial, fetch>(static_cast<int>(rows), std::make_integer_sequence<int, tile_rows>{});
}

// Rows to be copied into a panel, whole vectors, while something else is computed; none if rows is 0.
template <class T>
struct Copy {
    const T* from = nullptr;
    std::int64_t from_step = 0;
    T* to = nullptr;
    std::int64_t rows = 0, columns = 0;
    const T* ahead = nullptr;  // rows to be brought into the cache, for the copy after this one
};

template <class T>
PYHAR_INLINE void copy_vector(const Copy<T>& copy, std::int64_t row, std::int64_t column) {
    prefetch(copy.ahead + row * copy.from_step + column);
    store<T>(copy.to + row * panel_step<T> + column, load<T>(copy.from + row * copy.from_step + column));
}

// C[i][n] = sum over k of a[k + i*panel_step] * b[k*b_step + n], or that added to C, for `rows` i and `vectors` vectors
// of n; meanwhile the next panel is copied.
template <class T, int rows, int vectors>
PYHAR_NOINLINE void tile_across(std::int64_t depth, const T* PYHAR_RESTRICT a, const T* PYHAR_RESTRICT b,
                                std::int64_t b_step, T* PYHAR_RESTRICT c, std::int64_t c_step, bool add,
                                const Copy<T>& next) {
    Vec<T> sum[rows][vectors];
    PYHAR_UNROLL
    for (int i = 0; i < rows; ++i) {
        PYHAR_UNROLL
        for (int v = 0; v < vectors; ++v) sum[i][v] = Vec<T>{};
    }
    const auto step = [&]() PYHAR_LAMBDA_INLINE {
        Vec<T> row[vectors];
        PYHAR_UNROLL
        for (int v = 0; v < vectors; ++v) row[v] = load<T>(b + v * lanes<T>);
        PYHAR_UNROLL
        for (int i = 0; i < rows; ++i) {
            const Vec<T> left = splat<T>(a[i * panel_step<T>]);
            PYHAR_UNROLL
            for (int v = 0; v < vectors; ++v) sum[i][v] += left * row[v];
        }
        ++a;
        b += b_step;
    };
    const Copy<T> copy = next;
    std::int64_t k = 0, copied = 0;
    for (; copied < copy.rows && k + copy.columns / lanes<T> <= depth; ++copied) {
        for (std::int64_t i = 0; i < copy.columns; i += lanes<T>, ++k) {
            copy_vector(copy, copied, i);
            step();
        }
    }
    for (; k < depth; ++k) step();
    for (; copied < copy.rows; ++copied) {
        for (std::int64_t i = 0; i < copy.columns; i += lanes<T>) copy_vector(copy, copied, i);
    }
    PYHAR_UNROLL
    for (int i = 0; i < rows; ++i) {
        PYHAR_UNROLL
        for (int v = 0; v < vectors; ++v) {
            T* p = c + i * c_step + v * lanes<T>;
            if (add) sum[i][v] += load<T>(p);
            store<T>(p, sum[i][v]);
        }
    }
}

template <class T>
using TileAcross = void (*)(std::int64_t, const T*, const T*, std::int64_t, T*, std::int64_t, bool, const Copy<T>&);

template <class T, int vectors, int... i>
PYHAR_INLINE TileAcross<T> tile_across_of(int rows, std::integer_sequence<int, i...>) {
    static constexpr TileAcross<T> table[] = {&tile_across<T, i + 1, vectors>...};
    return table[rows - 1];
}

template <class T, int vectors>
PYHAR_INLINE TileAcross<T> tile_across_of(std::int64_t rows) {
    return tile_across_of<T, vectors>(static_cast<int>(rows), std::make_integer_sequence<int, tile_rows>{});
}

// Splits `count` rows into tiles of nearly equal height: body(first, rows).
template <class Body>
PYHAR_INLINE void each_tile(std::int64_t count, const Body& body) {
    const std::int64_t tiles = (count + tile_rows - 1) / tile_rows;
    std::int64_t first = 0;
    for (std::int64_t i = 0; i < tiles; ++i) {
        const std::int64_t rows = (count - first + (tiles - i) - 1) / (tiles - i);
        body(first, rows);
        first += rows;
    }
}

// C[i][n] (+)= sum over k < depth of a[k*a_step + i] * b[k*b_step + n] for i < rows, n < columns. If `next` is not
// null, B comes from far away, and the matrix at `next` is what will be read after it.
template <class T>
void outer_product(std::int64_t rows, std::int64_t columns, std::int64_t depth, const T* a, std::int64_t a_step,
                   const T* b, std::int64_t b_step, T* c, std::int64_t c_step, Write write, const T* next = nullptr) {
    constexpr std::int64_t pair = 2 * lanes<T>;
    std::int64_t n = 0;
    if (rows <= tile_rows && next == nullptr) {
        const std::int64_t pairs = columns / pair;
        tile_of<T, 2, false, false>(rows)(depth, a, a_step, b, b_step, c, c_step, write, pairs, 0, nullptr);
        n = pairs * pair;
    }
    for (; n + pair <= columns; n += pair) {
        const T* ahead = next == nullptr ? nullptr : n + 2 * pair <= columns ? b + n + pair : next;
        each_tile(rows, [&](std::int64_t i, std::int64_t height) {
            const bool fetch = i == 0 && ahead != nullptr;
            const Tile<T> f = fetch ? tile_of<T, 2, false, true>(height) : tile_of<T, 2, false, false>(height);
            f(depth, a + i, a_step, b + n, b_step, c + i * c_step + n, c_step, write, 1, 0, ahead);
        });
    }
    for (; n < columns; n += lanes<T>) {
        const std::int64_t last = columns - n;
        each_tile(rows, [&](std::int64_t i, std::int64_t height) {
            const Tile<T> f =
                last < lanes<T> ? tile_of<T, 1, true, false>(height) : tile_of<T, 1, false, false>(height);
            f(depth, a + i, a_step, b + n, b_step, c + i * c_step + n, c_step, write, 1, last, nullptr);
        });
    }
}

// sums[i] (+)= vector sums over k of a[i*panel_step + k] * b[k], lane by lane, for i < rows.
template <class T>
void dots(std::int64_t rows, std::int64_t depth, const T* a, const T* b, Vec<T>* sums, bool add) {
    constexpr int together = 6;
    for (std::int64_t first = 0; first < rows; first += together) {
        const std::int64_t n = rows - first < together ? rows - first : together;
        const T* p = a + first * panel_step<T>;
        Vec<T> sum[together]{};
        const auto step = [&](std::int64_t k, std::int64_t last) {
            const bool whole = last == lanes<T>;
            const Vec<T> right = whole ? load<T>(b + k) : load_first<T>(b + k, last, T(0));
            PYHAR_UNROLL
            for (int i = 0; i < together; ++i) {
                const T* q = p + (i < n ? i : 0) * panel_step<T> + k;
                sum[i] += (whole ? load<T>(q) : load_first<T>(q, last, T(0))) * right;
            }
        };
        std::int64_t k = 0;
        for (; k + lanes<T> <= depth; k += lanes<T>) step(k, lanes<T>);
        if (k < depth) step(k, depth - k);
        for (std::int64_t i = 0; i < n; ++i) {
            if (add) {
                sums[first + i] += sum[i];
            } else {
                sums[first + i] = sum[i];
            }
        }
    }
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
