// The Python module pyhar._native: with tensors.h what knows Python beside the module of csrc/autograd/. It is compiled
// without PyTorch.
// pyhar/_native.pyi says the same names in Python's words.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/features.h"
#include "cpu/lent.h"
#include "cpu/parallel.h"
#include "cpu/problem.h"
#include "cpu/recording.h"
#include "cuda/driver.h"
#include "cuda/images.h"
#include "tensors.h"

namespace py = pybind11;

namespace {

#ifdef _MSC_VER
constexpr long cpp_standard = _MSVC_LANG;
#else
constexpr long cpp_standard = __cplusplus;
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

// While it lives kernels run, by as many threads as PyTorch's, and other Python threads may.
class Running {
public:
    Running() : ready_(pyhar::shares_threads() || take_number_of_threads()) {}

private:
    static bool take_number_of_threads() {
        pyhar::set_max_threads(py::module_::import("torch").attr("get_num_threads")().cast<int>());
        return true;
    }

    const bool ready_;
    const py::gil_scoped_release free_;
};

py::dict build_info() {
    py::dict info;
    info["version"] = PYHAR_VERSION;
    info["compiler"] = compiler();
    info["cpp_standard"] = "C++" + std::to_string(cpp_standard / 100 % 100);
    info["cuda_toolkit"] = pyhar::cuda::toolkit;
    return info;
}

std::vector<std::string> cpu_isas() {
    std::vector<std::string> names;
    for (const pyhar::Kernels* k : pyhar::offered_kernels()) names.emplace_back(k->name);
    return names;
}

using Address = std::uintptr_t;

void* pointer(Address address) { return reinterpret_cast<void*>(address); }

using Tensor = pyhar::TensorArgument;
using Memory = pyhar::MemoryArgument;

pyhar::Problem problem(const Tensor& logits, const Tensor& features, const Tensor& depth, const Tensor& beta,
                       double scale, const std::array<double, 4>& grid, bool window, Memory stats) {
    pyhar::Problem p;
    p.size = {logits.shape[0], logits.shape[1], features.shape[1], logits.shape[2], logits.shape[3]};
    for (const Tensor* maps : {&logits, &features, &depth}) p.wide |= maps->map && maps->map.type == pyhar::Type::f64;
    p.logits = logits.map, p.features = features.map, p.depth = depth.map, p.beta = beta.map;
    p.scale = scale;
    for (int i = 0; i < 4; ++i) p.grid[i] = grid[i];
    p.window = window;
    p.stats = stats.data;
    return p;
}

void cpu_forward(const Tensor& logits, const Tensor& features, const Tensor& depth, const Tensor& beta, double scale,
                 const std::array<double, 4>& grid, bool window, Memory stats, Memory xy, Memory z, Memory confidence,
                 const Tensor& appearance, const Tensor& probs) {
    const auto p = problem(logits, features, depth, beta, scale, grid, window, stats);
    if (p.size.batch == 0) return;
    pyhar::ForwardOutputs out;
    out.xy = xy.data, out.z = z.data, out.confidence = confidence.data;
    out.appearance = appearance.map, out.probs = probs.map;
    const auto forward = pyhar::kernels().forward;
    const Running running;
    pyhar::perform([=] { forward(p, out); });
}

void cpu_backward(const Tensor& logits, const Tensor& features, const Tensor& depth, const Tensor& beta, double scale,
                  const std::array<double, 4>& grid, bool window, Memory stats, Memory xy, Memory z,
                  const Tensor& probs, Memory g_xy, Memory g_z, Memory g_confidence, const Tensor& g_appearance,
                  const Tensor& g_probs, const Tensor& d_logits, const Tensor& d_features, const Tensor& d_depth,
                  Memory d_beta) {
    const auto p = problem(logits, features, depth, beta, scale, grid, window, stats);
    if (p.size.batch == 0) return;
    pyhar::Gradients out;
    out.xy = xy.data, out.z = z.data, out.probs = probs.map;
    out.g_xy = g_xy.data, out.g_z = g_z.data, out.g_confidence = g_confidence.data;
    out.g_appearance = g_appearance.map, out.g_probs = g_probs.map;
    out.logits = d_logits.map, out.features = d_features.map, out.depth = d_depth.map, out.beta = d_beta.data;
    const auto& kernels = pyhar::kernels();
    const Running running;
    kernels.backward(p, out);
}

// What pyhar._autograd calls instead of the two above.
const pyhar::Lent lent = {
    [](const pyhar::Problem& p, const pyhar::ForwardOutputs& out) { pyhar::kernels().forward(p, out); },
    [](const pyhar::Problem& p, const pyhar::Gradients& out) { pyhar::kernels().backward(p, out); },
    &pyhar::shares_threads,
    &pyhar::set_max_threads,
};

// The gradients of weights, contiguous (C, 1, k, k), and of maps.
void cpu_depthwise_backward(const Tensor& x, const Tensor& weight, const Tensor& g, const Tensor& d_x,
                            const Tensor& d_weight) {
    pyhar::DepthwiseConv conv;
    conv.batch = x.shape[0], conv.channels = x.shape[1], conv.rows = x.shape[2], conv.columns = x.shape[3];
    conv.kernel = weight.shape[3];
    conv.wide = x.map.type == pyhar::Type::f64;
    conv.x = x.map, conv.weight = weight.map;
    const auto& kernels = pyhar::kernels();
    const Running running;
    kernels.depthwise_backward(conv, g.map, d_x.map, d_weight.map);
}

pyhar::Unit unit(const std::array<std::int64_t, 5>& size, Address x, Address scale, Address shift, Address weight,
                 Address shortcut, const std::array<Address, 2>& skips, Address out) {
    pyhar::Unit u;
    u.batch = size[0], u.channels = size[1], u.outputs = size[2], u.rows = size[3], u.columns = size[4];
    u.x = pointer(x);
    u.scale = static_cast<const float*>(pointer(scale)), u.shift = static_cast<const float*>(pointer(shift));
    u.weight = pointer(weight), u.shortcut = pointer(shortcut);
    for (int i = 0; i < 2; ++i) u.skips[i] = pointer(skips[i]);
    u.out = pointer(out);
    return u;
}

const pyhar::UnitKernels& unit_kernels(bool bfloat16, bool int8 = false) {
    const auto& k = pyhar::kernels();
    const auto& units = int8 ? (bfloat16 ? k.int8_bfloat16_units : k.int8_units) : bfloat16 ? k.bfloat16_units : k.units;
    if (units.convolution == nullptr) {
        const std::string what = std::string(int8 ? "products in int8 and " : "") + (bfloat16 ? "bfloat16" : "float32");
        throw std::invalid_argument(std::string(k.name) + " has no units for " + what);
    }
    return units;
}

py::tuple cpu_unit_packing(bool bfloat16, bool int8) {
    const auto& units = unit_kernels(bfloat16, int8);
    return py::make_tuple(pyhar::kernels().lanes, units.depth, units.winograd);
}

void run_unit(pyhar::UnitKernel kernel, const pyhar::Unit& u) {
    const Running running;
    pyhar::perform([=] { kernel(u); });
}

void cpu_convolution_unit(bool bfloat16, bool int8, const std::array<std::int64_t, 5>& size, Address x, Address scale,
                          Address shift, std::int64_t kernel, bool winograd, Address weight,
                          const std::array<Address, 2>& skips, Address out) {
    auto u = unit(size, x, scale, shift, weight, 0, skips, out);
    u.kernel = kernel, u.winograd = winograd, u.middle = u.channels;
    run_unit(unit_kernels(bfloat16, int8).convolution, u);
}

void cpu_pooling_unit(bool bfloat16, const std::array<std::int64_t, 5>& size, Address x, Address scale, Address shift,
                      std::int64_t kernel, const std::array<std::int64_t, 2>& stride, bool extremes,
                      const std::array<Address, 2>& skips, Address out) {
    auto u = unit(size, x, scale, shift, 0, 0, skips, out);
    u.kernel = kernel, u.row_stride = stride[0], u.column_stride = stride[1], u.extremes = extremes;
    run_unit(unit_kernels(bfloat16).pooling, u);
}

void cpu_upsampling_unit(bool bfloat16, const std::array<std::int64_t, 5>& size, Address x, Address scale, Address shift,
                         const std::array<Address, 2>& skips, Address out) {
    run_unit(unit_kernels(bfloat16).upsampling, unit(size, x, scale, shift, 0, 0, skips, out));
}

void cpu_stem_unit(bool bfloat16, const std::array<std::int64_t, 5>& size, Address x, std::int64_t kernel,
                   const std::array<std::int64_t, 2>& stride, Address weight, Address out) {
    auto u = unit(size, x, 0, 0, weight, 0, {0, 0}, out);
    u.kernel = kernel, u.row_stride = stride[0], u.column_stride = stride[1];
    run_unit(unit_kernels(bfloat16).stem, u);
}

void cpu_separable_unit(bool bfloat16, bool int8, const std::array<std::int64_t, 5>& size, Address x, Address scale,
                        Address shift, std::int64_t repeat, std::int64_t kernel, Address depthwise, Address pointwise,
                        Address shortcut, const std::array<Address, 2>& skips, Address out) {
    auto u = unit(size, x, scale, shift, pointwise, shortcut, skips, out);
    u.repeat = repeat, u.kernel = kernel;
    u.depthwise = static_cast<const float*>(pointer(depthwise));
    run_unit(unit_kernels(bfloat16, int8).separable, u);
}

void cpu_bottleneck_unit(bool bfloat16, bool int8, const std::array<std::int64_t, 5>& size, Address x, Address scale,
                         Address shift, std::int64_t middle, Address reduce, Address bias, std::int64_t kernel,
                         bool winograd, Address expand, Address shortcut, const std::array<Address, 2>& skips,
                         Address out) {
    auto u = unit(size, x, scale, shift, expand, shortcut, skips, out);
    u.middle = middle, u.kernel = kernel, u.winograd = winograd;
    u.reduce = pointer(reduce), u.bias = static_cast<const float*>(pointer(bias));
    run_unit(unit_kernels(bfloat16, int8).bottleneck, u);
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
    m.doc() = "pyhar's native core. It is compiled without PyTorch and works with any.";
    m.def("build_info", &build_info, 
          "How this module was built: version, compiler, cpp_standard, cuda_toolkit (13000 for 13.0, 0: none).");
    m.def("cpu_features", &pyhar::cpu_features,
          "Vector instruction sets that the CPU and operating system offer, named as in Linux's /proc/cpuinfo.");
    m.def(
        "cpu_isa", [] { return std::string(pyhar::kernels().name); },
        "The instruction set the CPU kernels use: the best offered, or what PYHAR_CPU_ISA or use_cpu_isa() named.");
    m.def("cpu_isas", &cpu_isas, "The instruction sets the CPU kernels could use here, best first.");
    m.def("use_cpu_isa", &pyhar::use_kernels, "Have the CPU kernels use this instruction set from now on.");
    m.def("cpu_forward", &cpu_forward, "The forward of the CPU backend; see kernels/cpu.py, its only caller.");
    m.def("cpu_backward", &cpu_backward, "The backward of the CPU backend; see kernels/cpu.py, its only caller.");
    m.def("cpu_depthwise_backward", &cpu_depthwise_backward, "See kernels/cpu_depthwise.py, its only caller.");
    m.def("cpu_unit_packing", &cpu_unit_packing, "Lanes, depth and winograd, by which weights of units are packed.");
    m.def(
        "cpu_has_bfloat16_units", [] { return pyhar::kernels().bfloat16_units.convolution != nullptr; },
        "Whether the instruction set in use multiplies bfloat16.");
    m.def(
        "cpu_has_int8_units", [] { return pyhar::kernels().int8_units.convolution != nullptr; },
        "Whether the instruction set in use multiplies int8.");
    m.def("cpu_separable_unit", &cpu_separable_unit, "A separable unit; see kernels/cpu_units.py, its only caller.");
    m.def("cpu_bottleneck_unit", &cpu_bottleneck_unit, "A bottleneck unit; see kernels/cpu_units.py, its only caller.");
    m.def("cpu_convolution_unit", &cpu_convolution_unit, "A convolution unit; see kernels/cpu_units.py, its only caller.");
    m.def("cpu_upsampling_unit", &cpu_upsampling_unit, "Twice the sides; see kernels/cpu_units.py, its only caller.");
    m.def("cpu_stem_unit", &cpu_stem_unit, "A stem; see kernels/cpu_units.py, its only caller.");
    m.def("cpu_pooling_unit", &cpu_pooling_unit, "A pooling unit; see kernels/cpu_units.py, its only caller.");
    m.attr("lent") = py::capsule(&lent, pyhar::Lent::capsule);
    py::class_<pyhar::Recording>(m, "Recording", "Units and forwards that a thread launches, to be repeated; see recording.h.")
        .def(py::init<>())
        .def("begin", &pyhar::Recording::begin, "Keep what this thread launches from now on.")
        .def("end", &pyhar::Recording::end, "Keep no more; without effect if it has not begun.")
        .def("run", &pyhar::Recording::run, py::call_guard<Running>(), "Launch it all again, in order.")
        .def("__len__", &pyhar::Recording::size);
    m.def("shares_threads", &pyhar::shares_threads,
          "Whether kernels run in the threads of the OpenMP runtime that PyTorch brought; elsewhere they have their own.");
    m.def("max_threads", &pyhar::max_threads, "Threads a parallel loop would use now.");
    m.def("cuda_driver", [] {
        const auto& driver = pyhar::cuda::Driver::get();
        return py::make_tuple(driver.version(), driver.missing());
    }, "The CUDA driver's version (12040 for 12.4; 0 without one), and why there is none.");
    m.def("cuda_load", &cuda_load, "Loads the kernels for a storage type on the current device: a module's address.");
    m.def("cuda_function", &cuda_function, "The address of a loaded module's kernel.");
    m.def("cuda_launch", &cuda_launch, "Queues a kernel that takes one struct by value, on a row of blocks, on the current device.");
}
