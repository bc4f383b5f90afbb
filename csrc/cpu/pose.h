// Planes of a problem, one or several at a time: what is computed of each alone, forward and backward.
#pragma once

#include "cpu/parallel.h"
#include "cpu/plane.h"
#include "cpu/scratch.h"
#include "cpu/storage.h"

namespace pyhar {
namespace PYHAR_ISA {

inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

template <class T>
T read_value(const Map& map, std::int64_t batch, std::int64_t channel) {
    T value = T(0);
    const std::int64_t offset = batch * map.stride[0] + channel * map.stride[1];
    load_row<T>(map.type, static_cast<const char*>(map.data) + offset * size_of(map.type), 1, &value, 1);
    return value;
}

template <class T>
bool is_planar(const Map& map, const Sizes& size) {
    return !map || Image<T>(map, 0, size.rows, size.columns).planar();
}

// The parts of a problem in the computing type.
template <class T>
class Pose {
public:
    Pose(const Problem& problem, bool coordinates) : problem_(problem), size_(problem.size), coordinates_(coordinates) {
        if (coordinates) {
            T* memory = scratch<T>(2 * round_up<T>(size_.pixels()));
            grid_ = make_grid<T>(problem.grid, size_.rows, size_.columns, memory);
        }
    }

    const Problem& problem() const { return problem_; }
    const Sizes& size() const { return size_; }
    bool softmax() const { return problem_.stats != nullptr; }
    Grid<T> grid() const { return grid_; }
    bool coordinates() const { return coordinates_; }

    T* stats(std::int64_t b, std::int64_t j) const {
        return static_cast<T*>(problem_.stats) + 2 * (b * size_.joints + j);
    }

    T beta(std::int64_t b, std::int64_t j) const {
        return problem_.beta ? read_value<T>(problem_.beta, b, j) : static_cast<T>(problem_.scale);
    }

    Image<T> image(const Map& map, std::int64_t b) const {
        return map ? Image<T>(map, b, size_.rows, size_.columns) : Image<T>();
    }

    // Joints whose planes are taken together. Where they lie in memory as they are computed with, one, or as many small
    // ones as make what is done once for all of them worth it; where their numbers alternate, as many as fit the
    // second-level cache, since others' numbers come in the same cache lines.
    std::int64_t together(bool planar) const {
        if (planar) return least(1 + 1024 / size_.pixels(), size_.joints);
        const std::int64_t fit = (std::int64_t{1} << 18) / (size_.pixels() * static_cast<std::int64_t>(sizeof(T)));
        return least(fit < 1 ? 1 : fit > 64 ? 64 : fit, size_.joints);
    }

private:
    const Problem& problem_;
    const Sizes size_;
    bool coordinates_;
    Grid<T> grid_{nullptr, nullptr};
};

// Runs body(batch, first joint, joints) for all planes, `together` at a time.
template <class T, class Body>
void each_group(const Pose<T>& pose, std::int64_t batch_begin, std::int64_t batch_end, std::int64_t together,
                bool parallel, double work_per_pixel, const Body& body) {
    const std::int64_t joints = pose.size().joints, per_image = (joints + together - 1) / together;
    auto range = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t b = batch_begin + i / per_image, j = i % per_image * together;
            body(b, j, least(together, joints - j));
        }
    };
    const std::int64_t groups = (batch_end - batch_begin) * per_image;
    const double work = work_per_pixel * static_cast<double>(pose.size().pixels());
    const int threads =
        parallel ? useful_threads(work * static_cast<double>((batch_end - batch_begin) * joints), groups) : 1;
    // To each its part at once: it finds there in its cache what it wrote, or an operator of PyTorch, which divides alike.
    parallel_for(groups, (groups + threads - 1) / threads, threads, range);
}

constexpr double forward_work = 60, backward_work = 100;  // per pixel

