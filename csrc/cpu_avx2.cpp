// The CPU backend for AVX2 with FMA and half-precision conversion.
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <type_traits>
#include <utility>

#include "cpu/parallel.h"
#include "cpu/problem.h"
#include "cpu/scratch.h"

#ifdef PYHAR_VECTOR_X86

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed within this file alone
#endif

#define PYHAR_ISA avx2
#define PYHAR_AVX2 1
#include "cpu/backend.h"
#include "cpu/depthwise_conv.h"

namespace pyhar {
const Kernels avx2_kernels = {"avx2", &avx2::forward, &avx2::backward, &avx2::depthwise_backward,
                               avx2::lanes<float>, avx2::unit_kernels<float>, {}, {}, {}, {}};
}

// The target stays in force to the end of the file, where templates are instantiated.
#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
