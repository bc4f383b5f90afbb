// The CPU backend for any processor: what the compiler makes of it without being told of more than the platform's
// least common instructions.
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <type_traits>
#include <utility>

#include "cpu/parallel.h"
#include "cpu/problem.h"
#include "cpu/scratch.h"

#define PYHAR_ISA scalar
#include "cpu/backend.h"
#include "cpu/depthwise_conv.h"

namespace pyhar {
const Kernels scalar_kernels = {"scalar", &scalar::forward, &scalar::backward, &scalar::depthwise_backward,
                               scalar::lanes<float>, scalar::unit_kernels<float>, {}, {}, {}, {}};
}
