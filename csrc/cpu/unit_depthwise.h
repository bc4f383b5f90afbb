// Depthwise convolution of a piece of a picture, "same" padding, an odd kernel: channels across the lanes.
#pragma once

#include <cstdint>

#include "cpu/unit_prologue.h"

namespace pyhar {
namespace PYHAR_ISA {

// Rows [first, first + rows) of a picture and the rows and columns around that the kernel reaches, zeros outside the
// picture; one vector of channels after the other.
class Window {
public:
    Window(std::int64_t rows, std::int64_t columns, std::int64_t channels, std::int64_t kernel)
        : columns_(columns), margin_(kernel / 2), step_(columns + kernel - 1) {
        plane_ = spread<float>((rows + kernel - 1) * step_ * lanes<float>);
        data_ = scratch<float>(plane_ * ((channels + lanes<float> - 1) / lanes<float>));
    }

    // Reads the picture that begins at `pixel`.
    template <class S>
    void fill(const Prologue<S>& prologue, std::int64_t channels, std::int64_t pixel, std::int64_t picture_rows,
              std::int64_t first, std::int64_t rows) {
        for (std::int64_t y = first - margin_, i = 0; y < first + rows + margin_; ++y, ++i) {
            const bool inside = y >= 0 && y < picture_rows;
            for (std::int64_t x = -margin_; x < columns_ + margin_; ++x) {
                float* to = data_ + (i * step_ + x + margin_) * lanes<float>;
                if (inside && x >= 0 && x < columns_) {
                    prologue.each(pixel + y * columns_ + x, [&](std::int64_t c, Vec<float> v) PYHAR_LAMBDA_INLINE {
                        store<float>(to + c / lanes<float> * plane_, v);
                    });
                } else {
                    for (std::int64_t c = 0; c < channels; c += lanes<float>, to += plane_) {
                        store<float>(to, Vec<float>{});
                    }
                }
            }
        }
    }

    const float* at(std::int64_t vector, std::int64_t row) const {
        return data_ + vector * plane_ + row * step_ * lanes<float>;
    }
    std::int64_t step() const { return step_ * lanes<float>; }

private:
    std::int64_t columns_, margin_, step_, plane_;
    float* data_;
};

// `count` neighbouring pixels of a row; `side` is the kernel's if it is known, else 0.
template <class S, int side, int count>
PYHAR_INLINE void depthwise_pixels(const float* PYHAR_RESTRICT from, std::int64_t from_step, std::int64_t kernel,
                                   const float* PYHAR_RESTRICT weights, S* PYHAR_RESTRICT to, std::int64_t to_step) {
    Vec<float> sum[count];
    PYHAR_UNROLL
    for (int i = 0; i < count; ++i) sum[i] = Vec<float>{};
    if constexpr (side > 0) {
        for (int y = 0; y < side; ++y, from += from_step, weights += side * lanes<float>) {
            Vec<float> weight[side];
            PYHAR_UNROLL
            for (int x = 0; x < side; ++x) weight[x] = load<float>(weights + x * lanes<float>);
            PYHAR_UNROLL
            for (int j = 0; j < count + side - 1; ++j) {
                const Vec<float> v = load<float>(from + j * lanes<float>);
                PYHAR_UNROLL
                for (int x = 0; x < side; ++x) {
                    if (j - x >= 0 && j - x < count) sum[j - x] += v * weight[x];
                }
            }
        }
    } else {
        for (std::int64_t y = 0; y < kernel; ++y, from += from_step) {
            for (std::int64_t x = 0; x < kernel; ++x, weights += lanes<float>) {
                const Vec<float> weight = load<float>(weights);
                PYHAR_UNROLL
                for (int i = 0; i < count; ++i) sum[i] += load<float>(from + (x + i) * lanes<float>) * weight;
            }
        }
    }
    PYHAR_UNROLL
    for (int i = 0; i < count; ++i) store_map(to + i * to_step, sum[i]);
}

template <class S, int side>
PYHAR_NOINLINE void depthwise_rows(const Window& window, std::int64_t rows, std::int64_t columns, std::int64_t vectors,
                                   std::int64_t kernel, const float* weights, S* to, std::int64_t to_step) {
    constexpr int together = 8;
    for (std::int64_t v = 0; v < vectors; ++v, weights += kernel * kernel * lanes<float>) {
        for (std::int64_t y = 0; y < rows; ++y) {
            const float* from = window.at(v, y);
            S* out = to + y * columns * to_step + v * lanes<float>;
            std::int64_t x = 0;
            for (; x + together <= columns; x += together) {
                depthwise_pixels<S, side, together>(from + x * lanes<float>, window.step(), kernel, weights,
                                                    out + x * to_step, to_step);
            }
            for (; x + 2 <= columns; x += 2) {
                depthwise_pixels<S, side, 2>(from + x * lanes<float>, window.step(), kernel, weights, out + x * to_step,
                                             to_step);
            }
            if (x < columns) {
                depthwise_pixels<S, side, 1>(from + x * lanes<float>, window.step(), kernel, weights, out + x * to_step,
                                             to_step);
            }
        }
    }
}

// Writes rows * columns pixels of whole vectors of channels, to_step elements apart.
template <class S>
void depthwise(const Window& window, const Unit& unit, std::int64_t rows, S* to, std::int64_t to_step) {
    const std::int64_t vectors = (unit.channels + lanes<float> - 1) / lanes<float>;
    const auto run = [&](auto kernel) {
        kernel(window, rows, unit.columns, vectors, unit.kernel, unit.depthwise, to, to_step);
    };
    if (unit.kernel == 5) return run(&depthwise_rows<S, 5>);
    if (unit.kernel == 3) return run(&depthwise_rows<S, 3>);
    run(&depthwise_rows<S, 0>);
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
