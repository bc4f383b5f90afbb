// Twice the rows and columns: every pixel four times.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/parallel.h"
#include "cpu/unit.h"

namespace pyhar {
namespace PYHAR_ISA {

template <class S>
void upsampling_unit(const Unit& unit) {
    const std::int64_t rows = unit.batch * unit.rows, line = unit.columns * unit.channels;
    const std::size_t pixel = sizeof(S) * static_cast<std::size_t>(unit.channels);
    const int threads = useful_threads(2.0 * static_cast<double>(rows * line), rows);
    auto body = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            const S* from = static_cast<const S*>(unit.x) + row * line;
            S* const first = static_cast<S*>(unit.out) + 4 * row * line;
            S* to = first;
            for (std::int64_t x = 0; x < unit.columns; ++x, from += unit.channels) {
                for (int i = 0; i < 2; ++i, to += unit.channels) std::memcpy(to, from, pixel);
            }
            std::memcpy(to, first, 2 * sizeof(S) * static_cast<std::size_t>(line));
        }
    };
    parallel_for(rows, (rows + 4 * threads - 1) / (4 * threads), threads, body);
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
