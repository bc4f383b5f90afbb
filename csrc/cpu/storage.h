// One image of a tensor in memory: a matrix of channels and pixels in any type and layout, and blocks of it in the
// computing type.
#pragma once

#include "cpu/convert.h"
#include "cpu/transpose.h"

namespace pyhar {
namespace PYHAR_ISA {

// A block in the computing type: rows of numbers, `step` apart.
template <class T>
struct Block {
    T* rows;
    std::int64_t step;
};

template <class T>
class Image {
public:
    Image() = default;
    Image(const Map& map, std::int64_t batch, std::int64_t rows, std::int64_t columns)
        : type_(map.type), size_(size_of(map.type)), channel_step_(map.stride[1]) {
        base_ = static_cast<char*>(map.data) + batch * map.stride[0] * size_;
        // A row of pixels as long as possible: the whole plane where its rows follow one another.
        const std::int64_t down = map.stride[2], across = map.stride[3];
        if (columns == 1) {
            run_ = rows, step_ = down, next_ = 0;
        } else if (rows == 1 || down == columns * across) {
            run_ = rows * columns, step_ = across, next_ = 0;
        } else {
            run_ = columns, step_ = across, next_ = down;
        }
        pixels_ = rows * columns;
        if (run_ == 1) step_ = 1;
    }

    explicit operator bool() const { return base_ != nullptr; }

    // Whether the pixels of a channel are a plain row of T.
    bool planar() const { return plain(type_of<T>, false); }
    // Whether the channels of a pixel lie side by side, and its neighbours in the plane do not.
    bool channels_innermost() const { return channel_step_ == 1 && step_ != 1; }
    // Whether the channels of a pixel are a plain row of T, and pixels a constant step apart.
    bool interleaved() const { return plain(type_of<T>, true); }

    // Whether the rows of that matrix, or of the same transposed (a row for each pixel), are plain rows of `type`.
    bool plain(Type type, bool by_pixel) const {
        return type_ == type && run_ == pixels_ && (by_pixel ? channel_step_ : step_) == 1;
    }
    char* data() const { return base_; }
    std::int64_t row_step(bool by_pixel) const { return by_pixel ? step_ : channel_step_; }

    // Where planar() or interleaved(): the matrix itself, with rows of pixels or of channels.
    Block<T> channel_rows() const { return {reinterpret_cast<T*>(base_), channel_step_}; }
    Block<T> pixel_rows() const { return {reinterpret_cast<T*>(base_), step_}; }

    // Rows of channels [c, c + channels), columns of pixels [p, p + pixels): in place if planar(), else in `buffer`.
    Block<const T> read(std::int64_t c, std::int64_t channels, std::int64_t p, std::int64_t pixels, T* buffer,
                        std::int64_t step) const {
        if (planar()) return {reinterpret_cast<const T*>(base_) + c * channel_step_ + p, channel_step_};
        load(c, channels, p, pixels, buffer, step);
        return {buffer, step};
    }

    void load(std::int64_t c, std::int64_t channels, std::int64_t p, std::int64_t pixels, T* to,
              std::int64_t step) const {
        if (channels_innermost() && channels > 1) {
            T tile[tile_side * tile_side];
            for (std::int64_t i = 0; i < pixels; i += tile_side) {
                const std::int64_t np = least(tile_side, pixels - i);
                for (std::int64_t j = 0; j < channels; j += tile_side) {
                    const std::int64_t nc = least(tile_side, channels - j);
                    if (interleaved()) {  // no need of the tile
                        const Block<T> all = pixel_rows();
                        transpose(all.rows + (p + i) * all.step + c + j, all.step, np, nc, to + j * step + i, step);
                        continue;
                    }
                    load_pixels(p + i, np, c + j, nc, tile, tile_side);
                    transpose(tile, tile_side, np, nc, to + j * step + i, step);
                }
            }
            return;
        }
        for (std::int64_t k = 0; k < channels; ++k) {
            each_run(p, pixels, [&](std::int64_t pixel, std::int64_t done, std::int64_t n) {
                load_row(type_, at(c + k, pixel), step_, to + k * step + done, n);
            });
        }
    }

    void store(std::int64_t c, std::int64_t channels, std::int64_t p, std::int64_t pixels, const T* from,
               std::int64_t step) const {
        if (channels_innermost() && channels > 1) {
            T tile[tile_side * tile_side];
            for (std::int64_t i = 0; i < pixels; i += tile_side) {
                const std::int64_t np = least(tile_side, pixels - i);
                for (std::int64_t j = 0; j < channels; j += tile_side) {
                    const std::int64_t nc = least(tile_side, channels - j);
                    if (interleaved()) {
                        const Block<T> all = pixel_rows();
                        transpose(from + j * step + i, step, nc, np, all.rows + (p + i) * all.step + c + j, all.step);
                        continue;
                    }
                    transpose(from + j * step + i, step, nc, np, tile, tile_side);
                    store_pixels(p + i, np, c + j, nc, tile, tile_side);
                }
            }
            return;
        }
        for (std::int64_t k = 0; k < channels; ++k) {
            each_run(p, pixels, [&](std::int64_t pixel, std::int64_t done, std::int64_t n) {
                store_row(type_, at(c + k, pixel), step_, from + k * step + done, n);
            });
        }
    }

    // The same transposed: rows of pixels, columns of channels.
    void load_pixels(std::int64_t p, std::int64_t pixels, std::int64_t c, std::int64_t channels, T* to,
                     std::int64_t step) const {
        for (std::int64_t i = 0; i < pixels; ++i) load_row(type_, at(c, p + i), channel_step_, to + i * step, channels);
    }

    void store_pixels(std::int64_t p, std::int64_t pixels, std::int64_t c, std::int64_t channels, const T* from,
                      std::int64_t step) const {
        for (std::int64_t i = 0; i < pixels; ++i)
            store_row(type_, at(c, p + i), channel_step_, from + i * step, channels);
    }

private:
    static constexpr std::int64_t tile_side = 16;

    static std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

    char* at(std::int64_t channel, std::int64_t pixel) const {
        std::int64_t offset = channel * channel_step_;
        offset += run_ == pixels_ ? pixel * step_ : pixel / run_ * next_ + pixel % run_ * step_;
        return base_ + offset * size_;
    }

    // body(first pixel, pixels before it, pixels) for each stretch of [p, p + pixels) with a constant step.
    template <class Body>
    PYHAR_INLINE void each_run(std::int64_t p, std::int64_t pixels, const Body& body) const {
        std::int64_t done = 0;
        while (done < pixels) {
            const std::int64_t n = least(run_ - (p + done) % run_, pixels - done);
            body(p + done, done, n);
            done += n;
        }
    }

    char* base_ = nullptr;
    Type type_ = Type::f32;
    std::int64_t size_ = 4, channel_step_ = 0, pixels_ = 0;
    std::int64_t run_ = 1, step_ = 1, next_ = 0;  // pixels in a run, elements from one to the next, from run to run
};

}  // namespace PYHAR_ISA
}  // namespace pyhar
