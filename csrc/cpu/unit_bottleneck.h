// Bottleneck units: 1 x 1 to the middle, bias and relu, k x k to the outputs. The middle is never whole in memory.
// Without the first product the middle is what the prologue gives.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/unit_winograd.h"
#include "cpu/unit_tasks.h"

namespace pyhar {
namespace PYHAR_ISA {

// Computes rows of the middle maps, in type D.
template <class S, class D>
class MiddleRow {
public:
    explicit MiddleRow(const Unit& unit)
        : unit_(unit), prologue_(unit), activated_(unit, unit.reduce == nullptr ? 0 : unit.columns) {}

    static std::int64_t pixel_step(const Unit& unit) { return spread<D>(unit.middle); }
    int zero() const { return 0; }  // in each byte

    // The row of pixels from `pixel` on; returns its scale.
    float fill(std::int64_t pixel, D* to) const {
        const std::int64_t step = pixel_step(unit_);
        if (unit_.reduce == nullptr) {
            prologue_.rows(pixel, unit_.columns, to, step);
        } else {
            const Term<S> term = activated_.term(pixel, unit_.columns, unit_.reduce);
            Finish<D> finish{to, step};
            finish.bias = unit_.bias;
            finish.relu = true;
            product(&term, 1, unit_.columns, unit_.middle, finish);
        }
        return 1.0f;
    }

private:
    const Unit& unit_;
    const Prologue<S> prologue_;
    const Activated<S> activated_;
};

#ifdef PYHAR_INT8

// As bytes, a scale for each row, so that a row of the kernel is one term: its pixels lie side by side.
template <class S>
class MiddleRow<S, Byte> {
public:
    explicit MiddleRow(const Unit& unit)
        : unit_(unit),
          prologue_(unit),
          activated_(unit, unit.reduce == nullptr ? 0 : unit.columns),
          step_(spread<float>(unit.middle)),
          line_(scratch<float>(unit.columns * step_)) {
        std::memset(line_, 0, sizeof(float) * static_cast<std::size_t>(unit.columns * step_));
    }

    static std::int64_t pixel_step(const Unit& unit) { return round_up<float>(unit.middle); }
    bool is_signed() const { return unit_.reduce == nullptr && unit_.scale == nullptr; }
    int zero() const { return is_signed() ? 128 : 0; }

    float fill(std::int64_t pixel, Byte* to) const {
        Magnitude magnitude;
        if (unit_.reduce == nullptr) {
            for (std::int64_t i = 0; i < unit_.columns; ++i) {
                activate(prologue_, pixel + i, line_ + i * step_, magnitude);
            }
        } else {
            const Term<Byte> term = activated_.term(pixel, unit_.columns, unit_.reduce);
            Finish<float> finish{line_, step_};
            finish.bias = unit_.bias;
            finish.relu = true;
            product(&term, 1, unit_.columns, unit_.middle, finish);
            for (std::int64_t i = 0; i < unit_.columns; ++i) magnitude.see_all(line_ + i * step_, unit_.middle);
        }
        const Quantisation quantisation(magnitude.largest(), is_signed());
        for (std::int64_t i = 0; i < unit_.columns; ++i) {
            quantisation.write(line_ + i * step_, unit_.middle, to + i * pixel_step(unit_));
        }
        return quantisation.scale();
    }

private:
    const Unit& unit_;
    const Prologue<S> prologue_;
    const Activated<S, Byte> activated_;
    const std::int64_t step_;
    float* const line_;
};

#endif

// Rows of the middle maps of one picture, in type D, and zeros outside it: those that a piece of `rows` rows of the
// output needs. The next piece of the same picture takes over the rows that both need.
template <class S, class D>
class Middle {
public:
    Middle(const Unit& unit, std::int64_t rows)
        : unit_(unit),
          compute_(unit),
          margin_(unit.kernel / 2),
          rows_(rows + 2 * margin_),
          pixel_step_(compute_.pixel_step(unit)),
          row_step_((unit.columns + 2 * margin_ + spare) * pixel_step_),
          data_(scratch<D>(rows_ * row_step_ + Factors<D>::depth)),  // a term may be filled up beyond the end
          scales_(scratch<float>(rows_)) {
        clear(data_, rows_ * row_step_);
        for (std::int64_t i = 0; i < rows_; ++i) scales_[i] = 0.0f;
    }

