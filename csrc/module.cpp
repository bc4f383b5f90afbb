// The Python module pyhar._native: the only file under csrc/ that knows Python, and none knows PyTorch.
// pyhar/_native.pyi says the same names in Python's words.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/features.h"
#include "cpu/parallel.h"

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
    return info;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
    m.doc() = "pyhar's native core. It takes plain addresses and sizes and works with any PyTorch.";
    m.def("build_info", &build_info, "How this module was built: version, compiler, cpp_standard, openmp.");
    m.def("cpu_features", &pyhar::cpu_features,
          "Vector instruction sets that the CPU and operating system offer, named as in Linux's /proc/cpuinfo.");
    m.def("max_threads", &pyhar::max_threads, "Threads a parallel loop would use now; 1 without OpenMP.");
}
