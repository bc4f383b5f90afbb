// Threads. OpenMP where the compiler has it; PyTorch uses the same runtime, so torch.set_num_threads rules here too.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

namespace pyhar {

// The number of threads a parallel loop started now would use; 1 without OpenMP.
inline int max_threads() {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

}  // namespace pyhar