    // What rows [first, first + rows) of the output need.
    void move_to(std::int64_t picture, std::int64_t first, std::int64_t rows) {
        std::int64_t done = 0;
        if (picture == picture_ && first == next_) {
            done = 2 * margin_;
            for (std::int64_t i = 0; i < done; ++i) copy_row(last_rows_ + i, i);
        }
        for (; done < rows_; ++done) {
            const std::int64_t y = first - margin_ + done;
            D* const to = data_ + done * row_step_ + margin_ * pixel_step_;
            if (y >= 0 && y < unit_.rows && done < rows + 2 * margin_) {
                scales_[done] = compute_.fill((picture * unit_.rows + y) * unit_.columns, to);
            } else {
                clear(to, unit_.columns * pixel_step_);
                scales_[done] = 0.0f;
            }
        }
        picture_ = picture, next_ = first + rows, last_rows_ = rows;
    }

    const D* row(std::int64_t i) const { return data_ + i * row_step_; }
    const float* scale(std::int64_t i) const { return scales_ + i; }
    std::int64_t row_step() const { return row_step_; }
    std::int64_t pixel_step() const { return pixel_step_; }
    const MiddleRow<S, D>& compute() const { return compute_; }

    static constexpr std::int64_t spare = 3;  // zeros to the right: a patch may reach so far beyond the margin

private:
    void clear(D* to, std::int64_t count) { std::memset(static_cast<void*>(to), compute_.zero(), sizeof(D) * count); }

    void copy_row(std::int64_t from, std::int64_t to) {
        if (from != to) std::memcpy(row_at(to), row_at(from), sizeof(D) * row_step_);
        scales_[to] = scales_[from];
    }
    D* row_at(std::int64_t i) { return data_ + i * row_step_; }

    const Unit& unit_;
    const MiddleRow<S, D> compute_;
    const std::int64_t margin_, rows_, pixel_step_, row_step_;
    D* const data_;
    float* const scales_;
    std::int64_t picture_ = -1, next_ = 0, last_rows_ = 0;
};

// Patches whose transforms, beside a panel of weights, are worked on in the second-level cache.
constexpr std::int64_t patches_together = 32;

// The 3 x 3 convolution of a piece of the middle maps.
class Winograd {
public:
    Winograd(const Unit& unit, std::int64_t patch_rows)
        : unit_(unit),
          across_((unit.columns + patch_outputs - 1) / patch_outputs),
          step_(spread<float>(unit.middle)),
          element_(spread<float>(patch_rows * across_ * step_)),
          product_element_(spread<float>(patch_rows * across_ * panel_outputs)),
          transformed_(scratch<float>(patch_elements * element_)),
          products_(scratch<float>(patch_elements * product_element_)) {}

    // Reads the rows of the middle maps for `patch_rows` rows of patches.
    template <class M>
    void read(const M& middle, std::int64_t patch_rows) {
        patches_ = patch_rows * across_;
        for (std::int64_t patch = 0; patch < patches_; ++patch) {
            const float* from = middle.row(patch / across_ * patch_outputs) +
                                patch % across_ * patch_outputs * middle.pixel_step();
            float* const to = transformed_ + patch * step_;
            for (std::int64_t c = 0; c < unit_.middle; c += lanes<float>) {
                patch_forward(from + c, middle.row_step(), middle.pixel_step(), to + c, element_);
            }
        }
    }

    // Multiplies for the outputs of a panel.
    void multiply(std::int64_t first) {
        const std::int64_t matrix = round_up<float>(unit_.outputs) * unit_.middle;
        for (std::int64_t e = 0; e < patch_elements; ++e) {
            const Term<float> term{transformed_ + e * element_, step_,
                                   static_cast<const float*>(unit_.weight) + e * matrix, unit_.middle};
            const Finish<float> finish{products_ + e * product_element_, panel_outputs};
            product_panel(&term, 1, patches_, first, round_up<float>(unit_.outputs), finish);
        }
    }

