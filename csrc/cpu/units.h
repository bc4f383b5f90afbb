// The convolution units of csrc/cpu/unit.h.
#pragma once

#include <cstdint>

#include "cpu/unit_bottleneck.h"
#include "cpu/unit_depthwise.h"
#include "cpu/unit_pool.h"
#include "cpu/unit_stem.h"
#include "cpu/unit_tasks.h"
#include "cpu/unit_upsample.h"

namespace pyhar {
namespace PYHAR_ISA {

// Maps are of type S, factors of products of type F.
template <class S, class F = S>
void convolution_unit(const Unit& unit) {
    if (unit.kernel > 1) return bottleneck_unit<S, F>(unit);
    const std::int64_t pixels = unit.batch * unit.rows * unit.columns;
    const int threads = useful_threads(2.0 * static_cast<double>(pixels * unit.channels * unit.outputs), pixels);
    const Finish<S> finish = finish_of<S>(unit);
    auto body = [&](std::int64_t begin, std::int64_t end) {
        const Frame frame;
        const Activated<S, F> activated(unit, end - begin);
        const Term<F> term = activated.term(begin, end - begin, unit.weight);
        product(&term, 1, end - begin, unit.outputs, moved(finish, begin));
    };
    parallel_for(pixels, pixels_of_a_task(pixels, threads), threads, body);
}

template <class S, class F = S>
void separable_unit(const Unit& unit) {
    const std::int64_t repeat = unit.repeat, channels = unit.channels, outputs = unit.outputs;
    const std::int64_t picture_rows = unit.rows / repeat, columns = unit.columns / repeat;  // of x
    const std::int64_t rows = unit.batch * picture_rows, made = repeat * repeat * columns;  // pixels of a row of x
    const std::int64_t a_pixel = (unit.shortcut == nullptr ? 1 : 2) * outputs + unit.kernel * unit.kernel;
    const int threads = useful_threads(2.0 * static_cast<double>(rows * made * channels * a_pixel), rows);
    const std::int64_t together = (pixels_of_a_task(rows * made, threads) + made - 1) / made;
    const Prologue<S> prologue(unit);
    const Finish<S> finish = finish_of<S>(unit);
    // Rows are numbered through the batch; those of a task may be of several pictures.
    auto body = [&](std::int64_t begin, std::int64_t end) {
        const Frame frame;
        const std::int64_t pixels = (end - begin) * made, first_pixel = begin * made;
        Window window(end - begin < picture_rows ? end - begin : picture_rows, columns, Taps(unit));
        const Spatial<F> spatial(channels, pixels);
        for (std::int64_t row = begin; row < end;) {
            const std::int64_t picture = row / picture_rows, first = row % picture_rows;
            const std::int64_t left = picture_rows - first, count = left < end - row ? left : end - row;
            window.move_to(picture * picture_rows * columns, picture_rows, first, count);
            depthwise(window, prologue, unit, count, spatial.pixel((row - begin) * made), spatial.step());
            row += count;
        }
        const Activated<S, F> activated(unit, unit.shortcut == nullptr ? 0 : pixels);
        Term<F> terms[2] = {spatial.term(pixels, unit.weight)};
        if (unit.shortcut != nullptr) terms[1] = activated.term(first_pixel, pixels, unit.shortcut);
        Finish<S> here = moved(finish, first_pixel);
        if (repeat > 1 && unit.skips[0] != nullptr) {
            S* const repeated = scratch<S>(pixels * outputs);
            repeat_rows(finish.skips[0] + begin * columns * outputs, end - begin, columns, outputs, repeated);
            here.skips[0] = repeated;
        }
        product(terms, unit.shortcut == nullptr ? 1 : 2, pixels, outputs, here);
    };
    parallel_for(rows, together, threads, body);
}

template <class S>
constexpr UnitKernels unit_kernels = {&separable_unit<S>,
                                      &bottleneck_unit<S>,
                                      &convolution_unit<S>,
                                      &pooling_unit<S>,
                                      &stem_unit<S>,
                                      &upsampling_unit<S>,
                                      Factors<S>::depth,
                                      uses_winograd<S>};

#ifdef PYHAR_INT8
template <class S>
constexpr UnitKernels int8_unit_kernels = {&separable_unit<S, Byte>,
                                           &bottleneck_unit<S, Byte>,
                                           &convolution_unit<S, Byte>,
                                           nullptr,
                                           nullptr,
                                           nullptr,
                                           Factors<Byte>::depth,
                                           false};
#endif

}  // namespace PYHAR_ISA
}  // namespace pyhar
