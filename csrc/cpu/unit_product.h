// Sums of products of pixels with packed weights, and what is added to them on the way out.
#pragma once

#include <cstdint>
#include <utility>

#include "cpu/unit_storage.h"

namespace pyhar {
namespace PYHAR_ISA {

// Vectors of outputs in a panel and pixels in a tile: their sums, a row of weights and a factor fill the registers.
constexpr int panel_vectors = 3;
#ifdef PYHAR_AVX512
constexpr int tile_pixels = 8;
#else
constexpr int tile_pixels = 4;
#endif
constexpr std::int64_t panel_outputs = panel_vectors * lanes<float>;

// A product: pixels a (rows of `depth`, a_step elements apart) times packed weights b.
template <class S>
struct Term {
    const S* a;
    std::int64_t a_step;
    const S* b;
    std::int64_t depth;

    std::int64_t filled() const { return (depth + Factors<S>::depth - 1) / Factors<S>::depth * Factors<S>::depth; }
    std::int64_t vector_step() const { return filled() * lanes<float>; }
    Term from(std::int64_t pixel) const { return {a + pixel * a_step, a_step, b, depth}; }
};

// What a sum becomes: bias added, negative values cut off if `relu`, maps added, written in type D.
template <class D>
struct Finish {
    D* out;
    std::int64_t out_step;
    const float* bias = nullptr;  // whole vectors
    bool relu = false;
    const D* skips[2] = {nullptr, nullptr};
    std::int64_t skip_step = 0;

