// The three products of the appearance with one image of features.
//
// The features are a matrix F (U, W) read in the direction in which its memory runs: channels by pixels for planes,
// pixels by channels where the channels are innermost. Either way there are three products with two narrow matrices,
// one with a row of joints per pixel and one with a row of joints per channel:
//   over rows      O[j][w] = sum over u of L[u][j] * F[u][w]
//   over columns   O[u][j] = sum over w of F[u][w] * R[w][j]
//   outer          G[u][w] = sum over j of L[j][u] * R[j][w]
#pragma once

#include "cpu/gemm.h"
#include "cpu/scratch.h"
#include "cpu/storage.h"

namespace pyhar {
namespace PYHAR_ISA {

// Rows of features that are taken together; sums are added up in groups of them, whatever the number of threads.
constexpr std::int64_t group_rows = 96;

// The features of one image as that matrix.
template <class T>
class Features {
public:
    Features() = default;
    Features(const Map& map, std::int64_t batch, std::int64_t rows, std::int64_t columns, bool by_pixel)
        : image_(map, batch, rows, columns), by_pixel_(by_pixel) {}

    explicit operator bool() const { return static_cast<bool>(image_); }

    // Whether the matrix lies in memory as it is wanted, with rows of T.
    bool direct() const { return by_pixel_ ? image_.interleaved() : image_.planar(); }

    // That matrix from (u, w) on, if direct().
    Block<T> from(std::int64_t u, std::int64_t w) const {
        const Block<T> all = by_pixel_ ? image_.pixel_rows() : image_.channel_rows();
        return {all.rows + u * all.step + w, all.step};
    }

    void load(std::int64_t u, std::int64_t rows, std::int64_t w, std::int64_t columns, T* to, std::int64_t step) const {
        by_pixel_ ? image_.load_pixels(u, rows, w, columns, to, step) : image_.load(u, rows, w, columns, to, step);
    }

