// The largest, or the largest plus the smallest, values of windows that begin at every so many pixels and end at the edge.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/unit.h"
#include "cpu/unit_storage.h"

namespace pyhar {
namespace PYHAR_ISA {

// to[i] = the largest, or with `least` the smallest, of from[i + j * step] over j < count, NaN of NaN, for i < length.
// to may be from.
template <bool least, class S>
void extreme_of(const S* from, std::int64_t step, std::int64_t count, std::int64_t length, S* to) {
    std::int64_t i = 0;
    const auto best = [&](const auto& read) PYHAR_LAMBDA_INLINE {
        Vec<float> v = read(from + i);
        for (std::int64_t j = 1; j < count; ++j) {
            const Vec<float> w = read(from + i + j * step);
            if constexpr (least) {
                v = v <= w ? v : v != v ? v : w;
            } else {
                v = v >= w ? v : v != v ? v : w;
            }
        }
        return v;
    };
    for (; i + lanes<float> <= length; i += lanes<float>) {
        store_map(to + i, best([](const S* p) PYHAR_LAMBDA_INLINE { return load_map(p); }));
    }
    const std::int64_t last = length - i;
    if (last > 0) {
        store_map_first(to + i, best([=](const S* p) PYHAR_LAMBDA_INLINE { return load_map_first(p, last); }), last);
    }
}

// to[i] += more[i]
template <class S>
void add_line(const S* more, std::int64_t length, S* to) {
    std::int64_t i = 0;
    for (; i + lanes<float> <= length; i += lanes<float>) store_map(to + i, load_map(to + i) + load_map(more + i));
    const std::int64_t last = length - i;
    if (last > 0) store_map_first(to + i, load_map_first(to + i, last) + load_map_first(more + i, last), last);
}

// The largest values of the windows, with `extremes` plus the smallest.
template <class S>
void pooling_unit(const Unit& unit) {
    const std::int64_t kernel = unit.kernel, channels = unit.channels, line = unit.columns * channels;
    const std::int64_t down = unit.row_stride, across = unit.column_stride;
    const std::int64_t out_rows = (unit.rows + down - 1) / down, out_columns = (unit.columns + across - 1) / across;
    const std::int64_t rows = unit.batch * out_rows;
    const int threads = useful_threads(static_cast<double>(rows * out_columns * channels * kernel), rows);
    const auto cut = [&](std::int64_t first, std::int64_t end) { return end - first < kernel ? end - first : kernel; };
    auto body = [&](std::int64_t begin, std::int64_t end) {
        const Frame frame;
        S* const tallest = scratch<S>(line);
        S* const lowest = unit.extremes ? scratch<S>(line) : nullptr;
        S* const smallest = unit.extremes ? scratch<S>(channels) : nullptr;
        for (std::int64_t row = begin; row < end; ++row) {
            const std::int64_t picture = row / out_rows, y = row % out_rows * down;
            const S* const from = static_cast<const S*>(unit.x) + (picture * unit.rows + y) * line;
            S* const to = static_cast<S*>(unit.out) + row * out_columns * channels;
            extreme_of<false>(from, line, cut(y, unit.rows), line, tallest);
            if (lowest != nullptr) extreme_of<true>(from, line, cut(y, unit.rows), line, lowest);
            for (std::int64_t x = 0; x < out_columns; ++x) {
                const std::int64_t first = x * across, count = cut(first, unit.columns);
                S* const pixel = to + x * channels;
                extreme_of<false>(tallest + first * channels, channels, count, channels, pixel);
                if (lowest == nullptr) continue;
                extreme_of<true>(lowest + first * channels, channels, count, channels, smallest);
                add_line(smallest, channels, pixel);
            }
        }
    };
    parallel_for(rows, (rows + 4 * threads - 1) / (4 * threads), threads, body);
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