    // write(row, column, vector) for the pixels of one vector of the panel's outputs, those beyond the piece included.
    template <class Write>
    PYHAR_INLINE void each(std::int64_t vector, const Write& write) const {
        for (std::int64_t patch = 0; patch < patches_; ++patch) {
            const std::int64_t row = patch / across_ * patch_outputs, column = patch % across_ * patch_outputs;
            patch_inverse(products_ + patch * panel_outputs + vector * lanes<float>, product_element_,
                          [&](int y, int x, Vec<float> v) PYHAR_LAMBDA_INLINE { write(row + y, column + x, v); });
        }
    }

private:
    const Unit& unit_;
    const std::int64_t across_, step_, element_, product_element_;
    float *const transformed_, *const products_;
    std::int64_t patches_ = 0;
};

// Calls body(picture, first row, rows) for pieces of at most `together` rows, those of a picture in order.
template <class Body>
void each_piece(const Unit& unit, std::int64_t together, std::int64_t begin, std::int64_t end, const Body& body) {
    const std::int64_t a_picture = (unit.rows + together - 1) / together;
    for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t first = i % a_picture * together;
        body(i / a_picture, first, unit.rows - first < together ? unit.rows - first : together);
    }
}

// Outputs of a unit: [first, end), whole panels of them but for the last.
struct Outputs {
    std::int64_t first, end;
};

template <class S>
void bottleneck_winograd(const Unit& unit, std::int64_t together, std::int64_t begin, std::int64_t end,
                         const Outputs& part) {
    const Frame frame;
    const std::int64_t columns = unit.columns, outputs = unit.outputs;
    Middle<S, float> middle(unit, together);
    Winograd winograd(unit, together / patch_outputs);
    const Activated<S> activated(unit, unit.shortcut == nullptr ? 0 : together * columns);
    float* const base = unit.shortcut == nullptr ? nullptr : scratch<float>(together * columns * panel_outputs);
    each_piece(unit, together, begin, end, [&](std::int64_t picture, std::int64_t first_row, std::int64_t rows) {
        middle.move_to(picture, first_row, rows);
        winograd.read(middle, (rows + patch_outputs - 1) / patch_outputs);
        const std::int64_t pixel = (picture * unit.rows + first_row) * columns;
        const Finish<S> all = moved(finish_of<S>(unit), pixel);
        Term<S> straight{};
        if (base != nullptr) straight = activated.term(pixel, rows * columns, unit.shortcut);
        for (std::int64_t first = part.first; first < part.end; first += panel_outputs) {
            if (base != nullptr) {
                product_panel(&straight, 1, rows * columns, first, round_up<float>(outputs),
                              Finish<float>{base, panel_outputs});
            }
            winograd.multiply(first);
            for (std::int64_t c = first; c < outputs && c < first + panel_outputs; c += lanes<float>) {
                const std::int64_t last = outputs - c;
                winograd.each((c - first) / lanes<float>, [&](std::int64_t y, std::int64_t x, Vec<float> v)
                                                              PYHAR_LAMBDA_INLINE {
                    if (y >= rows || x >= columns) return;
                    const std::int64_t i = y * columns + x;
                    if (base != nullptr) v += load<float>(base + i * panel_outputs + (c - first));
                    for (const S* skip : all.skips) {
                        if (skip == nullptr) continue;
                        const S* p = skip + i * outputs + c;
                        v += last >= lanes<float> ? load_map(p) : load_map_first(p, last);
                    }
                    S* const p = all.out + i * outputs + c;
                    last >= lanes<float> ? store_map(p, v) : store_map_first(p, v, last);
                });
            }
        }
    });
}

// Whether kernels of 3 x 3 may be left to Winograd's convolution, which multiplies in float32.
template <class S>
constexpr bool uses_winograd = Factors<S>::depth <= 2;

// The products of a kernel with the middle maps for row y of a piece, one for each tap; returns their number.
template <class S>
int kernel_terms(const Unit& unit, const Middle<S, S>& middle, std::int64_t y, Term<S>* terms) {
    const std::int64_t kernel = unit.kernel, step = middle.pixel_step();
    const S* weight = static_cast<const S*>(unit.weight);
    for (std::int64_t tap = 0; tap < kernel * kernel; ++tap) {
        terms[tap] = {middle.row(y + tap / kernel) + tap % kernel * step, step, weight, unit.middle};
        weight += terms[tap].vector_step() * (round_up<float>(unit.outputs) / lanes<float>);
    }
    return static_cast<int>(kernel * kernel);
}

#ifdef PYHAR_INT8
template <class S>
int kernel_terms(const Unit& unit, const Middle<S, Byte>& middle, std::int64_t y, Term<Byte>* terms) {
    const std::int64_t step = middle.pixel_step();
    const Byte* weight = static_cast<const Byte*>(unit.weight);
    for (std::int64_t i = 0; i < unit.kernel; ++i) {
        terms[i] = {middle.row(y + i), step, weight, unit.kernel * step, middle.scale(y + i), 0,
                    middle.compute().is_signed()};
        weight += terms[i].vector_step() * (round_up<float>(unit.outputs) / lanes<float>);
    }
    return static_cast<int>(unit.kernel);
}
#endif

// Any kernel: sums of products with the middle maps, moved by the tap.
template <class S, class F>
void bottleneck_direct(const Unit& unit, std::int64_t together, std::int64_t begin, std::int64_t end,
                       const Outputs& part) {
    const Frame frame;
    const std::int64_t columns = unit.columns;
    Middle<S, F> middle(unit, together);
    const Activated<S, F> activated(unit, unit.shortcut == nullptr ? 0 : together * columns);
    Term<F>* const terms = scratch<Term<F>>(unit.kernel * unit.kernel + 1);
    each_piece(unit, together, begin, end, [&](std::int64_t picture, std::int64_t first_row, std::int64_t rows) {
        middle.move_to(picture, first_row, rows);
        const std::int64_t pixel = (picture * unit.rows + first_row) * columns;
        Term<F> straight{};
        if (unit.shortcut != nullptr) straight = activated.term(pixel, rows * columns, unit.shortcut);
        for (std::int64_t y = 0; y < rows; ++y) {
            int count = kernel_terms(unit, middle, y, terms);
            if (unit.shortcut != nullptr) terms[count++] = straight.from(y * columns);
            for (int t = 0; t < count; ++t) terms[t].b += part.first / lanes<float> * terms[t].vector_step();
            product(terms, count, columns, part.end - part.first,
                    from_output(moved(finish_of<S>(unit), pixel + y * columns), part.first));
        }
    });
}

// Calls body(part, begin, end) for the pieces of each part that [begin, end) reaches into, `pieces` to a part.
template <class Body>
void each_part(std::int64_t begin, std::int64_t end, std::int64_t pieces, const Body& body) {
    while (begin < end) {
        const std::int64_t part = begin / pieces, next = (part + 1) * pieces, last = next < end ? next : end;
        body(part, begin - part * pieces, last - part * pieces);
        begin = last;
    }
}

template <class S, class F = S>
void bottleneck_unit(const Unit& unit) {
    const bool winograd = uses_winograd<F> && unit.winograd;
    const std::int64_t across = winograd ? (unit.columns + patch_outputs - 1) / patch_outputs : unit.columns;
    const std::int64_t whole = winograd ? patches_together : pixels_together;
    const std::int64_t unit_rows = winograd ? patch_outputs : 1;
    const std::int64_t rows = (unit.rows + unit_rows - 1) / unit_rows;
    const std::int64_t fitting = across < whole ? whole / across : 1;
    const std::int64_t together = (fitting < rows ? fitting : rows) * unit_rows;
    const std::int64_t pieces = unit.batch * ((unit.rows + together - 1) / together);
    const std::int64_t reduced = unit.reduce == nullptr ? 0 : unit.channels;
    const std::int64_t a_pixel = unit.middle * (reduced + unit.outputs * unit.kernel * unit.kernel);
    const std::int64_t panels = (unit.outputs + panel_outputs - 1) / panel_outputs;
    const int threads =
        useful_threads(2.0 * static_cast<double>(unit.batch * unit.rows * unit.columns * a_pixel), pieces * panels);
    // Where there are fewer pieces than threads, these share the outputs, and so the weights.
    const std::int64_t shares = (threads + pieces - 1) / pieces, parts = shares < panels ? shares : panels;
    auto body = [&](std::int64_t begin, std::int64_t end) {
        each_part(begin, end, pieces, [&](std::int64_t part, std::int64_t first, std::int64_t last) {
            const std::int64_t next = panels * (part + 1) / parts * panel_outputs;
            const Outputs outputs{panels * part / parts * panel_outputs, next < unit.outputs ? next : unit.outputs};
            if constexpr (uses_winograd<F>) {
                if (winograd) return bottleneck_winograd<S>(unit, together, first, last, outputs);
            }
            bottleneck_direct<S, F>(unit, together, first, last, outputs);
        });
    };
    // Pieces that follow each other share rows of the middle: long ranges, yet enough for every thread.
    const std::int64_t range = pieces * parts / (4 * threads);
    parallel_for(pieces * parts, range < 1 ? 1 : range, threads, body);
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
