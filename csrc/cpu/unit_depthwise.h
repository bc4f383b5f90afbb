// Depthwise convolution of a piece of a picture, "same" padding, an odd kernel: channels across the lanes.
#pragma once

#include <cstdint>

#include "cpu/unit_prologue.h"

namespace pyhar {
namespace PYHAR_ISA {

// The kernels of a unit over the pixels of x: one, or with `repeat` 2 one for each of the 2 x 2 that a pixel stands for,
// with half the taps. Those of the second rows and columns begin `shift` pixels later.
struct Taps {
    explicit Taps(const Unit& unit)
        : side(unit.repeat == 1 ? unit.kernel : (unit.kernel + 1) / 2),
          reach(unit.repeat == 1 ? unit.kernel / 2 : (unit.kernel / 2 + 1) / 2),
          shift(unit.repeat == 1 ? 0 : unit.kernel / 2 % 2) {}
    const std::int64_t side, reach, shift;
};

// One vector of channels of rows of a picture and of the rows and columns around that the kernel reaches, zeros outside
// the picture. It fits the first-level cache, where it is filled and read for one vector after the other.
class Window {
public:
    // For up to `rows` rows of `columns` pixels.
    Window(std::int64_t rows, std::int64_t columns, const Taps& taps)
        : columns_(columns),
          margin_(taps.reach),
          step_(columns + 2 * margin_),
          size_((rows + 2 * margin_) * step_),
          data_(scratch<float>(size_ * lanes<float>)) {}

    // Moves to the rows [first, first + rows) of the picture that begins at `pixel` and has `picture_rows` rows.
    void move_to(std::int64_t pixel, std::int64_t picture_rows, std::int64_t first, std::int64_t rows) {
        begin_ = first > margin_ ? first - margin_ : 0;
        end_ = first + rows + margin_ < picture_rows ? first + rows + margin_ : picture_rows;
        pixel_ = pixel + begin_ * columns_;
        above_ = begin_ - (first - margin_);
        for (std::int64_t i = 0; i < size_; ++i) store<float>(data_ + i * lanes<float>, Vec<float>{});
    }

    // Reads the vector of channels from `c` on.
    template <class S>
    void fill(const Prologue<S>& prologue, std::int64_t c) {
        prologue.with_vector(c, [&](const auto& read) PYHAR_LAMBDA_INLINE {
            float* to = data_ + (above_ * step_ + margin_) * lanes<float>;
            std::int64_t pixel = pixel_;
            for (std::int64_t y = begin_; y < end_; ++y, to += (step_ - columns_) * lanes<float>) {
                for (std::int64_t x = 0; x < columns_; ++x, ++pixel, to += lanes<float>) store<float>(to, read(pixel));
            }
        });
    }

    const float* pixel(std::int64_t y, std::int64_t x) const { return data_ + (y * step_ + x) * lanes<float>; }
    std::int64_t step() const { return step_ * lanes<float>; }

private:
    const std::int64_t columns_, margin_, step_, size_;
    float* const data_;
    std::int64_t begin_ = 0, end_ = 0, pixel_ = 0, above_ = 0;
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

// Pixels side by side whose sums, beside a row of weights, fill the registers: the more, the longer before a sum is
// needed again.
#ifdef PYHAR_AVX512
constexpr int most_pixels = 16;
#else
constexpr int most_pixels = 8;
#endif

// As many times `count` pixels of a row as there are from x on, then fewer at a time.
template <class S, int side, int count>
PYHAR_INLINE void depthwise_row(const float* from, std::int64_t from_step, std::int64_t x, std::int64_t columns,
                                std::int64_t kernel, const float* weights, S* to, std::int64_t to_step) {
    for (; x + count <= columns; x += count) {
        depthwise_pixels<S, side, count>(from + x * lanes<float>, from_step, kernel, weights, to + x * to_step, to_step);
    }
    if constexpr (count > 1) {
        depthwise_row<S, side, count / 2>(from, from_step, x, columns, kernel, weights, to, to_step);
    }
}

template <class S, int side>
PYHAR_NOINLINE void depthwise_rows(const float* from, std::int64_t from_step, std::int64_t rows, std::int64_t columns,
                                   std::int64_t kernel, const float* weights, S* to, std::int64_t to_step,
                                   std::int64_t row_step) {
    for (std::int64_t y = 0; y < rows; ++y, from += from_step, to += row_step) {
        depthwise_row<S, side, most_pixels>(from, from_step, 0, columns, kernel, weights, to, to_step);
    }
}

// Writes what becomes of `rows` rows, from where the window is, in whole vectors of channels, pixels to_step elements
// apart.
template <class S, class D>
void depthwise(Window& window, const Prologue<S>& prologue, const Unit& unit, std::int64_t rows, D* to,
               std::int64_t to_step) {
    const Taps taps(unit);
    const auto run = taps.side == 5   ? &depthwise_rows<D, 5>
                     : taps.side == 3 ? &depthwise_rows<D, 3>
                                      : &depthwise_rows<D, 0>;
    const std::int64_t repeat = unit.repeat, row_step = unit.columns * to_step;
    const float* weights = unit.depthwise;
    for (std::int64_t c = 0; c < unit.channels; c += lanes<float>) {
        window.fill(prologue, c);
        for (std::int64_t place = 0; place < repeat * repeat; ++place) {
            const std::int64_t down = place / repeat, across = place % repeat;
            run(window.pixel(down * taps.shift, across * taps.shift), window.step(), rows, unit.columns / repeat, taps.side,
                weights, to + c + down * row_step + across * to_step, repeat * to_step, repeat * row_step);
            weights += taps.side * taps.side * lanes<float>;
        }
    }
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