// Planes j .. j + count of image b, forward. `e_out`, if not null, receives exp(beta * (logits - m)) of each, `e_step`
// apart; without softmax the maps themselves.
template <class T>
void planes_forward(const Pose<T>& pose, const ForwardOutputs& out, std::int64_t b, std::int64_t j, std::int64_t count,
                    T* e_out, std::int64_t e_step) {
    const Problem& problem = pose.problem();
    const std::int64_t pixels = pose.size().pixels(), step = plane_memory<T>(pixels);
    Frame frame;
    const Image<T> logits = pose.image(problem.logits, b), probs = pose.image(out.probs, b);
    const bool deep = out.z != nullptr;
    const Image<T> depth = deep ? pose.image(problem.depth, b) : Image<T>();
    const bool windowed = out.confidence != nullptr && problem.window;
    const bool in_place = probs && probs.planar();
    T* memory = logits.planar() ? nullptr : scratch<T>(count * step);
    const Block<const T> h = logits.read(j, count, 0, pixels, memory, step);
    Block<const T> d{nullptr, 0};
    if (deep) d = depth.read(j, count, 0, pixels, depth.planar() ? nullptr : scratch<T>(count * step), step);
    T* e_own = e_out == nullptr && (windowed || probs) ? scratch<T>(count * step) : nullptr;
    T* window_memory = windowed ? scratch<T>(step) : nullptr;
    for (std::int64_t k = 0; k < count; ++k) {
        const std::int64_t plane = b * pose.size().joints + j + k;
        const T* row = h.rows + k * h.step;
        T* e = e_out != nullptr ? e_out + k * e_step : e_own != nullptr ? e_own + k * step : nullptr;
        const T beta = pose.beta(b, j + k);
        const T m = pose.softmax() ? peak_logit<T>(row, pixels, beta) : T(0);
        const auto sums = [&](auto softmax, auto coordinates) {
            constexpr bool s = decltype(softmax)::value, c = decltype(coordinates)::value;
            return deep ? moments<T, s, c, true>(row, d.rows + k * d.step, pixels, beta, m, pose.grid(), e)
                        : moments<T, s, c, false>(row, nullptr, pixels, beta, m, pose.grid(), e);
        };
        const std::true_type yes{};
        const std::false_type no{};
        const Moments<T> sum = pose.softmax() ? (pose.coordinates() ? sums(yes, yes) : sums(yes, no))
                                              : (pose.coordinates() ? sums(no, yes) : sums(no, no));
        const T r = pose.softmax() ? T(1) / sum.e : T(1);
        if (pose.softmax()) {
            pose.stats(b, j + k)[0] = m;
            pose.stats(b, j + k)[1] = r;
        }
        if (out.xy != nullptr) {
            static_cast<T*>(out.xy)[2 * plane] = sum.x * r;
            static_cast<T*>(out.xy)[2 * plane + 1] = sum.y * r;
        }
        if (deep) static_cast<T*>(out.z)[plane] = sum.z * r;
        if (windowed || probs) {
            T* to = windowed   ? window_memory
                    : in_place ? probs.channel_rows().rows + (j + k) * probs.channel_rows().step
                               : e;
            const Vec<T> scale = splat<T>(r);
            each_vector<T>(0, pixels,
                           [&](std::int64_t i, std::int64_t n) { store_some<T>(to + i, load<T>(e + i) * scale, n); });
        }
        if (out.confidence != nullptr) {
            T peak;
            if (windowed) {
                peak = largest_window<T>(window_memory, pose.size().rows, pose.size().columns);
            } else if (pose.softmax()) {
                peak = (m == -infinity<T> ? T(0) : T(1)) * r;  // the largest e is exp(0), if any
            } else {
                peak = largest<T>(row, pixels);
            }
            static_cast<T*>(out.confidence)[plane] = peak;
        }
    }
    if (probs && !in_place) probs.store(j, count, 0, pixels, e_own, step);
}

