// The prologue of the units, relu(scale * x + shift), read from dense maps.
#pragma once

#include <cstdint>

#include "cpu/unit.h"
#include "cpu/unit_storage.h"

namespace pyhar {
namespace PYHAR_ISA {

template <class S>
class Prologue {
public:
    explicit Prologue(const Unit& unit)
        : x_(static_cast<const S*>(unit.x)), scale_(unit.scale), shift_(unit.shift), channels_(unit.channels) {}

    // body(first channel of a vector, vector) for all channels of a pixel, numbered through the batch; lanes beyond the
    // channels are 0.
    template <class Body>
    PYHAR_INLINE void each(std::int64_t pixel, const Body& body) const {
        const S* p = x_ + pixel * channels_;
        std::int64_t c = 0;
        if (scale_ == nullptr) {
            for (; c + lanes<float> <= channels_; c += lanes<float>) body(c, load_map(p + c));
            if (c < channels_) body(c, load_map_first(p + c, channels_ - c));
            return;
        }
        for (; c + lanes<float> <= channels_; c += lanes<float>) {
            body(c, rectified(load_map(p + c) * load<float>(scale_ + c) + load<float>(shift_ + c)));
        }
        if (c < channels_) {
            const std::int64_t n = channels_ - c;
            const Vec<float> scale = load_first<float>(scale_ + c, n, 0.0f), shift = load_first<float>(shift_ + c, n, 0.0f);
            body(c, rectified(load_map_first(p + c, n) * scale + shift));
        }
    }

    // Calls body(read), where read(pixel) is the vector of channels from `c` on of a pixel as above.
    template <class Body>
    PYHAR_INLINE void with_vector(std::int64_t c, const Body& body) const {
        const S* const from = x_ + c;
        const std::int64_t n = channels_ - c, step = channels_;
        const bool whole = n >= lanes<float>;
        if (scale_ == nullptr) {
            if (whole) return body([=](std::int64_t i) PYHAR_LAMBDA_INLINE { return load_map(from + i * step); });
            return body([=](std::int64_t i) PYHAR_LAMBDA_INLINE { return load_map_first(from + i * step, n); });
        }
        const Vec<float> scale = load_first<float>(scale_ + c, whole ? lanes<float> : n, 0.0f);
        const Vec<float> shift = load_first<float>(shift_ + c, whole ? lanes<float> : n, 0.0f);
        if (whole) {
            return body([=](std::int64_t i)
                            PYHAR_LAMBDA_INLINE { return rectified(load_map(from + i * step) * scale + shift); });
        }
        body([=](std::int64_t i)
                 PYHAR_LAMBDA_INLINE { return rectified(load_map_first(from + i * step, n) * scale + shift); });
    }

    // Pixels [first, first + count) as factors of a product, `step` elements apart, filled up with zeros.
    template <class D>
    void rows(std::int64_t first, std::int64_t count, D* to, std::int64_t step) const {
        for (std::int64_t i = 0; i < count; ++i) {
            each(first + i, [&](std::int64_t c, Vec<float> v) PYHAR_LAMBDA_INLINE { store_map(to + i * step + c, v); });
        }
        fill_up(to, count, step, channels_);
    }

    // Whether the maps themselves can be factors of a product.
    bool plain() const { return scale_ == nullptr && channels_ % Factors<S>::depth == 0; }
    const S* pixel(std::int64_t i) const { return x_ + i * channels_; }

private:
    const S* x_;
    const float *scale_, *shift_;
    std::int64_t channels_;
};

}  // namespace PYHAR_ISA
}  // namespace pyhar
