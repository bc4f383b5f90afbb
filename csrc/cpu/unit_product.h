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

    std::int64_t groups() const { return (depth + Factors<S>::group - 1) / Factors<S>::group; }
    std::int64_t vector_step() const { return groups() * Factors<S>::group * lanes<float>; }
};

constexpr int most_terms = 2;

// What a sum becomes: bias added, negative values cut off if `relu`, maps added, written in type D.
template <class D>
struct Finish {
    D* out;
    std::int64_t out_step;
    const float* bias = nullptr;  // whole vectors
    bool relu = false;
    const D* skips[2] = {nullptr, nullptr};
    std::int64_t skip_step = 0;
};

template <class S, class D, int pixels, int vectors>
PYHAR_NOINLINE void product_tile(const Term<S>* terms, int count, const Finish<D>& finish, std::int64_t last) {
    Vec<float> sum[pixels][vectors];
    PYHAR_UNROLL
    for (int i = 0; i < pixels; ++i) {
        PYHAR_UNROLL
        for (int v = 0; v < vectors; ++v) sum[i][v] = Vec<float>{};
    }
    constexpr std::int64_t group = Factors<S>::group;
    for (int t = 0; t < count; ++t) {
        const std::int64_t step = terms[t].a_step, next = terms[t].vector_step();
        const S* left[(pixels + 2) / 3];
        PYHAR_UNROLL
        for (int i = 0; i < (pixels + 2) / 3; ++i) left[i] = terms[t].a + 3 * i * step;
        const S* right = terms[t].b;
        for (std::int64_t k = terms[t].groups(); k > 0; --k) {
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
    PYHAR_UNROLL
    for (int v = 0; v < vectors; ++v) {
        const std::int64_t at = v * lanes<float>;
        const bool whole = v < vectors - 1 || last == lanes<float>;
        const Vec<float> bias = finish.bias == nullptr ? Vec<float>{} : load<float>(finish.bias + at);
        PYHAR_UNROLL
        for (int i = 0; i < pixels; ++i) {
            Vec<float> y = sum[i][v];
            if (finish.bias != nullptr) y += bias;
            if (finish.relu) y = rectified(y);
            for (const D* skip : finish.skips) {
                if (skip == nullptr) continue;
                const D* p = skip + i * finish.skip_step + at;
                y += whole ? load_map(p) : load_map_first(p, last);
            }
            D* p = finish.out + i * finish.out_step + at;
            whole ? store_map(p, y) : store_map_first(p, y, last);
        }
    }
}

template <class S, class D>
using ProductTile = void (*)(const Term<S>*, int, const Finish<D>&, std::int64_t);

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
                   Finish<D> finish) {
    const std::int64_t wide = outputs - first < panel_outputs ? outputs - first : panel_outputs;
    const int vectors = static_cast<int>((wide + lanes<float> - 1) / lanes<float>);
    const std::int64_t last = wide - (vectors - 1) * lanes<float>;
    Term<S> now[most_terms];
    for (int t = 0; t < count; ++t) {
        now[t] = terms[t];
        now[t].b += first / lanes<float> * now[t].vector_step();
    }
    const std::int64_t tiles = (pixels + tile_pixels - 1) / tile_pixels;
    for (std::int64_t i = 0, done = 0; i < tiles; ++i) {
        const int n = static_cast<int>((pixels - done + tiles - i - 1) / (tiles - i));
        product_tile_of<S, D>(n, vectors)(now, count, finish, last);
        done += n;
        for (int t = 0; t < count; ++t) now[t].a += n * now[t].a_step;
        finish.out += n * finish.out_step;
        for (const D*& skip : finish.skips) {
            if (skip != nullptr) skip += n * finish.skip_step;
        }
    }
}

// All outputs of `pixels` pixels.
template <class S, class D>
void product(const Term<S>* terms, int count, std::int64_t pixels, std::int64_t outputs, const Finish<D>& finish) {
    for (std::int64_t first = 0; first < outputs; first += panel_outputs) {
        Finish<D> at = finish;
        at.out += first;
        if (at.bias != nullptr) at.bias += first;
        for (const D*& skip : at.skips) {
            if (skip != nullptr) skip += first;
        }
        product_panel(terms, count, pixels, first, outputs, at);
    }
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
