// The Python module pyhar._autograd: the CPU's operators without a step of Python between the call, the kernels and the
// nodes of the autograd graph. Alone in csrc/ it is compiled with PyTorch, for one version of it.
//
// It serves plain calls. All others, and wrong ones, get None, upon which pyhar/ops goes its longer way.
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/record_function.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "cpu/lent.h"

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const pyhar::Lent* lent = nullptr;
// Functions of pyhar.ops: (grid, rows, columns) -> the grid as kernels take it; and the gradients where kernels do not
// serve: of a graph that shall have a graph, of a compiler's tensors.
PyObject *lines_of = nullptr, *decode_differentiated = nullptr, *softmax_differentiated = nullptr;

// --- what kernels can be given

// Whether nothing watches or changes what is called now: no mode, transform, tracer, autocast.
bool undisturbed() {
    const auto local = c10::impl::tls_local_dispatch_key_set();
    return c10::default_included_set.has_all(local.included_) && !at::autocast::is_autocast_enabled(at::kCPU);
}

std::optional<pyhar::Type> type_of(const Tensor& t) {
    switch (t.scalar_type()) {
        case at::kHalf: return pyhar::Type::f16;
        case at::kBFloat16: return pyhar::Type::bf16;
        case at::kFloat: return pyhar::Type::f32;
        case at::kDouble: return pyhar::Type::f64;
        default: return std::nullopt;
    }
}

// Whether the memory of a tensor holds its numbers, of a type that kernels know, and nothing but autograd follows it.
bool plain(const Tensor& t) {
    static const c10::DispatchKeySet known{c10::DispatchKey::CPU, c10::DispatchKey::ADInplaceOrView,
                                           c10::DispatchKey::AutogradCPU, c10::DispatchKey::AutocastCPU};
    return known.has_all(t.key_set()) && type_of(t) && t.has_storage() && !t._fw_grad(0).defined() &&
           (t.numel() == 0 || t.const_data_ptr() != nullptr);
}

bool all_plain(const variable_list& tensors) {
    for (const Tensor& t : tensors) {
        if (t.defined() && !plain(t)) return false;
    }
    return true;
}

pyhar::Map map_of(const Tensor& t) {
    pyhar::Map map;
    if (!t.defined()) return map;
    map.data = const_cast<void*>(t.const_data_ptr());  // those that kernels write are new
    map.type = *type_of(t);
    for (std::int64_t i = 0; i < t.dim(); ++i) map.stride[i] = t.stride(i);
    return map;
}

void* memory_of(const Tensor& t) { return t.defined() ? const_cast<void*>(t.const_data_ptr()) : nullptr; }

// --- launches

struct Maps {
    Tensor logits, features, depth, beta;  // undefined where absent; beta (B, J)

    // float32, or float64 if one of them is
    at::ScalarType computing_type() const {
        for (const Tensor* t : {&logits, &features, &depth}) {
            if (t->defined() && t->scalar_type() == at::kDouble) return at::kDouble;
        }
        return at::kFloat;
    }
    Tensor per_plane(std::initializer_list<std::int64_t> more = {}) const {
        std::vector<std::int64_t> size{logits.size(0), logits.size(1)};
        size.insert(size.end(), more);
        return at::empty(size, logits.options().dtype(computing_type()));
    }
};

struct Options {
    double scale = 1;
    std::string grid;        // empty: no coordinates
    std::string confidence;  // empty: none
    bool normalised = false;
    std::array<double, 4> lines{1, 0, 1, 0};

    std::vector<double> numbers() const { return {scale, lines[0], lines[1], lines[2], lines[3]}; }
};

pyhar::Problem problem(const Maps& maps, const Options& options, const Tensor& stats) {
    pyhar::Problem p;
    p.size = {maps.logits.size(0), maps.logits.size(1), maps.features.defined() ? maps.features.size(1) : 0,
              maps.logits.size(2), maps.logits.size(3)};
    p.wide = maps.computing_type() == at::kDouble;
    p.logits = map_of(maps.logits), p.features = map_of(maps.features), p.depth = map_of(maps.depth);
    p.beta = map_of(maps.beta);
    p.scale = options.scale;
    for (int i = 0; i < 4; ++i) p.grid[i] = options.lines[i];
    p.window = options.confidence == "window";
    p.stats = memory_of(stats);
    return p;
}

void take_number_of_threads() {
    if (!lent->shares_threads()) lent->set_max_threads(at::get_num_threads());
}