    void store(std::int64_t u, std::int64_t rows, std::int64_t w, std::int64_t columns, const T* rows_from,
               std::int64_t step) const {
        by_pixel_ ? image_.store_pixels(u, rows, w, columns, rows_from, step)
                  : image_.store(u, rows, w, columns, rows_from, step);
    }

private:
    Image<T> image_;
    bool by_pixel_ = false;
};

// body(first, count) for [begin, end) in pieces that end at multiples of `size`.
template <class Body>
PYHAR_INLINE void each_piece(std::int64_t begin, std::int64_t end, std::int64_t size, const Body& body) {
    for (std::int64_t i = begin; i < end;) {
        const std::int64_t next = (i / size + 1) * size;
        body(i, (next < end ? next : end) - i);
        i = next;
    }
}

// out[j][w - begin] for w in [begin, end), over all rows; L (rows, left_step).
template <class T>
void product_over_rows(const Features<T>& features, std::int64_t rows, std::int64_t begin, std::int64_t end,
                       const T* left, std::int64_t left_step, std::int64_t joints, T* out, std::int64_t out_step) {
    Frame frame;
    T* panel = features.direct() ? nullptr : scratch<T>(group_rows * panel_step<T>);
    each_piece(begin, end, panel_columns, [&](std::int64_t w, std::int64_t columns) {
        each_piece(0, rows, group_rows, [&](std::int64_t u, std::int64_t height) {
            Block<const T> block{panel, panel_step<T>};
            const T* next = nullptr;
            if (panel == nullptr) {
                const Block<T> whole = features.from(u, w);
                block = {whole.rows, whole.step};
                next = u + height < rows ? whole.rows + height * whole.step : whole.rows;
            } else {
                features.load(u, height, w, columns, panel, panel_step<T>);
            }
            outer_product<T>(joints, columns, height, left + u * left_step, left_step, block.rows, block.step,
                             out + (w - begin), out_step, u > 0 ? Write::add : Write::over, next);
        });
    });
}

// Joints at the end that are not worth a vector of their own: their sums run along the columns instead.
template <class T>
PYHAR_INLINE std::int64_t joints_left_over(std::int64_t joints) {
    const std::int64_t left = joints % lanes<T>;
    return left * 4 <= lanes<T> * 3 ? left : 0;
}

// out[u - begin][j] for u in [begin, end), over all columns; R (columns, right_step) with lanes after the last joint,
// and the same transposed (joints, transposed_step).
template <class T>
void product_over_columns(const Features<T>& features, std::int64_t columns, std::int64_t begin, std::int64_t end,
                          const T* right, std::int64_t right_step, const T* transposed, std::int64_t transposed_step,
                          std::int64_t joints, T* out, std::int64_t out_step) {
    Frame frame;
    const std::int64_t few = joints_left_over<T>(joints), many = joints - few;
    T* panels[2] = {scratch<T>(tile_rows * panel_step<T>), scratch<T>(tile_rows * panel_step<T>)};
    Vec<T>* sums = reinterpret_cast<Vec<T>*>(scratch<T>((few + 1) * tile_rows * lanes<T>));
    // The panels in the order in which they are worked on.
    struct Piece {
        std::int64_t u, height, w, width;
    };
    const std::int64_t across = (columns + panel_columns - 1) / panel_columns;
    const std::int64_t wide = round_up<T>((columns + across - 1) / across);
    Piece* pieces = scratch<Piece>(((end - begin) / tile_rows + 2 * ((end - begin) / group_rows) + 3) * across);
    std::int64_t count = 0;
    each_piece(begin, end, group_rows, [&](std::int64_t group, std::int64_t group_height) {
        each_tile(group_height, [&](std::int64_t first, std::int64_t height) {
            for (std::int64_t w = 0; w < columns; w += wide) {
                pieces[count++] = {group + first, height, w, columns - w < wide ? columns - w : wide};
            }
        });
    });
    const bool weave = features.direct() && many > 0;
    bool ready = false;  // whether the panel has been copied already
    for (std::int64_t i = 0; i < count; ++i) {
        const Piece& piece = pieces[i];
        T* panel = panels[i % 2];
        if (!ready) features.load(piece.u, piece.height, piece.w, piece.width, panel, panel_step<T>);
        Copy<T> copy;
        ready = weave && i + 1 < count && pieces[i + 1].width % lanes<T> == 0;
        if (ready) {
            const Piece& next = pieces[i + 1];
            const Piece& after = pieces[i + 2 < count ? i + 2 : i + 1];
            const Block<T> block = features.from(next.u, next.w);
            copy = {block.rows,  block.step, panels[(i + 1) % 2],
                    next.height, next.width, features.from(after.u, after.w).rows};
        }
        const bool add = piece.w > 0;
        T* to = out + (piece.u - begin) * out_step;
        const T* r = right + piece.w * right_step;
        std::int64_t j = 0;
        for (; j + 2 * lanes<T> <= many; j += 2 * lanes<T>) {
            tile_across_of<T, 2>(piece.height)(piece.width, panel, r + j, right_step, to + j, out_step, add, copy);
            copy.rows = 0;
        }
        for (; j < many; j += lanes<T>) {
            tile_across_of<T, 1>(piece.height)(piece.width, panel, r + j, right_step, to + j, out_step, add, copy);
            copy.rows = 0;
        }
        for (std::int64_t k = 0; k < few; ++k) {
            const T* row = transposed + (many + k) * transposed_step + piece.w;
            dots<T>(piece.height, piece.width, panel, row, sums + k * tile_rows, add);
        }
        if (piece.w + piece.width < columns) continue;
        for (std::int64_t k = 0; k < few; ++k) {
            for (std::int64_t m = 0; m < piece.height; ++m) {
                to[m * out_step + many + k] = sum_lanes<T>(sums[k * tile_rows + m]);
            }
        }
    }
}

// G for u in [u, u + rows), w in [w, w + columns), stored, past the caches if it is `large`; L (joints, left_step) and
// R (joints, right_step).
template <class T>
void product_outer(const Features<T>& gradient, std::int64_t u, std::int64_t rows, std::int64_t w, std::int64_t columns,
                   std::int64_t joints, const T* left, std::int64_t left_step, const T* right, std::int64_t right_step,
                   bool large) {
    each_tile(rows, [&](std::int64_t first, std::int64_t height) {
        const T* a = left + u + first;
        if (gradient.direct()) {
            const Block<T> to = gradient.from(u + first, w);
            const bool aligned =
                reinterpret_cast<std::uintptr_t>(to.rows) % sizeof(Vec<T>) == 0 && to.step % lanes<T> == 0;
            outer_product<T>(height, columns, joints, a, left_step, right + w, right_step, to.rows, to.step,
                             large && aligned ? Write::stream : Write::over);
            return;
        }
        Frame frame;
        T* panel = scratch<T>(tile_rows * panel_step<T>);
        outer_product<T>(height, columns, joints, a, left_step, right + w, right_step, panel, panel_step<T>,
                         Write::over);
        gradient.store(u + first, height, w, columns, panel, panel_step<T>);
    });
}

// Zeros in all channels of the pixels [p, p + count).
template <class T>
void fill_zero(const Features<T>& gradient, bool by_pixel, std::int64_t p, std::int64_t count, std::int64_t channels) {
    Frame frame;
    const std::int64_t longest = count > channels ? count : channels;
    T* zeros = scratch<T>(longest);
    for (std::int64_t i = 0; i < longest; ++i) zeros[i] = T(0);
    if (by_pixel) {
        for (std::int64_t i = p; i < p + count; ++i) gradient.store(i, 1, 0, channels, zeros, longest);
    } else {
        for (std::int64_t c = 0; c < channels; ++c) gradient.store(c, 1, p, count, zeros, longest);
    }
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
