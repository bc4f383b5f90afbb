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

// The activated pixels as factors of a product; the maps themselves where they are that.
template <class S>
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

}  // namespace PYHAR_ISA
}  // namespace pyhar