void launch(const char* name, const pyhar::Problem& p, const pyhar::ForwardOutputs& out) {
    if (p.size.batch == 0) return;
    RECORD_FUNCTION(name, c10::ArrayRef<const c10::IValue>{});  // for PyTorch's profiler
    take_number_of_threads();
    const pybind11::gil_scoped_release free;
    lent->forward(p, out);
}

// Called by the autograd engine, which has no lock of Python's.
void launch(const char* name, const pyhar::Problem& p, const pyhar::Gradients& out) {
    if (p.size.batch == 0) return;
    RECORD_FUNCTION(name, c10::ArrayRef<const c10::IValue>{});
    take_number_of_threads();
    lent->backward(p, out);
}

struct Decoded {
    Tensor xy, z, confidence, appearance, stats;
};

Decoded decode(const Maps& maps, const Options& options) {
    Decoded out;
    if (!options.grid.empty()) out.xy = maps.per_plane({2});
    if (maps.depth.defined()) out.z = maps.per_plane();
    if (!options.confidence.empty()) out.confidence = maps.per_plane();
    if (maps.features.defined()) {
        out.appearance =
            at::empty({maps.logits.size(0), maps.logits.size(1), maps.features.size(1)}, maps.features.options());
    }
    if (!options.normalised) out.stats = maps.per_plane({2});
    pyhar::ForwardOutputs to;
    to.xy = memory_of(out.xy), to.z = memory_of(out.z), to.confidence = memory_of(out.confidence);
    to.appearance = map_of(out.appearance);
    launch("pyhar::cpu_decode", problem(maps, options, out.stats), to);
    return out;
}

// The node knows the outputs that are asked for alone; this puts them, or their gradients, in the places of xy, z,
// confidence and appearance.
variable_list in_places(const Maps& maps, const Options& options, const variable_list& asked_for) {
    const bool asked[] = {!options.grid.empty(), maps.depth.defined(), !options.confidence.empty(),
                          maps.features.defined()};
    variable_list all(4);
    std::size_t next = 0;
    for (std::size_t i = 0; i < 4; ++i) {
        if (asked[i]) all[i] = asked_for[next++];
    }
    return all;
}

struct Softmaxed {
    Tensor probs, stats;
};

Softmaxed softmax(const Maps& maps, const Options& options) {
    Softmaxed out{at::empty_like(maps.logits), maps.per_plane({2})};
    pyhar::ForwardOutputs to;
    to.probs = map_of(out.probs);
    launch("pyhar::cpu_softmax", problem(maps, options, out.stats), to);
    return out;
}

// --- nodes of the autograd graph

[[noreturn]] void throw_python_error() {
    python_error error;
    error.persist();  // it may be caught where another error of Python's is set
    throw error;
}

PyObject* wrapped(const Tensor& t) {
    if (t.defined()) return THPVariable_Wrap(t);
    Py_RETURN_NONE;
}

PyObject* wrapped(const variable_list& tensors) {
    PyObject* const tuple = PyTuple_New(static_cast<Py_ssize_t>(tensors.size()));
    if (tuple == nullptr) throw_python_error();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        PyObject* const one = wrapped(tensors[i]);
        if (one == nullptr) {
            Py_DECREF(tuple);
            throw_python_error();
        }
        PyTuple_SET_ITEM(tuple, static_cast<Py_ssize_t>(i), one);
    }
    return tuple;
}

// Has Python find the gradients: function(saved, numbers, names, needs, upstream), those of the first tensors saved.
variable_list in_python(PyObject* function, const variable_list& saved, const std::vector<double>& numbers,
                        const std::vector<std::string>& names, const std::vector<bool>& needs,
                        const variable_list& upstream) {
    const pybind11::gil_scoped_acquire lock;
    const auto tensors = [](const variable_list& list) {
        return pybind11::reinterpret_steal<pybind11::object>(wrapped(list));
    };
    pybind11::tuple flags(needs.size()), options(names.size()), values(numbers.size());
    for (std::size_t i = 0; i < needs.size(); ++i) flags[i] = pybind11::bool_(needs[i]);
    for (std::size_t i = 0; i < names.size(); ++i) options[i] = pybind11::str(names[i]);
    for (std::size_t i = 0; i < numbers.size(); ++i) values[i] = pybind11::float_(numbers[i]);
    const auto found = pybind11::reinterpret_steal<pybind11::object>(PyObject_CallFunctionObjArgs(
        function, tensors(saved).ptr(), values.ptr(), options.ptr(), flags.ptr(), tensors(upstream).ptr(), nullptr));
    if (!found) throw_python_error();
    variable_list gradients;
    for (const auto& one : found) {
        gradients.push_back(one.is_none() ? Tensor() : THPVariable_Unpack(one.ptr()));
    }
    return gradients;
}

