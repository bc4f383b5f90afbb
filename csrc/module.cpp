// The Python module pyhar._native: the only file under csrc/ that knows Python, and none knows PyTorch.
// pyhar/_native.pyi says the same names in Python's words.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/features.h"
#include "cpu/parallel.h"
#include "cuda/driver.h"
#include "cuda/images.h"

namespace py = pybind11;

namespace {

#ifdef _MSC_VER
constexpr long cpp_standard = _MSVC_LANG;
#else
constexpr long cpp_standard = __cplusplus;
#endif

#ifdef _OPENMP
constexpr bool openmp = true;
#else
constexpr bool openmp = false;
#endif

std::string compiler() {
#if defined(__clang__)
    return "Clang " __clang_version__;
#elif defined(__GNUC__)
    return "GCC " __VERSION__;
#elif defined(_MSC_VER)
    return "MSVC " + std::to_string(_MSC_FULL_VER);
#else
    return "unknown";
#endif
}

py::dict build_info() {
    py::dict info;
    info["version"] = PYHAR_VERSION;
    info["compiler"] = compiler();
    info["cpp_standard"] = "C++" + std::to_string(cpp_standard / 100 % 100);
    info["openmp"] = openmp;
    info["cuda_toolkit"] = pyhar::cuda::toolkit;
    return info;
}

std::uintptr_t cuda_load(int device, const std::string& storage) {
    const void* const image = pyhar::cuda::image(storage);
    if (!image) throw std::invalid_argument("no CUDA kernels for " + storage + " in this build");
    const auto& driver = pyhar::cuda::Driver::get();
    driver.enter(device);
    return reinterpret_cast<std::uintptr_t>(driver.load(image));
}

std::uintptr_t cuda_function(std::uintptr_t module, const std::string& name) {
    void* const place = reinterpret_cast<void*>(module);
    return reinterpret_cast<std::uintptr_t>(pyhar::cuda::Driver::get().function(place, name.c_str()));
}

void cuda_launch(
    int device, std::uintptr_t function, std::uint64_t stream, const py::bytes& parameters, unsigned blocks, unsigned threads,
    unsigned shared_bytes) {
    const char* const address = PyBytes_AS_STRING(parameters.ptr());
    const auto& driver = pyhar::cuda::Driver::get();
    driver.enter(device);
    driver.launch(reinterpret_cast<void*>(function), stream, address, blocks, threads, shared_bytes);
}

}  // namespace

PYBIND11_MODULE(_native, m) {
    m.doc() = "pyhar's native core. It takes plain addresses and sizes and works with any PyTorch.";
    m.def("build_info", &build_info, 
          "How this module was built: version, compiler, cpp_standard, openmp, cuda_toolkit (13000 for 13.0, 0: none).");
    m.def("cpu_features", &pyhar::cpu_features,
          "Vector instruction sets that the CPU and operating system offer, named as in Linux's /proc/cpuinfo.");
    m.def("max_threads", &pyhar::max_threads, "Threads a parallel loop would use now; 1 without OpenMP.");
    m.def("cuda_driver", [] {
        const auto& driver = pyhar::cuda::Driver::get();
        return py::make_tuple(driver.version(), driver.missing());
    }, "The CUDA driver's version (12040 for 12.4; 0 without one), and why there is none.");
    m.def("cuda_load", &cuda_load, "Loads the kernels for a storage type on the current device: a module's address.");
    m.def("cuda_function", &cuda_function, "The address of a loaded module's kernel.");
    m.def("cuda_launch", &cuda_launch, "Queues a kernel that takes one struct by value, on a row of blocks, on the current device.");
}
