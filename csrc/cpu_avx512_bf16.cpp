// The convolution units for AVX-512 with products of bfloat16 and of int8, maps of bfloat16.
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "cpu/parallel.h"
#include "cpu/problem.h"
#include "cpu/scratch.h"

#ifdef PYHAR_VECTOR_X86

// GCC takes its own intrinsics' deliberately undefined registers for mistakes.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed within this file alone
#endif

#define PYHAR_ISA avx512_bf16
#define PYHAR_AVX512 1
#define PYHAR_AVX512_BF16 1
#define PYHAR_INT8 1
#include "cpu/units.h"

namespace pyhar {
const UnitKernels avx512_bfloat16_units = avx512_bf16::unit_kernels<avx512_bf16::BFloat16>;
const UnitKernels avx512_int8_bfloat16_units = avx512_bf16::int8_unit_kernels<avx512_bf16::BFloat16>;
}

// The target stays in force to the end of the file, where templates are instantiated.
#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
