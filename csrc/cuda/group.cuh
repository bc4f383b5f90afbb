// Which threads share a plane, and how they put their sums together: always in the same order.
#pragma once

#include "params.cuh"

namespace pyhar {

enum Mapping : int {
    warp_of_plane,    // a warp takes a plane, a block several planes
    block_of_plane,   // a block takes a plane
    lanes_of_joints,  // joints innermost in memory: neighbouring threads take neighbouring joints, and so loads coalesce
};

struct Sum {
    template <typename T>
    static PYHAR_DEVICE T of(T a, T b) { return a + b; }
    template <typename T>
    static PYHAR_DEVICE T none() { return T(0); }
};

struct Largest {
    template <typename T>
    static PYHAR_DEVICE T of(T a, T b) { return larger(a, b); }
    template <typename T>
    static PYHAR_DEVICE T none() { return -infinity<T>(); }
};

struct LargestOrNan {
    template <typename T>
    static PYHAR_DEVICE T of(T a, T b) { return larger_or_nan(a, b); }
    template <typename T>
    static PYHAR_DEVICE T none() { return -infinity<T>(); }
};

template <typename T, int N, typename Op>
PYHAR_DEVICE void reduce_in_warp(T (&value)[N]) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
#pragma unroll
        for (int n = 0; n < N; ++n) value[n] = Op::of(value[n], __shfl_xor_sync(0xffffffffu, value[n], offset));
    }
}

// The threads of one plane. `scratch` is shared memory, for block_of_plane 32 values and for lanes_of_joints one value
// per thread, times the number of values reduced at once.
template <typename T, int MAPPING>
struct Group {
    int lane, size;   // this thread's place among the threads of its plane, and their number
    int slot, slots;  // the plane's place among those of the block, and their number
    T* scratch;

    PYHAR_DEVICE Group(const Params& p, T* memory) : scratch(memory) {
        const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
        if constexpr (MAPPING == warp_of_plane) {
            lane = thread % 32, size = 32, slot = thread / 32, slots = threads / 32;
        } else if constexpr (MAPPING == block_of_plane) {
            lane = thread, size = threads, slot = 0, slots = 1;
        } else {
            lane = thread / p.planes, size = threads / p.planes, slot = thread % p.planes, slots = p.planes;
        }
    }

    PYHAR_DEVICE void wait() const {
        if constexpr (MAPPING == warp_of_plane) {
            __syncwarp();
        } else {
            __syncthreads();
        }
    }

    // Afterwards every thread of the plane has the same values, to the bit.
    template <typename Op, int N>
    PYHAR_DEVICE void reduce(T (&value)[N]) const {
        if constexpr (MAPPING == lanes_of_joints) {
#pragma unroll
            for (int n = 0; n < N; ++n) scratch[(n * size + lane) * slots + slot] = value[n];
            __syncthreads();
#pragma unroll
            for (int n = 0; n < N; ++n) {
                T all = scratch[n * size * slots + slot];
#pragma unroll 4
                for (int other = 1; other < size; ++other) {
                    all = Op::of(all, scratch[(n * size + other) * slots + slot]);
                }
                value[n] = all;
            }
            __syncthreads();
        } else {
            reduce_in_warp<T, N, Op>(value);
            if constexpr (MAPPING == block_of_plane) {
                const int warp = lane / 32, place = lane % 32;
                if (place == 0) {
#pragma unroll
                    for (int n = 0; n < N; ++n) scratch[n * 32 + warp] = value[n];
                }
                __syncthreads();
#pragma unroll
                for (int n = 0; n < N; ++n) {
                    value[n] = place < size / 32 ? scratch[n * 32 + place] : Op::template none<T>();
                }
                reduce_in_warp<T, N, Op>(value);
                __syncthreads();
            }
        }
    }

    template <typename Op>
    PYHAR_DEVICE T reduce(T value) const {
        T one[1] = {value};
        reduce<Op>(one);
        return one[0];
    }
};

// The pixels that one thread visits: V next to each other, then on by V for each thread of the plane.
template <int V>
struct Walk {
    int i, y, x, step_y, step_x, width;

    PYHAR_DEVICE Walk(const Params& p, int lane, int size) : i(lane * V), width(columns(p)) {
        y = i / width, x = i % width;
        step_y = size * V / width, step_x = size * V % width;
    }

    PYHAR_DEVICE void next(int size) {
        i += size * V, y += step_y, x += step_x;
        if (x >= width) x -= width, ++y;
    }
};

}  // namespace pyhar
