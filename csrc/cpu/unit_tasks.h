// Which pixels of a unit are worked on together, and by which thread.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/unit.h"
#include "cpu/unit_product.h"
#include "cpu/unit_prologue.h"

namespace pyhar {
namespace PYHAR_ISA {

// Pixels whose rows of factors, beside a panel of weights, fit the second-level cache. The more there are, the less is
// read twice for what a depthwise kernel reaches beyond them.
constexpr std::int64_t pixels_together = 256;

// Pixels to be worked on together such that every thread has some.
PYHAR_INLINE std::int64_t pixels_of_a_task(std::int64_t pixels, int threads) {
    const std::int64_t share = (pixels + threads - 1) / threads;
    return share < 1 ? 1 : share < pixels_together ? share : pixels_together;
}

template <class S>
Finish<S> finish_of(const Unit& unit) {
    Finish<S> finish{static_cast<S*>(unit.out), unit.outputs};
    for (int i = 0; i < 2; ++i) finish.skips[i] = static_cast<const S*>(unit.skips[i]);
    finish.skip_step = unit.outputs;
    return finish;
}

// `finish` for pixels from `pixel` on.
template <class D>
Finish<D> moved(Finish<D> finish, std::int64_t pixel) {
    finish.out += pixel * finish.out_step;
    for (const D*& skip : finish.skips) {
        if (skip != nullptr) skip += pixel * finish.skip_step;
    }
    return finish;
}

// The activated pixels as factors of type F of a product; the maps themselves where they are that.
template <class S, class F = S>
class Activated {
public:
    Activated(const Unit& unit, std::int64_t most_pixels)
        : prologue_(unit), channels_(unit.channels), step_(prologue_.plain() ? channels_ : spread<S>(channels_)) {
        if (!prologue_.plain()) rows_ = scratch<S>(most_pixels * step_);
    }

    // Those of `count` pixels from `first` on, until the next call, times packed weights.
    Term<S> term(std::int64_t first, std::int64_t count, const void* weight) const {
        if (rows_ != nullptr) prologue_.rows(first, count, rows_, step_);
        return {rows_ != nullptr ? rows_ : prologue_.pixel(first), step_, static_cast<const S*>(weight), channels_};
    }

private:
    const Prologue<S> prologue_;
    const std::int64_t channels_, step_;
    S* rows_ = nullptr;
};

// What a depthwise kernel makes of pixels, as factors of type F of a product.
template <class F>
class Spatial {
public:
    using Written = F;  // by the depthwise kernel

    Spatial(std::int64_t channels, std::int64_t most_pixels)
        : channels_(channels), step_(spread<F>(channels)), data_(scratch<F>(most_pixels * step_)) {}

    Written* pixel(std::int64_t i) const { return data_ + i * step_; }
    std::int64_t step() const { return step_; }

    Term<F> term(std::int64_t count, const void* weight) const {
        fill_up(data_, count, step_, channels_);
        return {data_, step_, static_cast<const F*>(weight), channels_};
    }

private:
    const std::int64_t channels_, step_;
    F* const data_;
};

#ifdef PYHAR_INT8

// A pixel's activated channels to `line`.
template <class S>
PYHAR_INLINE void activate(const Prologue<S>& prologue, std::int64_t pixel, float* line, Magnitude& magnitude) {
    Magnitude seen = magnitude;
    prologue.each(pixel, [&](std::int64_t c, Vec<float> v) PYHAR_LAMBDA_INLINE {
        store<float>(line + c, v);
        seen.see(v);
    });
    magnitude = seen;
}

template <class S>
class Activated<S, Byte> {
public:
    Activated(const Unit& unit, std::int64_t most_pixels)
        : prologue_(unit),
          pixels_(unit.channels, most_pixels, unit.scale == nullptr),
          line_(scratch<float>(round_up<float>(unit.channels))) {}

    Term<Byte> term(std::int64_t first, std::int64_t count, const void* weight) const {
        for (std::int64_t i = 0; i < count; ++i) {
            Magnitude magnitude;
            activate(prologue_, first + i, line_, magnitude);
            pixels_.write(i, line_, magnitude.largest());
        }
        return pixels_.term(weight);
    }

private:
    const Prologue<S> prologue_;
    const BytePixels pixels_;
    float* const line_;
};

template <>
class Spatial<Byte> {
public:
    using Written = float;

    Spatial(std::int64_t channels, std::int64_t most_pixels)
        : channels_(channels),
          step_(spread<float>(channels)),
          pixels_(channels, most_pixels, true),
          data_(scratch<float>(most_pixels * step_)) {}

    Written* pixel(std::int64_t i) const { return data_ + i * step_; }
    std::int64_t step() const { return step_; }

    Term<Byte> term(std::int64_t count, const void* weight) const {
        for (std::int64_t i = 0; i < count; ++i) {
            Magnitude magnitude;
            magnitude.see_all(pixel(i), channels_);
            pixels_.write(i, pixel(i), magnitude.largest());
        }
        return pixels_.term(weight);
    }

private:
    const std::int64_t channels_, step_;
    const BytePixels pixels_;
    float* const data_;
};

#endif

}  // namespace PYHAR_ISA
}  // namespace pyhar
