// Twice the rows and columns: every pixel four times.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/parallel.h"
#include "cpu/unit.h"

namespace pyhar {
namespace PYHAR_ISA {

// Writes `rows` rows of `columns` pixels.
template <class S>
void repeat_rows(const S* from, std::int64_t rows, std::int64_t columns, std::int64_t channels, S* to) {
    const std::size_t pixel = sizeof(S) * static_cast<std::size_t>(channels);
    for (std::int64_t row = 0; row < rows; ++row) {
        const S* const first = to;
        for (std::int64_t x = 0; x < columns; ++x, from += channels) {
            for (int i = 0; i < 2; ++i, to += channels) std::memcpy(static_cast<void*>(to), from, pixel);
        }
        std::memcpy(static_cast<void*>(to), first, 2 * columns * pixel);
        to += 2 * columns * channels;
    }
}

template <class S>
void upsampling_unit(const Unit& unit) {
    const std::int64_t rows = unit.batch * unit.rows, line = unit.columns * unit.channels;
    const int threads = useful_threads(2.0 * static_cast<double>(rows * line), rows);
    auto body = [&](std::int64_t begin, std::int64_t end) {
        repeat_rows(static_cast<const S*>(unit.x) + begin * line, end - begin, unit.columns, unit.channels,
                    static_cast<S*>(unit.out) + 4 * begin * line);
    };
    parallel_for(rows, (rows + 4 * threads - 1) / (4 * threads), threads, body);
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