bool kernels_serve(const variable_list& saved, const variable_list& upstream) {
    return !at::GradMode::is_enabled() && undisturbed() && all_plain(saved) && all_plain(upstream);
}

// Of the first `count` tensors saved, those of which a gradient is asked for. The graph has no edge to absent ones.
std::vector<bool> wanted_of(const AutogradContext* ctx, const variable_list& saved, std::size_t count) {
    std::vector<bool> wanted(count);
    std::size_t edge = 0;
    for (std::size_t i = 0; i < count; ++i) wanted[i] = saved[i].defined() && ctx->needs_input_grad(edge++);
    return wanted;
}

// An absent tensor as PyTorch wants it among a function's arguments.
using Maybe = std::optional<Tensor>;

Maybe maybe(const Tensor& t) { return t.defined() ? Maybe(t) : std::nullopt; }

Tensor or_nothing(const Maybe& t) { return t ? *t : Tensor(); }

Tensor contiguous(const Tensor& t) { return t.defined() ? t.contiguous() : t; }

class Decode : public torch::autograd::Function<Decode> {
public:
    static constexpr bool is_traceable = true;  // given a compiler's tensors, `backward` calls operators that it knows

    // xy, z, confidence and appearance, those that are asked for.
    static variable_list forward(AutogradContext* ctx, const Tensor& logits, const Maybe& features, const Maybe& depth,
                                 const Maybe& beta, const Options& options) {
        const Maps maps{logits, or_nothing(features), or_nothing(depth), or_nothing(beta)};
        const Decoded out = decode(maps, options);
        ctx->set_materialize_grads(false);
        ctx->save_for_backward({logits, maps.features, maps.depth, maps.beta, out.stats, out.xy, out.z});
        ctx->saved_data["numbers"] = options.numbers();
        ctx->saved_data["names"] =
            std::vector<std::string>{options.grid, options.confidence, options.normalised ? "normalised" : ""};
        variable_list wanted;
        for (const Tensor& t : {out.xy, out.z, out.confidence, out.appearance}) {
            if (t.defined()) wanted.push_back(t);
        }
        return wanted;
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& upstream) {
        const auto saved = ctx->get_saved_variables();
        const Maps maps{saved[0], saved[1], saved[2], saved[3]};
        const auto numbers = ctx->saved_data["numbers"].toDoubleVector();
        std::vector<std::string> names;
        for (const auto& name : ctx->saved_data["names"].toListRef()) names.push_back(name.toStringRef());
        Options options;
        options.scale = numbers[0];
        std::copy(numbers.begin() + 1, numbers.end(), options.lines.begin());
        options.grid = names[0], options.confidence = names[1], options.normalised = !names[2].empty();

        variable_list g = in_places(maps, options, upstream);
        variable_list gradients(5);  // one for each argument of forward
        if (std::none_of(g.begin(), g.end(), [](const Tensor& t) { return t.defined(); })) return gradients;
        auto needs = wanted_of(ctx, saved, 4);
        // Features reach the appearance alone, depth logits the depth alone.
        needs[1] = needs[1] && g[3].defined(), needs[2] = needs[2] && g[1].defined();
        if (!kernels_serve(saved, g)) {
            gradients = in_python(decode_differentiated, saved, numbers, names, needs, g);
            gradients.resize(5);
            return gradients;
        }
        const Tensor nothing;
        pyhar::Gradients to;
        // The kernels need an output where its gradient flows alone.
        to.xy = memory_of(g[0].defined() ? saved[5] : nothing), to.z = memory_of(g[1].defined() ? saved[6] : nothing);
        for (Tensor& t : g) t = contiguous(t);
        to.g_xy = memory_of(g[0]), to.g_z = memory_of(g[1]), to.g_confidence = memory_of(g[2]);
        to.g_appearance = map_of(g[3]);
        for (std::size_t i = 0; i < 3; ++i) {
            if (needs[i]) gradients[i] = at::empty_like(saved[i]);
        }
        if (needs[3]) gradients[3] = maps.per_plane();
        to.logits = map_of(gradients[0]), to.features = map_of(gradients[1]), to.depth = map_of(gradients[2]);
        to.beta = memory_of(gradients[3]);
        launch("pyhar::cpu_decode_backward", problem(maps, options, saved[4]), to);
        return gradients;
    }
};

