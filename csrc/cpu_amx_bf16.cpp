// The convolution units and the appearance for AVX-512 with products of bfloat16 and of int8 by tiles (AMX).
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "cpu/parallel.h"
#include "cpu/problem.h"
#include "cpu/scratch.h"

#ifdef PYHAR_TILES_X86

// GCC takes its own intrinsics' deliberately undefined registers for mistakes.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,amx-tile,amx-bf16,amx-int8,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,amx-tile,amx-bf16,amx-int8,avx2,fma,f16c")
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed within this file alone
#endif

#define PYHAR_ISA amx_bf16
#define PYHAR_AVX512 1
#define PYHAR_AVX512_BF16 1
#define PYHAR_INT8 1
#define PYHAR_AMX 1
#include "cpu/appearance_amx.h"
#include "cpu/units.h"

namespace pyhar {
const UnitKernels amx_bfloat16_units = amx_bf16::unit_kernels<amx_bf16::BFloat16>;
const UnitKernels amx_int8_bfloat16_units = amx_bf16::int8_unit_kernels<amx_bf16::BFloat16>;
const TileAppearance amx_appearance = amx_bf16::tile_appearance;
}

// The target stays in force to the end of the file, where templates are instantiated.
#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
