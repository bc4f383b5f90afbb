// The entry points for one instruction set. A source file includes the standard headers, sets PYHAR_ISA (a namespace
// and a name) and the compiler's target, and then includes this.
#pragma once

#include "cpu/appearance.h"
#include "cpu/plane_lanes.h"
#include "cpu/probs.h"
#include "cpu/units.h"

namespace pyhar {
namespace PYHAR_ISA {

template <class T>
void forward_of(const Problem& problem, const ForwardOutputs& out) {
    Frame frame;
    const Pose<T> pose(problem, out.xy != nullptr);
    if (out.appearance) return appearance_forward(pose, out);
    const auto planes = [&](std::int64_t b, std::int64_t j, std::int64_t count) {
        planes_forward<T>(pose, out, b, j, count, nullptr, 0);
    };
    const bool windowed = out.confidence != nullptr && problem.window;
    if (!windowed && lanes_serve(pose, {&problem.logits, &problem.depth, &out.probs})) {
        const auto joints = [&](auto type, auto vectors, auto whole, std::int64_t b, std::int64_t j, std::int64_t count) {
            using S = std::remove_pointer_t<decltype(type)>;
            joints_forward<T, S, decltype(vectors)::value, decltype(whole)::value>(pose, out, b, j, count);
        };
        return each_vector_of_joints(pose, forward_work, joints, planes);
    }
    const Sizes& size = problem.size;
    const bool planar =
        is_planar<T>(problem.logits, size) && is_planar<T>(problem.depth, size) && is_planar<T>(out.probs, size);
    each_group(pose, 0, size.batch, pose.together(planar), true, forward_work, planes);
}

template <class T>
void backward_of(const Problem& problem, const Gradients& out) {
    Frame frame;
    const Pose<T> pose(problem, true);
    if (problem.features) return appearance_backward(pose, out);
    if (probs_rows_serve(pose, out)) return all_probs_backward(pose, out);
    const auto planes = [&](std::int64_t b, std::int64_t j, std::int64_t count) {
        planes_backward<T>(pose, out, b, j, count, nullptr, nullptr, 0);
    };
    const bool windowed = out.g_confidence != nullptr && problem.window;
    if (!windowed && !out.g_probs && lanes_serve(pose, {&problem.logits, &problem.depth, &out.logits, &out.depth})) {
        const auto joints = [&](auto type, auto vectors, auto whole, std::int64_t b, std::int64_t j, std::int64_t count) {
            using S = std::remove_pointer_t<decltype(type)>;
            joints_backward<T, S, decltype(vectors)::value, decltype(whole)::value>(pose, out, b, j, count);
        };
        return each_vector_of_joints(pose, backward_work, joints, planes);
    }
    const Sizes& size = problem.size;
    const bool planar = is_planar<T>(problem.logits, size) && is_planar<T>(problem.depth, size) &&
                        is_planar<T>(out.g_probs, size) && is_planar<T>(out.logits, size) &&
                        is_planar<T>(out.depth, size);
    each_group(pose, 0, size.batch, pose.together(planar), true, backward_work, planes);
}

inline void forward(const Problem& problem, const ForwardOutputs& out) {
    const FlushSubnormals flush;
    untouched(out.probs, problem.size, problem.size.joints);
    problem.wide ? forward_of<double>(problem, out) : forward_of<float>(problem, out);
}

inline void backward(const Problem& problem, const Gradients& out) {
    const FlushSubnormals flush;
    for (const Map* map : {&out.logits, &out.depth}) untouched(*map, problem.size, problem.size.joints);
    problem.wide ? backward_of<double>(problem, out) : backward_of<float>(problem, out);
}

}  // namespace PYHAR_ISA
}  // namespace pyhar
