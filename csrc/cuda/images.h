// The kernels that were compiled ahead, one image for each storage type, as part of the module's own data.
#pragma once

#include <string>

// setup.py gives the folder of the images, where there are any.
#ifdef PYHAR_CUDA_IMAGES
#define PYHAR_IMAGE(storage)                                        \
    __asm__(                                                        \
        ".pushsection .rodata\n"                                    \
        ".balign 16\n"                                              \
        ".globl pyhar_cuda_image_" #storage "\n"                    \
        ".hidden pyhar_cuda_image_" #storage "\n"                   \
        "pyhar_cuda_image_" #storage ":\n"                          \
        ".incbin \"" PYHAR_CUDA_IMAGES "/" #storage ".fatbin\"\n"   \
        ".popsection\n");                                           \
    extern "C" __attribute__((visibility("hidden"))) const unsigned char pyhar_cuda_image_##storage[];

PYHAR_IMAGE(f16)
PYHAR_IMAGE(bf16)
PYHAR_IMAGE(float)
PYHAR_IMAGE(double)
#undef PYHAR_IMAGE
#else
#define PYHAR_CUDA_TOOLKIT 0
#endif

namespace pyhar::cuda {

// The version of the toolkit that made the images, as the driver counts (13000 for 13.0); 0 where there are none.
constexpr int toolkit = PYHAR_CUDA_TOOLKIT;

// The image for a storage type as kernels/cuda_variants.py names them; null where there is none.
inline const void* image(const std::string& storage) {
#ifdef PYHAR_CUDA_IMAGES
    if (storage == "f16") return pyhar_cuda_image_f16;
    if (storage == "bf16") return pyhar_cuda_image_bf16;
    if (storage == "float") return pyhar_cuda_image_float;
    if (storage == "double") return pyhar_cuda_image_double;
#endif
    (void)storage;
    return nullptr;
}

}  // namespace pyhar::cuda
