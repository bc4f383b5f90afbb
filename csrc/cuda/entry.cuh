// How a kernel starts: its name, its bound on threads, and the shared memory that the launcher gives it.
#pragma once

#include "appearance.cuh"
#include "plane_backward.cuh"
#include "plane_forward.cuh"

#ifndef PYHAR_KERNEL  // the tests' stand-in has its own
#define PYHAR_KERNEL(name, threads, ...)                                                                             \
    extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ pyhar::Params p) {         \
        extern __shared__ __align__(16) unsigned char memory[];                                                      \
        pyhar::__VA_ARGS__(p, memory);                                                                               \
    }
#endif
