// What a launcher is asked to do: addresses, sizes, strides. Knows neither Python nor an instruction set.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cpu/unit.h"

namespace pyhar {

enum class Type : int { f16, bf16, f32, f64 };

constexpr std::int64_t size_of(Type type) { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }

// A tensor (batch, channel, row, column) anywhere in memory, strides in elements; absent if data is null.
struct Map {
    void* data = nullptr;
    Type type = Type::f32;
    std::int64_t stride[4] = {0, 0, 0, 0};

    explicit operator bool() const { return data != nullptr; }
};

struct Sizes {
    std::int64_t batch = 0, joints = 0, channels = 0, rows = 0, columns = 0;

    std::int64_t pixels() const { return rows * columns; }
    std::int64_t planes() const { return batch * joints; }
};

// What forward and backward share. The computing type is double if `wide`; void pointers below are to it.
struct Problem {
    Sizes size;
    bool wide = false;
    Map logits, features, depth;
    Map beta;  // (batch, joint), its last two strides 0; absent: scale is beta
    double scale = 1;
    double grid[4] = {1, 0, 1, 0};  // unit_x, first_x, unit_y, first_y: the coordinate of i is i / unit + first
    bool window = false;            // the confidence is over 2x2 windows
    void* stats = nullptr;          // (batch, joint, 2): m and r; null: the logits are probabilities
};

struct ForwardOutputs {
    void *xy = nullptr, *z = nullptr, *confidence = nullptr;
    Map appearance;  // (batch, joint, channel, 1)
    Map probs;
};

struct Gradients {
    // What forward has given, with a gradient from above.
    void *xy = nullptr, *z = nullptr;
    Map probs;
    // From above, in the computing type, save those that are maps.
    void *g_xy = nullptr, *g_z = nullptr, *g_confidence = nullptr;
    Map g_appearance;  // (batch, joint, channel, 1)
    Map g_probs;
    // To be written.
    Map logits, features, depth;
    void* beta = nullptr;
};

// A depthwise convolution, "same" padding, odd kernel. Maps have their channels side by side; the weights are a plain
// row (channel, row, column). The computing type is double if `wide`.
struct DepthwiseConv {
    std::int64_t batch = 0, channels = 0, rows = 0, columns = 0, kernel = 1;
    bool wide = false;
    Map x, weight;

    double work() const {
        return 2.0 * static_cast<double>(batch * channels * rows * columns) * static_cast<double>(kernel * kernel);
    }
};

// One image of features in bfloat16, and of their gradient (null where it is not wanted), each with plain rows: of the
// channels of a pixel if `by_pixel`, else of the pixels of a channel.
struct WordImage {
    const void* features = nullptr;
    void* gradient = nullptr;
    std::int64_t step = 0, gradient_step = 0;
    std::int64_t channels = 0, pixels = 0;
    bool by_pixel = false;
};

// The appearance of one image, where tiles multiply bfloat16: v[j][c] = sum over p of e[j][p] * f[c][p]; and backward
// s[j][p] = sum over c of g[j][c] * f[c][p], unless s is null, and the features' gradient, the sum over j of
// g[j][c] * r[j] * e[j][p], written past the caches if it is `large`. g holds numbers of bfloat16.
struct TileAppearance {
    void (*forward)(const WordImage&, const float* e, std::int64_t e_step, std::int64_t joints, float* v,
                    std::int64_t v_step, bool parallel) = nullptr;
    void (*backward)(const WordImage&, const float* e, std::int64_t e_step, const float* r, const float* g,
                     std::int64_t g_step, std::int64_t joints, float* s, std::int64_t s_step, bool parallel,
                     bool large) = nullptr;
};

// The entry points of one instruction set.
struct Kernels {
    const char* name;
    void (*forward)(const Problem&, const ForwardOutputs&);
    void (*backward)(const Problem&, const Gradients&);
    // d_x, d_weight: absent where not wanted.
    void (*depthwise_backward)(const DepthwiseConv&, const Map& g, const Map& d_x, const Map& d_weight);
    std::int64_t lanes;  // floats in a vector
    UnitKernels units, bfloat16_units;
    UnitKernels int8_units, int8_bfloat16_units;  // products in int8; maps of floats and of bfloat16
    TileAppearance tiles;
};

// The sets that this machine offers, best first.
std::vector<const Kernels*> offered_kernels();

// The set in use: the best, or a lower one that the environment variable PYHAR_CPU_ISA or use_kernels() named. Throws
// std::invalid_argument if the variable names a set that is unknown or not offered here.
const Kernels& kernels();

// Has the set of that name used from now on; throws likewise. Not to be called while kernels run.
void use_kernels(const std::string& name);

extern const Kernels scalar_kernels;
#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#define PYHAR_VECTOR_X86 1
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
extern const UnitKernels avx512_int8_units;
extern const UnitKernels avx512_bfloat16_units, avx512_int8_bfloat16_units;
#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
#define PYHAR_VNNI_X86 1  // compilers that know AVX-VNNI
extern const UnitKernels avx2_int8_units;
#endif
#if defined(__x86_64__) && defined(__linux__) && defined(PYHAR_VNNI_X86)
#define PYHAR_TILES_X86 1  // they know AMX too; Linux alone is asked for the tiles below
extern const UnitKernels amx_bfloat16_units, amx_int8_bfloat16_units;
extern const TileAppearance amx_appearance;
#endif
#endif

}  // namespace pyhar