class Softmax : public torch::autograd::Function<Softmax> {
public:
    static constexpr bool is_traceable = true;

    static Tensor forward(AutogradContext* ctx, const Tensor& logits, const Maybe& beta, const Options& options) {
        const Maps maps{logits, {}, {}, or_nothing(beta)};
        const Softmaxed out = softmax(maps, options);
        ctx->set_materialize_grads(false);
        ctx->save_for_backward({logits, maps.beta, out.stats, out.probs});
        ctx->saved_data["scale"] = options.scale;
        return out.probs;
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& upstream) {
        variable_list gradients(3);  // one for each argument of forward
        if (!upstream[0].defined()) return gradients;
        const auto saved = ctx->get_saved_variables();
        Options options;
        options.scale = ctx->saved_data["scale"].toDouble();
        const auto needs = wanted_of(ctx, saved, 2);
        if (!kernels_serve(saved, upstream)) {
            gradients = in_python(softmax_differentiated, saved, {options.scale}, {}, needs, upstream);
            gradients.resize(3);
            return gradients;
        }
        const Maps maps{saved[0], {}, {}, saved[1]};
        if (needs[0]) gradients[0] = at::empty_like(maps.logits);
        if (needs[1]) gradients[1] = maps.per_plane();
        pyhar::Gradients to;
        to.probs = map_of(saved[3]), to.g_probs = map_of(upstream[0]);
        to.logits = map_of(gradients[0]), to.beta = memory_of(gradients[1]);
        launch("pyhar::cpu_softmax_backward", problem(maps, options, saved[2]), to);
        return gradients;
    }
};

// --- arguments of Python

// False where the operator's longer way has to look at it.
bool read(PyObject* object, Tensor& tensor) {
    if (object == Py_None) return true;
    if (!THPVariable_CheckExact(object)) return false;
    tensor = THPVariable_Unpack(object);
    return plain(tensor);
}

bool read(PyObject* object, std::string& text) {
    Py_ssize_t length = 0;
    const char* const characters = PyUnicode_Check(object) ? PyUnicode_AsUTF8AndSize(object, &length) : nullptr;
    if (characters == nullptr) return false;
    text.assign(characters, static_cast<std::size_t>(length));
    return !text.empty();
}

bool read_maps(PyObject* object, Tensor& maps) {
    return read(object, maps) &&
           (!maps.defined() || (maps.dim() == 4 && maps.size(1) > 0 && maps.size(2) > 0 && maps.size(3) > 0));
}

// Beta becomes `scale`, or maps.beta, (B, J) in the computing type, with its own place in the graph.
bool read_beta(PyObject* object, Maps& maps, double& scale) {
    if (PyFloat_Check(object) || PyLong_CheckExact(object)) {
        scale = PyFloat_AsDouble(object);
        return std::isfinite(scale) && !PyErr_Occurred();
    }
    Tensor beta;
    if (object == Py_None || !read(object, beta) || beta.dim() > 1) return false;
    const auto joints = maps.logits.size(1);
    if (beta.dim() == 1 && beta.size(0) != 1 && beta.size(0) != joints) return false;
    maps.beta = beta.to(maps.computing_type()).expand({maps.logits.size(0), joints});
    return true;
}

bool served_by_cpu(PyObject* backend) {
    return undisturbed() && (backend == Py_None ||
                             (PyUnicode_Check(backend) && PyUnicode_CompareWithASCIIString(backend, "cpu") == 0));
}

bool read_lines(PyObject* grid, const Tensor& logits, std::array<double, 4>& lines) {
    const auto rows = pybind11::reinterpret_steal<pybind11::object>(PyLong_FromLongLong(logits.size(2)));
    const auto columns = pybind11::reinterpret_steal<pybind11::object>(PyLong_FromLongLong(logits.size(3)));
    const auto found = pybind11::reinterpret_steal<pybind11::object>(
        PyObject_CallFunctionObjArgs(lines_of, grid, rows.ptr(), columns.ptr(), nullptr));
    if (!found || !PyTuple_CheckExact(found.ptr()) || PyTuple_GET_SIZE(found.ptr()) != 4) return false;
    for (int i = 0; i < 4; ++i) lines[i] = PyFloat_AsDouble(PyTuple_GET_ITEM(found.ptr(), i));
    return !PyErr_Occurred();
}

