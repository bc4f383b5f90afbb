// The convolution units for AVX-512 with products of int8 (VNNI), maps of floats.
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
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed within this file alone
#endif

#define PYHAR_ISA avx512_vnni
#define PYHAR_AVX512 1
#define PYHAR_INT8 1
#include "cpu/units.h"

namespace pyhar {
const UnitKernels avx512_int8_units = avx512_vnni::int8_unit_kernels<float>;
}

// The target stays in force to the end of the file, where templates are instantiated.
#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
