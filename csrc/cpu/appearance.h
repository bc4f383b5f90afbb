// Appearance: V = h F^T per image, forward and backward, together with the planes of the image. The products are those
// of products.h, or of appearance_amx.h where there are tiles.
//
// Many images are shared out among the threads; where there are fewer images than threads, the parts of each image are.
// Either way the same sums are taken in the same order.
#pragma once

#include "cpu/pages.h"
#include "cpu/pose.h"
#include "cpu/products.h"

namespace pyhar {
namespace PYHAR_ISA {

// Whether the features' matrix has a row for each pixel rather than for each channel.
template <class T>
bool rows_are_pixels(const Problem& problem) {
    const Sizes& size = problem.size;
    return size.channels > 1 && Image<T>(problem.features, 0, size.rows, size.columns).channels_innermost();
}

constexpr std::int64_t channel_range = 48;           // channels that are one piece of work, forward
constexpr std::int64_t pixel_range = panel_columns;  // pixels, backward

// The features of image b and their gradient, if any, for the tiles of the instruction set in use; empty where there
// are none, or what they would multiply lies otherwise.
template <class T>
WordImage image_for_tiles(const Problem& problem, const Map& gradient, std::int64_t b, bool by_pixel) {
    const Sizes& size = problem.size;
    if (kernels().tiles.forward == nullptr || problem.wide) return {};
    const Image<T> features(problem.features, b, size.rows, size.columns);
    if (!features.plain(Type::bf16, by_pixel)) return {};
    if (by_pixel && size.pixels() < 32) return {};  // more would be packed than multiplied
    WordImage image{features.data(), nullptr, features.row_step(by_pixel), 0, size.channels, size.pixels(), by_pixel};
    if (gradient) {
        const Image<T> to(gradient, b, size.rows, size.columns);
        if (!to.plain(Type::bf16, by_pixel)) return {};
        image.gradient = to.data(), image.gradient_step = to.row_step(by_pixel);
    }
    return image;
}

// Runs image(b, parallel) for all images.
template <class T, class Body>
void each_image(const Sizes& size, double work_per_product, const Body& image) {
    const double work = work_per_product * static_cast<double>(size.joints) * static_cast<double>(size.channels) *
                        static_cast<double>(size.pixels());
    const std::int64_t threads = useful_threads(work * static_cast<double>(size.batch), size.batch * size.pixels());
    const std::int64_t shared_out = threads > 1 ? size.batch / threads * threads : 0;
    if (shared_out > 0) {
        auto range = [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t b = begin; b < end; ++b) image(b, false);
        };
        parallel_for(shared_out, 1, static_cast<int>(threads), range);
    }
    for (std::int64_t b = shared_out; b < size.batch; ++b) image(b, threads > 1);
}

// Runs body(begin, end) over [0, count), by pieces.
template <class Body>
void each_piece_of_work(std::int64_t count, std::int64_t piece, bool parallel, Body body) {
    if (!parallel) {
        if (count > 0) body(std::int64_t{0}, count);
        return;
    }
    const std::int64_t pieces = (count + piece - 1) / piece;
    auto range = [&](std::int64_t begin, std::int64_t end) { body(begin * piece, least(end * piece, count)); };
    parallel_for(pieces, 1, static_cast<int>(least(max_threads(), pieces)), range);
}

// The planes' exponentials of one image, and the same transposed with lanes after the last joint.
template <class T>
struct ImageMemory {
    std::int64_t step, joint_step;
    T *e, *by_pixel;

