// What the kernels of the convolution units are asked to do. Knows neither Python nor an instruction set.
#pragma once

#include <cstdint>

namespace pyhar {

// Maps are dense in the order batch, row, column, channel, in the storage type of the kernels; what is absent is null.
//
// Weights come packed. A matrix (outputs, depth) is packed as [outputs / lanes][depth / g][lanes][g], filled up with
// zeros to whole lanes and to a multiple of UnitKernels::depth; g is 2 for bfloat16, which is multiplied in pairs, 4
// for int8, else 1. The lanes are those of a vector of floats of the instruction set. Of int8, each vector of outputs
// is followed by their scales, floats, and 128 times the sums of their weights, 32-bit integers.
struct Unit {
    std::int64_t batch = 0, rows = 0, columns = 0, channels = 0, outputs = 0;
    const void* x = nullptr;
    const float *scale = nullptr, *shift = nullptr;  // (channels): the prologue relu(scale * x + shift)
    const void* weight = nullptr;                    // matrix to the outputs; of a bottleneck see `expand`
    const void* shortcut = nullptr;                  // matrix (outputs, channels)
    const void* skips[2] = {nullptr, nullptr};       // maps like out
    void* out = nullptr;

    // Pooling units have `kernel` x `kernel` windows that begin at every stride-th row and column and end at the edge, and
    // outputs = channels. Stems have a stride too; their x is float, (batch, channel, row, column), and their weight a matrix
    // (outputs, kernel * channels) for each row of the kernel.
    std::int64_t row_stride = 1, column_stride = 1;
    bool extremes = false;  // pooling units: the largest value of a window plus the smallest

    // Separable units: floats, [channels / lanes][repeat * repeat][taps * taps][lanes], filled up with zeros. With `repeat`
    // 2, x and the first skip have half the rows and columns, and each pixel of theirs stands for 2 x 2, for each of which
    // there is a kernel over x, of (kernel + 1) / 2 taps a side; else the taps are the kernel's.
    std::int64_t kernel = 1, repeat = 1;
    const float* depthwise = nullptr;

    // Bottleneck units. `weight` is a matrix (outputs, middle) for each place of the kernel; with `winograd`, for kernels
    // of 3 x 3 where UnitKernels::winograd is true, it is 36 packed as floats, the kernel transformed as unit_winograd.h
    // has it; of int8 it is a matrix (outputs, kernel * middle) for each row of the kernel, the middle filled up to whole
    // lanes. Convolution units are bottlenecks whose middle is what the prologue gives.
    bool winograd = false;
    std::int64_t middle = 0;
    const void* reduce = nullptr;  // matrix (middle, channels)
    const float* bias = nullptr;   // (middle), filled up with zeros to whole vectors
};

using UnitKernel = void (*)(const Unit&);

// The units for one storage type; null where the instruction set does not serve it.
struct UnitKernels {
    UnitKernel separable = nullptr, bottleneck = nullptr, convolution = nullptr, pooling = nullptr, stem = nullptr,
               upsampling = nullptr;
    std::int64_t depth = 1;
    bool winograd = true;
};

}  // namespace pyhar