// Planes j .. j + count of image b, backward. `e` and `s`, if not null, hold exp(beta * (logits - m)) and the
// appearance's part of s of each, `given_step` apart in plane_memory.
template <class T>
void planes_backward(const Pose<T>& pose, const Gradients& out, std::int64_t b, std::int64_t j, std::int64_t count,
                     const T* e, const T* s, std::int64_t given_step) {
    const Problem& problem = pose.problem();
    const std::int64_t pixels = pose.size().pixels(), step = plane_memory<T>(pixels);
    Frame frame;
    const Image<T> logits = pose.image(problem.logits, b), depth = pose.image(problem.depth, b);
    const Image<T> g_probs = pose.image(out.g_probs, b), probs = pose.image(out.probs, b);
    const Image<T> d_logits = pose.image(out.logits, b), d_depth = pose.image(out.depth, b);
    const bool from_probs = probs && out.probs.type == type_of<T>;  // of another type they are rounded
    const bool need_logits = (e == nullptr && !from_probs) || out.beta != nullptr;
    const bool deep = out.g_z != nullptr;
    const auto own = [&](std::int64_t rows) { return scratch<T>(rows * step); };
    // Planes that have to be copied are overwritten by their gradients: half the memory stays longer in the cache.
    T* h_own = need_logits && !logits.planar() ? own(count) : nullptr;
    T* d_own = deep && !depth.planar() ? own(count) : nullptr;
    Block<const T> h{nullptr, 0}, d{nullptr, 0}, weights{e, given_step}, terms{s, given_step};
    if (need_logits) h = logits.read(j, count, 0, pixels, h_own, step);
    if (deep) d = depth.read(j, count, 0, pixels, d_own, step);
    if (from_probs) weights = probs.read(j, count, 0, pixels, probs.planar() ? nullptr : own(count), step);
    if (g_probs) terms = g_probs.read(j, count, 0, pixels, g_probs.planar() ? nullptr : own(count), step);
    if (weights.rows == nullptr && !pose.softmax()) weights = h;
    const auto output = [&](const Image<T>& image, T* copy) {
        if (!image) return Block<T>{nullptr, 0};
        if (!image.planar()) return Block<T>{copy != nullptr ? copy : own(count), step};
        const Block<T> all = image.channel_rows();
        return Block<T>{all.rows + j * all.step, all.step};
    };
    const Block<T> to_logits = output(d_logits, h_own), to_depth = output(d_depth, d_own);
    const bool windowed = out.g_confidence != nullptr && problem.window;
    T* e_own = own(1);
    T *s_own = windowed ? own(1) : nullptr, *window_memory = windowed ? own(1) : nullptr;
    for (std::int64_t k = 0; k < count; ++k) {
        const std::int64_t plane = b * pose.size().joints + j + k;
        const auto value = [&](const void* values, std::int64_t i) {
            return values == nullptr ? T(0) : static_cast<const T*>(values)[i];
        };
        const auto row = [k](const auto& all) { return all.rows == nullptr ? nullptr : all.rows + k * all.step; };
        PlaneGradient<T> g{};
        g.rows = pose.size().rows, g.columns = pose.size().columns;
        g.softmax = pose.softmax(), g.window = problem.window;
        g.grid = pose.grid();
        g.logits = row(h), g.depth = row(d), g.e = row(weights), g.s = row(terms);
        g.beta = pose.beta(b, j + k);
        g.m = g.softmax ? pose.stats(b, j + k)[0] : T(0);
        g.r = g.softmax && !from_probs ? pose.stats(b, j + k)[1] : T(1);
        g.placed = out.g_xy != nullptr, g.confident = out.g_confidence != nullptr;
        g.g_x = value(out.g_xy, 2 * plane), g.g_y = value(out.g_xy, 2 * plane + 1);
        g.g_z = value(out.g_z, plane), g.g_confidence = value(out.g_confidence, plane);
        if (g.softmax && g.placed) g.x = value(out.xy, 2 * plane), g.y = value(out.xy, 2 * plane + 1);
        if (g.softmax && deep) g.z = value(out.z, plane);
        g.e_own = e_own, g.s_own = s_own, g.h = window_memory;
        g.d_logits = row(to_logits), g.d_depth = row(to_depth);
        g.d_beta = out.beta == nullptr ? nullptr : static_cast<T*>(out.beta) + plane;
        if (g.d_depth != nullptr && !deep) {
            for (std::int64_t i = 0; i < pixels; ++i) g.d_depth[i] = T(0);
        }
        plane_backward<T>(g);
    }
    if (d_logits && !d_logits.planar()) d_logits.store(j, count, 0, pixels, to_logits.rows, step);
    if (d_depth && !d_depth.planar()) d_depth.store(j, count, 0, pixels, to_depth.rows, step);
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
