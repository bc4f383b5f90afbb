// What the kernels use of CUDA, on a CPU: the threads of a block are fibers of one thread of the operating system.
//
// __syncthreads, __syncwarp and __shfl_xor_sync are real: a fiber that reaches one is suspended until the others of its
// block or warp have reached the same one. A barrier that some never reach is an error, and so is a __syncthreads that
// threads reach at different places of the program, the branches of an `if` say: a device may wait there for ever. Between barriers each fiber runs
// to the end before the next starts, in an order that is a setting, warps that run ahead of others included: what a
// missing barrier leaves to chance then comes out differently from one order to another. Shared memory starts as NaN, and so do the margins around it, which are
// checked at the end of each block.
#pragma once

#include <cmath>

#define __device__
#define __forceinline__ inline __attribute__((always_inline))  // as on a device: each place in the program is its own
#define __global__
#define __launch_bounds__(...)
#define __grid_constant__

namespace host {

struct Index {
    unsigned x = 0, y = 0, z = 0;
};

enum class Wait : int { none, block, warp, shuffle };

unsigned char* shared_memory();
void suspend(Wait what, int detail);
void wait_for_block();  // suspends, and remembers from where it was called
void* exchange(int lane);  // where a lane of this fiber's warp leaves a value for this shuffle
void exchanged();

extern Index thread_index, block_index, block_size, grid_size;

template <typename T>
T shuffle_xor(T value, int offset) {
    const int lane = static_cast<int>(thread_index.x % 32);
    *static_cast<T*>(exchange(lane)) = value;
    suspend(Wait::shuffle, offset * 16 + static_cast<int>(sizeof(T)));
    const T other = *static_cast<T*>(exchange(lane ^ offset));
    exchanged();
    return other;
}

}  // namespace host

#define threadIdx ::host::thread_index
#define blockIdx ::host::block_index
#define blockDim ::host::block_size
#define gridDim ::host::grid_size

#define __syncthreads ::host::wait_for_block
inline void __syncwarp() { host::suspend(host::Wait::warp, 0); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int offset) {
    return host::shuffle_xor(value, offset);
}

#define PYHAR_KERNEL(name, threads, ...)                                                                \
    extern "C" void name(const void* parameters) {                                                      \
        pyhar::__VA_ARGS__(*static_cast<const pyhar::Params*>(parameters), ::host::shared_memory());    \
    }

using std::exp;
inline float expf(float x) { return std::exp(x); }