    explicit ImageMemory(const Sizes& size)
        : step(plane_memory<T>(size.pixels())),
          joint_step(round_up<T>(size.joints)),
          e(scratch<T>(size.joints * step)),
          by_pixel(scratch<T>(size.pixels() * joint_step)) {}
};

// to[i][j] = from[j][i] for i < count, and zeros where a vector would go on after the last joint.
template <class T>
void transpose_joints(const T* from, std::int64_t from_step, std::int64_t joints, std::int64_t count, T* to,
                      std::int64_t to_step) {
    transpose<T>(from, from_step, joints, count, to, to_step);
    if (joints_left_over<T>(joints) > 0) return;  // no vector does
    for (std::int64_t i = 0; i < count && joints < to_step; ++i) {
        for (std::int64_t j = joints; j < to_step; ++j) to[i * to_step + j] = T(0);
    }
}

template <class T>
void appearance_forward(const Pose<T>& pose, const ForwardOutputs& out) {
    const Problem& problem = pose.problem();
    const Sizes& size = pose.size();
    const bool by_pixel = rows_are_pixels<T>(problem);
    const std::int64_t pixels = size.pixels(), joints = size.joints;
    const bool planar = is_planar<T>(problem.logits, size) && is_planar<T>(problem.depth, size);
    each_image<T>(size, 2, [&](std::int64_t b, bool parallel) {
        Frame frame;
        const ImageMemory<T> memory(size);
        each_group(pose, b, b + 1, pose.together(planar), parallel, forward_work,
                   [&](std::int64_t, std::int64_t j, std::int64_t count) {
                       planes_forward(pose, out, b, j, count, memory.e + j * memory.step, memory.step);
                   });
        const Image<T> appearance(out.appearance, b, size.channels, 1);  // its "pixels" are the channels
        const auto finish = [&](T* v, std::int64_t step, std::int64_t begin, std::int64_t channels) {
            for (std::int64_t j = 0; j < joints; ++j) {
                const T r = pose.softmax() ? pose.stats(b, j)[1] : T(1);
                for (std::int64_t c = 0; c < channels; ++c) v[j * step + c] *= r;
            }
            appearance.store(0, joints, begin, channels, v, step);
        };
        if constexpr (std::is_same<T, float>::value) {
            const WordImage image = image_for_tiles<T>(problem, {}, b, by_pixel);
            if (image.features != nullptr) {
                const std::int64_t step = round_up<T>(size.channels) + lanes<T>;
                T* v = scratch<T>(joints * step);
                kernels().tiles.forward(image, memory.e, memory.step, joints, v, step, parallel);
                return finish(v, step, 0, size.channels);
            }
        }
        transpose_joints<T>(memory.e, memory.step, joints, pixels, memory.by_pixel, memory.joint_step);
        const Features<T> features(problem.features, b, size.rows, size.columns, by_pixel);
        each_piece_of_work(size.channels, channel_range, parallel, [&](std::int64_t begin, std::int64_t end) {
            Frame inner;
            const std::int64_t channels = end - begin, step = round_up<T>(channels);
            T* v = scratch<T>(joints * step);
            if (by_pixel) {
                product_over_rows<T>(features, pixels, begin, end, memory.by_pixel, memory.joint_step, joints, v, step);
            } else {
                T* by_channel = scratch<T>(channels * memory.joint_step);
                product_over_columns<T>(features, pixels, begin, end, memory.by_pixel, memory.joint_step, memory.e,
                                        memory.step, joints, by_channel, memory.joint_step);
                transpose<T>(by_channel, memory.joint_step, channels, joints, v, step);
            }
            finish(v, step, begin, channels);
        });
    });
}

// What the exponentials of each joint of an image are multiplied by.
template <class T>
T* factors_of(const Pose<T>& pose, std::int64_t b) {
    T* r = scratch<T>(pose.size().joints);
    for (std::int64_t j = 0; j < pose.size().joints; ++j) r[j] = pose.stats(b, j)[1];
    return r;
}

template <class T>
void appearance_backward(const Pose<T>& pose, const Gradients& out) {
    const Problem& problem = pose.problem();
    const Sizes& size = pose.size();
    const bool by_pixel = rows_are_pixels<T>(problem);
    const std::int64_t pixels = size.pixels(), joints = size.joints, channels = size.channels;
    const bool planar = is_planar<T>(problem.logits, size) && is_planar<T>(problem.depth, size) &&
                        is_planar<T>(out.logits, size) && is_planar<T>(out.depth, size);
    const bool planes_wanted = out.logits || out.depth || out.beta != nullptr;
    const bool through_features = static_cast<bool>(out.g_appearance);
    const bool s_wanted = through_features && (out.logits || out.beta != nullptr);
    // More than the caches of a few cores: it will be gone from them before anybody reads it.
    const bool large = size.batch * channels * pixels * static_cast<std::int64_t>(sizeof(T)) >= std::int64_t{1} << 22 &&
                       !untouched(out.features, size, channels);
    each_image<T>(size, s_wanted && out.features ? 4 : 2, [&](std::int64_t b, bool parallel) {
        Frame frame;
        const std::int64_t step = plane_memory<T>(pixels), joint_step = round_up<T>(joints);
        const std::int64_t channel_step = round_up<T>(channels) + lanes<T>;
        T* e = scratch<T>(joints * step);
        T* s = s_wanted ? scratch<T>(joints * step) : nullptr;
        const T* const r = pose.softmax() ? factors_of(pose, b) : nullptr;
        T* g = nullptr;  // g_appearance (joints, channels)
        if (through_features) {
            g = scratch<T>(joints * channel_step);
            const Image<T> upstream(out.g_appearance, b, channels, 1);
            upstream.load(0, joints, 0, channels, g, channel_step);
        }
        each_group(pose, b, b + 1, pose.together(planar), parallel, forward_work / 2,
                   [&](std::int64_t, std::int64_t j, std::int64_t count) {
                       Frame inner;
                       const Image<T> logits = pose.image(problem.logits, b);
                       T* own = logits.planar() ? nullptr : scratch<T>(count * step);
                       const Block<const T> h = logits.read(j, count, 0, pixels, own, step);
                       for (std::int64_t k = 0; k < count; ++k) {
                           const T* row = h.rows + k * h.step;
                           T* to = e + (j + k) * step;
                           if (pose.softmax()) {
                               exponentials_of_plane<T>(row, pixels, pose.beta(b, j + k), pose.stats(b, j + k)[0], to);
                           } else {
                               std::memcpy(to, row, static_cast<std::size_t>(pixels) * sizeof(T));
                           }
                       }
                   });
        const auto planes = [&] {
            if (!planes_wanted) return;
            each_group(pose, b, b + 1, pose.together(planar), parallel, backward_work,
                       [&](std::int64_t, std::int64_t j, std::int64_t count) {
                           planes_backward(pose, out, b, j, count, e + j * step, s == nullptr ? nullptr : s + j * step,
                                           step);
                       });
        };
        if constexpr (std::is_same<T, float>::value) {
            const bool exact = through_features && out.g_appearance.type == Type::bf16;
            const WordImage image = exact ? image_for_tiles<T>(problem, out.features, b, by_pixel) : WordImage();
            if (image.features != nullptr) {
                kernels().tiles.backward(image, e, step, r, g, channel_step, joints, s, step, parallel, large);
                return planes();
            }
        }
        T* scaled = nullptr;        // g times r
        T* g_by_channel = nullptr;  // g transposed
        if (through_features) {
            scaled = scratch<T>(joints * channel_step);
            g_by_channel = scratch<T>(channels * joint_step);
            for (std::int64_t j = 0; j < joints; ++j) {
                const T factor = r == nullptr ? T(1) : r[j];
                for (std::int64_t c = 0; c < channels; ++c) {
                    scaled[j * channel_step + c] = g[j * channel_step + c] * factor;
                }
            }
            transpose_joints<T>(g, channel_step, joints, channels, g_by_channel, joint_step);
        }
        const Features<T> features(problem.features, b, size.rows, size.columns, by_pixel);
        const Features<T> gradient =
            out.features ? Features<T>(out.features, b, size.rows, size.columns, by_pixel) : Features<T>();
        if (s_wanted || out.features) {
            each_piece_of_work(pixels, pixel_range, parallel, [&](std::int64_t begin, std::int64_t end) {
                each_piece(begin, end, pixel_range, [&](std::int64_t p, std::int64_t count) {
                    Frame inner;
                    if (s_wanted && by_pixel) {
                        T* s_by_pixel = scratch<T>(count * joint_step);
                        product_over_columns<T>(features, channels, p, p + count, g_by_channel, joint_step, g,
                                                channel_step, joints, s_by_pixel, joint_step);
                        transpose<T>(s_by_pixel, joint_step, count, joints, s + p, step);
                    } else if (s_wanted) {
                        product_over_rows<T>(features, channels, p, p + count, g_by_channel, joint_step, joints, s + p,
                                             step);
                    }
                    if (!gradient) return;
                    if (!through_features) {
                        fill_zero<T>(gradient, by_pixel, p, count, channels);
                    } else if (by_pixel) {
                        each_piece(0, channels, panel_columns, [&](std::int64_t c, std::int64_t n) {
                            product_outer<T>(gradient, p, count, c, n, joints, e, step, scaled, channel_step, large);
                        });
                    } else {
                        product_outer<T>(gradient, 0, channels, p, count, joints, scaled, channel_step, e, step, large);
                    }
                });
                if (large) finish_streams();
            });
        }
        planes();
    });
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