    // Vector v of a pixel from output `at` on, `last` outputs before the end.
    PYHAR_INLINE void write(Vec<float> v, std::int64_t pixel, std::int64_t at, std::int64_t last) const {
        const bool whole = last >= lanes<float>;
        if (bias != nullptr) v += load<float>(bias + at);
        if (relu) v = rectified(v);
        for (const D* skip : skips) {
            if (skip == nullptr) continue;
            const D* p = skip + pixel * skip_step + at;
            v += whole ? load_map(p) : load_map_first(p, last);
        }
        D* p = out + pixel * out_step + at;
        whole ? store_map(p, v) : store_map_first(p, v, last);
    }

#ifdef PYHAR_AVX512_BF16
    // Two whole vectors side by side.
    PYHAR_INLINE void write_two(Vec<float> v, Vec<float> w, std::int64_t pixel, std::int64_t at) const {
        if (bias != nullptr) v += load<float>(bias + at), w += load<float>(bias + at + lanes<float>);
        if (relu) v = rectified(v), w = rectified(w);
        for (const D* skip : skips) {
            if (skip == nullptr) continue;
            const D* p = skip + pixel * skip_step + at;
            v += load_map(p), w += load_map(p + lanes<float>);
        }
        store_two(out + pixel * out_step + at, v, w);
    }
#endif
};

// Adds the products of `pixels` pixels from `pixel` on and `vectors` vectors of outputs from `vector` on to their sums.
template <class S, class Sum, int pixels, int vectors>
PYHAR_INLINE void multiply(const Term<S>& term, std::int64_t pixel, std::int64_t vector, Sum (&sum)[pixels][vectors]) {
    constexpr std::int64_t group = Factors<S>::group;
    const std::int64_t step = term.a_step, next = term.vector_step();
    const S* left[(pixels + 2) / 3];
    PYHAR_UNROLL
    for (int i = 0; i < (pixels + 2) / 3; ++i) left[i] = term.a + (pixel + 3 * i) * step;
    const S* right = term.b + vector * next;
    for (std::int64_t k = term.filled() / group; k > 0; --k) {
        typename Factors<S>::Row row[vectors];
        PYHAR_UNROLL
        for (int v = 0; v < vectors; ++v) row[v] = Factors<S>::row(right + v * next);
        PYHAR_UNROLL
        for (int i = 0; i < pixels; ++i) {
            PYHAR_UNROLL
            for (int v = 0; v < vectors; ++v) Factors<S>::add(sum[i][v], left[i / 3] + i % 3 * step, row[v]);
        }
        PYHAR_UNROLL
        for (int i = 0; i < (pixels + 2) / 3; ++i) left[i] += group;
        right += group * lanes<float>;
    }
}

template <class S, int pixels, int vectors>
PYHAR_INLINE void add_term(const Term<S>& term, std::int64_t pixel, std::int64_t vector,
                           Vec<float> (&sum)[pixels][vectors]) {
    multiply(term, pixel, vector, sum);
}

// For `pixels` pixels from `pixel` on and `vectors` vectors of outputs from `vector` on, of which the last has `last`
// outputs. `finish` is for the first pixel and the first of these outputs.
template <class S, class D, int pixels, int vectors>
PYHAR_NOINLINE void product_tile(const Term<S>* terms, int count, const Finish<D>& finish, std::int64_t pixel,
                                 std::int64_t vector, std::int64_t last) {
    Vec<float> sum[pixels][vectors];
    PYHAR_UNROLL
    for (int i = 0; i < pixels; ++i) {
        PYHAR_UNROLL
        for (int v = 0; v < vectors; ++v) sum[i][v] = Vec<float>{};
    }
    for (int t = 0; t < count; ++t) add_term(terms[t], pixel, vector, sum);
    PYHAR_UNROLL
    for (int v = 0; v < vectors; ++v) {
        PYHAR_UNROLL
        for (int i = 0; i < pixels; ++i) {
            finish.write(sum[i][v], pixel + i, v * lanes<float>, v < vectors - 1 ? lanes<float> : last);
        }
    }
}

template <class S, class D>
using ProductTile = void (*)(const Term<S>*, int, const Finish<D>&, std::int64_t, std::int64_t, std::int64_t);

template <class S, class D, int vectors, int... i>
PYHAR_INLINE ProductTile<S, D> product_tile_of(int pixels, std::integer_sequence<int, i...>) {
    static constexpr ProductTile<S, D> table[] = {&product_tile<S, D, i + 1, vectors>...};
    return table[pixels - 1];
}

template <class S, class D>
PYHAR_INLINE ProductTile<S, D> product_tile_of(int pixels, int vectors) {
    constexpr auto all = std::make_integer_sequence<int, tile_pixels>{};
    if (vectors == 3) return product_tile_of<S, D, 3>(pixels, all);
    return vectors == 2 ? product_tile_of<S, D, 2>(pixels, all) : product_tile_of<S, D, 1>(pixels, all);
}

// Outputs [first, first + panel_outputs), as far as there are `outputs`, of `pixels` pixels: the sum of the terms,
// finished. Bias, skips and out are those of output `first` of the first pixel; weights those of output 0.
template <class S, class D>
void product_panel(const Term<S>* terms, int count, std::int64_t pixels, std::int64_t first, std::int64_t outputs,
                   const Finish<D>& finish) {
    const std::int64_t wide = outputs - first < panel_outputs ? outputs - first : panel_outputs;
    const int vectors = static_cast<int>((wide + lanes<float> - 1) / lanes<float>);
    const std::int64_t last = wide - (vectors - 1) * lanes<float>;
    const std::int64_t tiles = (pixels + tile_pixels - 1) / tile_pixels;
    for (std::int64_t i = 0, done = 0; i < tiles; ++i) {
        const int n = static_cast<int>((pixels - done + tiles - i - 1) / (tiles - i));
        product_tile_of<S, D>(n, vectors)(terms, count, finish, done, first / lanes<float>, last);
        done += n;
    }
}

// `finish` for outputs from `first` on.
template <class D>
Finish<D> from_output(Finish<D> finish, std::int64_t first) {
    finish.out += first;
    if (finish.bias != nullptr) finish.bias += first;
    for (const D*& skip : finish.skips) {
        if (skip != nullptr) skip += first;
    }
    return finish;
}

// All outputs of `pixels` pixels.
template <class S, class D>
void product(const Term<S>* terms, int count, std::int64_t pixels, std::int64_t outputs, const Finish<D>& finish) {
    for (std::int64_t first = 0; first < outputs; first += panel_outputs) {
        product_panel(terms, count, pixels, first, outputs, from_output(finish, first));
    }
}

}  // namespace PYHAR_ISA
}  // namespace pyhar

#ifdef PYHAR_INT8
#include "cpu/unit_product_int8.h"
#endif
#ifdef PYHAR_AMX
#include "cpu/unit_product_amx.h"
#endif