// A name that is not given is not asked for.
bool read_decode(PyObject* const* args, Py_ssize_t count, Maps& maps, Options& options) {
    if (!read_maps(args[1], maps.logits) || !maps.logits.defined()) return false;
    if (!read_maps(args[2], maps.features) || !read_maps(args[3], maps.depth)) return false;
    const auto &logits = maps.logits, &features = maps.features, &depth = maps.depth;
    if (depth.defined() && depth.sizes() != logits.sizes()) return false;
    if (features.defined() && (features.size(0) != logits.size(0) || features.size(2) != logits.size(2) ||
                               features.size(3) != logits.size(3))) {
        return false;
    }
    if (!read_beta(args[4], maps, options.scale)) return false;
    options.normalised = args[5] == Py_True;
    if (count > 6 && (!read(args[6], options.grid) || !read_lines(args[6], logits, options.lines))) return false;
    return count < 8 || (read(args[7], options.confidence) &&
                         (options.confidence == "max" || options.confidence == "window"));
}

bool needs_graph(const Maps& maps) {
    return at::GradMode::is_enabled() &&
           torch::autograd::any_variable_requires_grad({maps.logits, maps.features, maps.depth, maps.beta});
}

PyObject* longer_way() {
    PyErr_Clear();
    Py_RETURN_NONE;
}

PyObject* py_decode(PyObject*, PyObject* const* args, Py_ssize_t count) {
    HANDLE_TH_ERRORS
    Maps maps;
    Options options;
    if (count < 6 || count > 8 || !served_by_cpu(args[0]) || !read_decode(args, count, maps, options)) {
        return longer_way();
    }
    if (!needs_graph(maps)) {
        const Decoded out = decode(maps, options);
        return wrapped(variable_list{out.xy, out.z, out.confidence, out.appearance});
    }
    const auto out = Decode::apply(maps.logits, maybe(maps.features), maybe(maps.depth), maybe(maps.beta), options);
    return wrapped(in_places(maps, options, out));
    END_HANDLE_TH_ERRORS
}

PyObject* py_softmax(PyObject*, PyObject* const* args, Py_ssize_t count) {
    HANDLE_TH_ERRORS
    Maps maps;
    Options options;
    if (count != 3 || !served_by_cpu(args[0]) || !read_maps(args[1], maps.logits) || !maps.logits.defined() ||
        !read_beta(args[2], maps, options.scale)) {
        return longer_way();
    }
    if (!needs_graph(maps)) return wrapped(softmax(maps, options).probs);
    return wrapped(Softmax::apply(maps.logits, maybe(maps.beta), options));
    END_HANDLE_TH_ERRORS
}

PyObject* py_bind(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 4) return PyErr_Format(PyExc_TypeError, "bind: expected 4 arguments, got %zd", count);
    void* const address = PyCapsule_GetPointer(args[0], pyhar::Lent::capsule);
    if (address == nullptr) return nullptr;
    lent = static_cast<const pyhar::Lent*>(address);
    PyObject** const kept[] = {&lines_of, &decode_differentiated, &softmax_differentiated};
    for (int i = 0; i < 3; ++i) {
        Py_INCREF(args[i + 1]);
        *kept[i] = args[i + 1];
    }
    Py_RETURN_NONE;
}

template <class Function>
PyCFunction method(Function* function) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

}  // namespace

PyMODINIT_FUNC PyInit__autograd() {
    static PyMethodDef methods[] = {
        {"bind", method(&py_bind), METH_FASTCALL, "Give it what it calls; see pyhar/ops/native_calls.py."},
        {"decode", method(&py_decode), METH_FASTCALL,
         "(backend, logits, features, depth_logits, beta, normalised[, grid[, confidence]]) -> xy, z, confidence, "
         "appearance, each None where not asked for; or None."},
        {"softmax", method(&py_softmax), METH_FASTCALL, "(backend, logits, beta) -> maps of probabilities, or None."},
        {nullptr, nullptr, 0, nullptr},
    };
    static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_autograd", nullptr, -1, methods,
                                     nullptr, nullptr, nullptr, nullptr};
    PyObject* const module = PyModule_Create(&definition);
    if (module == nullptr) return nullptr;
    return PyModule_AddStringConstant(module, "torch_version", PYHAR_TORCH_VERSION) == 0 ? module : nullptr;
}
