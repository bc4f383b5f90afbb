// The convolution units for AVX2 with products of int8 (AVX-VNNI), maps of floats.
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "cpu/parallel.h"
#include "cpu/problem.h"
#include "cpu/scratch.h"

#ifdef PYHAR_VNNI_X86

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avxvnni")
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed within this file alone
#endif

#define PYHAR_ISA avx2_vnni
#define PYHAR_AVX2 1
#define PYHAR_INT8 1
#include "cpu/units.h"

namespace pyhar {
const UnitKernels avx2_int8_units = avx2_vnni::int8_unit_kernels<float>;
}

// The target stays in force to the end of the file, where templates are instantiated.
#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
