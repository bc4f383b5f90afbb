// The gradients of a depthwise convolution of maps whose channels lie side by side.
//
// A task takes a few vectors of channels of a picture, band by band: the band is copied in the computing type with a
// border of zeros, so that the sums know neither edges nor storage types, and each copied number serves k*k products
// from the second-level cache. The gradient of x is the same convolution of the gradient of y with the weights turned
// by half; that of the weights is summed within fixed chunks of pictures and then over these, in order.
#pragma once

#include "cpu/convert.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"

namespace pyhar {
namespace PYHAR_ISA {

template <class T>
class DepthwiseTask {
public:
    static constexpr std::int64_t vectors = 2, width = vectors * lanes<T>;

    DepthwiseTask(const DepthwiseConv& conv, std::int64_t first)
        : conv_(conv), k_(conv.kernel), half_(conv.kernel / 2), across_(conv.columns + conv.kernel - 1), first_(first) {
        channels_ = conv.channels - first < width ? conv.channels - first : width;
        const std::int64_t bytes_a_row = across_ * width * static_cast<std::int64_t>(sizeof(T));
        band_ = (std::int64_t{1} << 17) / bytes_a_row - (k_ - 1);
        if (band_ < 1) band_ = 1;
        if (band_ > conv.rows) band_ = conv.rows;
    }

    std::int64_t band() const { return band_; }
    // Numbers of a copied band, and of the weights of the task's channels.
    std::int64_t band_size() const { return (band_ + k_ - 1) * across_ * width; }
    std::int64_t weights_size() const { return k_ * k_ * width; }

    // The weights (tap, channel), turned by half or not; zeros beyond the last channel.
    void copy_weights(T* to, bool turned) const {
        const std::int64_t taps = k_ * k_;
        for (std::int64_t i = 0; i < taps * width; ++i) to[i] = T(0);
        T row[64];
        for (std::int64_t c = 0; c < channels_; ++c) {
            for (std::int64_t t = 0; t < taps; t += 64) {
                const std::int64_t n = taps - t < 64 ? taps - t : 64;
                load_row(conv_.weight.type, at(conv_.weight, (first_ + c) * taps + t), 1, row, n);
                for (std::int64_t i = 0; i < n; ++i) to[(turned ? taps - 1 - t - i : t + i) * width + c] = row[i];
            }
        }
    }

    // Rows [y - half, y + rows + half) of picture n with their border, vector by vector: (vector, row, column, lane).
    void copy_band(const Map& map, std::int64_t n, std::int64_t y, std::int64_t rows, T* to) const {
        switch (map.type) {
            case Type::f16: return copy_band_of<Half>(map, n, y, rows, to);
            case Type::bf16: return copy_band_of<BFloat16>(map, n, y, rows, to);
            case Type::f32: return copy_band_of<float>(map, n, y, rows, to);
            case Type::f64: return copy_band_of<double>(map, n, y, rows, to);
        }
    }

    // Writes rows [y, y + rows) of picture n of the convolution of a copied band.
    void convolve(const T* band, const T* weights, const Map& out, std::int64_t n, std::int64_t y,
                  std::int64_t rows) const {
        T* results = scratch<T>(conv_.columns * width);
        const std::int64_t plane = (rows + k_ - 1) * across_ * lanes<T>;
        for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t v = 0; v < vectors; ++v) {
                const T* from = band + v * plane + r * across_ * lanes<T>;
                const T* w = weights + v * lanes<T>;
                T* to = results + v * lanes<T>;
                std::int64_t x = 0;
                for (; x + 8 <= conv_.columns; x += 8) convolve_pixels<8>(from, w, x, to);
                if (x + 4 <= conv_.columns) convolve_pixels<4>(from, w, x, to), x += 4;
                if (x + 2 <= conv_.columns) convolve_pixels<2>(from, w, x, to), x += 2;
                if (x < conv_.columns) convolve_pixels<1>(from, w, x, to);
            }
            store_pixels(out, n, y + r, results);
        }
    }

