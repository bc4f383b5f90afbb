// The stem: a k x k convolution with a stride, "same" padding, of pictures given plane by plane in float32.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/unit.h"
#include "cpu/unit_product.h"
#include "cpu/unit_tasks.h"

namespace pyhar {
namespace PYHAR_ISA {

// Rows of a picture with the channels of a pixel side by side, in type S, and zeros around: then the k pixels that a row
// of the kernel sees lie in one piece, and those of the next output begin a stride further.
template <class S>
class Interleaved {
public:
    // rows: of the kernel; before: pixels of zeros; used: numbers of a row that products read.
    Interleaved(const Unit& unit, std::int64_t rows, std::int64_t before, std::int64_t used)
        : unit_(unit),
          before_(before * unit.channels),
          whole_(round_up<float>(unit.columns * unit.channels)),
          step_(spread<S>(used > before_ + whole_ ? used : before_ + whole_)),
          data_(scratch<S>(rows * step_)),
          line_(scratch<float>(whole_)) {
        std::memset(static_cast<void*>(data_), 0, sizeof(S) * rows * step_);
        std::memset(line_, 0, sizeof(float) * whole_);
    }

    // Row i becomes row y of the picture, zeros outside it.
    void fill(std::int64_t i, std::int64_t picture, std::int64_t y) {
        S* const to = data_ + i * step_ + before_;
        const std::int64_t channels = unit_.channels, columns = unit_.columns;
        if (y < 0 || y >= unit_.rows) {
            std::memset(static_cast<void*>(to), 0, sizeof(S) * whole_);
            return;
        }
        for (std::int64_t c = 0; c < channels; ++c) {
            const float* const from =
                static_cast<const float*>(unit_.x) + ((picture * channels + c) * unit_.rows + y) * columns;
            for (std::int64_t x = 0; x < columns; ++x) line_[x * channels + c] = from[x];
        }
        for (std::int64_t j = 0; j < whole_; j += lanes<float>) store_map(to + j, load<float>(line_ + j));
    }

    const S* row(std::int64_t i) const { return data_ + i * step_; }

private:
    const Unit& unit_;
    const std::int64_t before_, whole_, step_;
    S* const data_;
    float* const line_;
};

// How far a "same" convolution reaches before the first pixel.
inline std::int64_t reach_before(std::int64_t size, std::int64_t kernel, std::int64_t stride) {
    const std::int64_t missing = ((size + stride - 1) / stride - 1) * stride + kernel - size;
    return missing > 0 ? missing / 2 : 0;
}

template <class S>
void stem_unit(const Unit& unit) {
    const std::int64_t kernel = unit.kernel, down = unit.row_stride, across = unit.column_stride;
    const std::int64_t out_rows = (unit.rows + down - 1) / down, out_columns = (unit.columns + across - 1) / across;
    const std::int64_t above = reach_before(unit.rows, kernel, down);
    const std::int64_t left = reach_before(unit.columns, kernel, across);
    const std::int64_t rows = unit.batch * out_rows;
    const Term<S> line{nullptr, across * unit.channels, static_cast<const S*>(unit.weight), kernel * unit.channels};
    const std::int64_t matrix = line.vector_step() * (round_up<float>(unit.outputs) / lanes<float>);
    const std::int64_t used = (out_columns - 1) * line.a_step + line.filled();  // weights are 0 where nothing belongs
    const int threads =
        useful_threads(2.0 * static_cast<double>(rows * out_columns * unit.outputs * kernel * line.depth), rows);
    const Finish<S> finish = finish_of<S>(unit);
    auto body = [&](std::int64_t begin, std::int64_t end) {
        const Frame frame;
        Interleaved<S> lines(unit, kernel, left, used);
        Term<S>* const terms = scratch<Term<S>>(kernel);
        for (std::int64_t row = begin; row < end; ++row) {
            const std::int64_t picture = row / out_rows, first = row % out_rows * down - above;
            // Line y of the picture lies in place y modulo the kernel; those that the row before has read are there.
            const bool fresh = row == begin || row % out_rows == 0;
            for (std::int64_t i = 0; i < kernel; ++i) {
                const std::int64_t y = first + i, place = (y + above) % kernel;
                if (fresh || i + down >= kernel) lines.fill(place, picture, y);
                terms[i] = line;
                terms[i].a = lines.row(place), terms[i].b += i * matrix;
            }
            product(terms, static_cast<int>(kernel), out_columns, unit.outputs, moved(finish, row * out_columns));
        }
    };
    parallel_for(rows, (rows + 4 * threads - 1) / (4 * threads), threads, body);
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