    // Adds to `sums` (tap, channel) what the copied bands of x and of the gradient of y say of the weights.
    void correlate(const T* x_band, const T* g_band, std::int64_t rows, T* sums) const {
        const std::int64_t plane = (rows + k_ - 1) * across_ * lanes<T>;
        for (std::int64_t v = 0; v < vectors; ++v) {
            for (std::int64_t dy = 0; dy < k_; ++dy) {
                for (std::int64_t dx = 0; dx < k_;) {
                    const T* x = x_band + v * plane + (dy * across_ + dx) * lanes<T>;
                    const T* g = g_band + v * plane + (half_ * across_ + half_) * lanes<T>;
                    T* to = sums + (dy * k_ + dx) * width + v * lanes<T>;
                    switch (k_ - dx) {
                        case 1: correlate_taps<1>(x, g, rows, to), dx += 1; break;
                        case 2: correlate_taps<2>(x, g, rows, to), dx += 2; break;
                        case 3: correlate_taps<3>(x, g, rows, to), dx += 3; break;
                        case 4: correlate_taps<4>(x, g, rows, to), dx += 4; break;
                        default: correlate_taps<5>(x, g, rows, to), dx += 5;
                    }
                }
            }
        }
    }

private:
    static void* at(const Map& map, std::int64_t offset) {
        return static_cast<char*>(map.data) + offset * size_of(map.type);
    }

    void* pixel(const Map& map, std::int64_t n, std::int64_t y, std::int64_t x) const {
        return at(map, n * map.stride[0] + y * map.stride[2] + x * map.stride[3] + first_);
    }

    template <class S>
    void copy_band_of(const Map& map, std::int64_t n, std::int64_t y, std::int64_t rows, T* to) const {
        const std::int64_t plane = (rows + k_ - 1) * across_ * lanes<T>;
        const auto clear = [&](T* row, std::int64_t pixels) {
            for (std::int64_t v = 0; v < vectors; ++v) {
                for (std::int64_t i = 0; i < pixels * lanes<T>; ++i) row[v * plane + i] = T(0);
            }
        };
        for (std::int64_t r = 0; r < rows + k_ - 1; ++r) {
            const std::int64_t source = y + r - half_;
            T* row = to + r * across_ * lanes<T>;
            if (source < 0 || source >= conv_.rows) {
                clear(row, across_);
                continue;
            }
            clear(row, half_);
            clear(row + (half_ + conv_.columns) * lanes<T>, half_);
            row += half_ * lanes<T>;
            for (std::int64_t x = 0; x < conv_.columns; ++x) {
                const S* from = static_cast<const S*>(pixel(map, n, source, x));
                alignas(64) T numbers[width];
                if (channels_ == width) {
                    load_row_of<S, T>(from, 1, numbers, width);
                } else {
                    for (std::int64_t c = 0; c < width; ++c)
                        numbers[c] = c < channels_ ? static_cast<T>(widen(from[c])) : T(0);
                }
                for (std::int64_t v = 0; v < vectors; ++v)
                    store<T>(row + v * plane + x * lanes<T>, load<T>(numbers + v * lanes<T>));
            }
        }
    }

    void store_pixels(const Map& out, std::int64_t n, std::int64_t y, const T* results) const {
        for (std::int64_t x = 0; x < conv_.columns; ++x)
            store_row(out.type, pixel(out, n, y, x), 1, results + x * width, channels_);
    }

    template <int pixels>
    PYHAR_INLINE void convolve_pixels(const T* from, const T* weights, std::int64_t x, T* to) const {
        Vec<T> sum[pixels] = {};
        for (std::int64_t dy = 0; dy < k_; ++dy) {
            const T* row = from + (dy * across_ + x) * lanes<T>;
            for (std::int64_t dx = 0; dx < k_; ++dx, weights += width) {
                const Vec<T> w = load<T>(weights);
                PYHAR_UNROLL
                for (int p = 0; p < pixels; ++p) sum[p] += w * load<T>(row + (dx + p) * lanes<T>);
            }
        }
        PYHAR_UNROLL
        for (int p = 0; p < pixels; ++p) store<T>(to + (x + p) * width, sum[p]);
    }

    // Taps side by side; two pixels at a time, so that sums need not wait for each other.
    template <int taps>
    PYHAR_INLINE void correlate_taps(const T* x, const T* g, std::int64_t rows, T* to) const {
        Vec<T> sum[2][taps] = {};
        for (std::int64_t r = 0; r < rows; ++r, x += across_ * lanes<T>, g += across_ * lanes<T>) {
            std::int64_t i = 0;
            for (; i + 2 <= conv_.columns; i += 2) {
                const Vec<T> g0 = load<T>(g + i * lanes<T>), g1 = load<T>(g + (i + 1) * lanes<T>);
                PYHAR_UNROLL
                for (int t = 0; t < taps; ++t) {
                    sum[0][t] += g0 * load<T>(x + (i + t) * lanes<T>);
                    sum[1][t] += g1 * load<T>(x + (i + 1 + t) * lanes<T>);
                }
            }
            if (i < conv_.columns) {
                const Vec<T> g0 = load<T>(g + i * lanes<T>);
                PYHAR_UNROLL
                for (int t = 0; t < taps; ++t) sum[0][t] += g0 * load<T>(x + (i + t) * lanes<T>);
            }
        }
        PYHAR_UNROLL
        for (int t = 0; t < taps; ++t) store<T>(to + t * width, load<T>(to + t * width) + (sum[0][t] + sum[1][t]));
    }

    const DepthwiseConv& conv_;
    std::int64_t k_, half_, across_, first_, channels_, band_;
};

template <class T>
void depthwise_backward_of(const DepthwiseConv& conv, const Map& g, const Map& d_x, const Map& d_weight) {
    using Task = DepthwiseTask<T>;
    // As many chunks as keep many threads busy; their number must not depend on how many there are.
    const std::int64_t chunks = conv.batch < 16 ? conv.batch : 16, taps = conv.kernel * conv.kernel;
    const std::int64_t groups = (conv.channels + Task::width - 1) / Task::width;
    Frame outer;
    T* partial = d_weight ? scratch<T>(chunks * groups * taps * Task::width) : nullptr;
    auto body = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            Frame frame;
            const std::int64_t group = i % groups, chunk = i / groups;
            const Task task(conv, group * Task::width);
            T* weights = scratch<T>(task.weights_size());
            T* g_band = scratch<T>(task.band_size());
            T* x_band = scratch<T>(task.band_size());
            T* sums = partial ? partial + i * task.weights_size() : nullptr;
            if (d_x) task.copy_weights(weights, true);
            for (std::int64_t k = 0; sums && k < task.weights_size(); ++k) sums[k] = T(0);
            for (std::int64_t n = conv.batch * chunk / chunks; n < conv.batch * (chunk + 1) / chunks; ++n) {
                for (std::int64_t row = 0; row < conv.rows; row += task.band()) {
                    Frame inner;
                    const std::int64_t rows = conv.rows - row < task.band() ? conv.rows - row : task.band();
                    task.copy_band(g, n, row, rows, g_band);
                    if (d_x) task.convolve(g_band, weights, d_x, n, row, rows);
                    if (!sums) continue;
                    task.copy_band(conv.x, n, row, rows, x_band);
                    task.correlate(x_band, g_band, rows, sums);
                }
            }
        }
    };
    const std::int64_t tasks = chunks * groups;
    parallel_for(tasks, 1, useful_threads(2 * conv.work(), tasks), body);
    if (!d_weight) return;
    T* row = scratch<T>(taps);
    for (std::int64_t c = 0; c < conv.channels; ++c) {
        const T* from = partial + c / Task::width * taps * Task::width + c % Task::width;
        for (std::int64_t t = 0; t < taps; ++t) {
            row[t] = T(0);
            for (std::int64_t chunk = 0; chunk < chunks; ++chunk)
                row[t] += from[(chunk * groups * taps + t) * Task::width];
        }
        char* to = static_cast<char*>(d_weight.data) + c * taps * size_of(d_weight.type);
        store_row<T>(d_weight.type, to, 1, row, taps);
    }
}

inline void depthwise_backward(const DepthwiseConv& conv, const Map& g, const Map& d_x, const Map& d_weight) {
    conv.wide ? depthwise_backward_of<double>(conv, g, d_x, d_weight)
              : depthwise_backward_of<float>(conv, g, d_x, d_weight);
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
