// PyTorch's tensors as arguments of functions of the module, read through the attributes they have in Python: the module
// is compiled without PyTorch. Conversions in Python would cost a call several times as much.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>

#include "cpu/problem.h"

namespace pyhar {

// Where and how the numbers of a tensor of up to four dimensions lie; of None, nothing.
struct TensorArgument {
    Map map;
    std::array<std::int64_t, 4> shape{};  // 0 after the last dimension, like the strides
};

// Where a contiguous tensor begins; of None, null.
struct MemoryArgument {
    void* data = nullptr;
};

namespace python {

namespace py = pybind11;

inline PyObject* name(const char* text) { return PyUnicode_InternFromString(text); }

inline py::object attribute(py::handle object, PyObject* name) {
    return py::reinterpret_steal<py::object>(PyObject_GetAttr(object.ptr(), name));
}

inline py::object call(py::handle object, PyObject* method) {
    return py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(object.ptr(), method));
}

inline void* address_of(py::handle tensor) {
    static PyObject* const data_ptr = name("data_ptr");
    const py::object address = call(tensor, data_ptr);
    return address ? PyLong_AsVoidPtr(address.ptr()) : nullptr;
}

inline bool numbers(const py::object& tuple, std::int64_t* to) {
    if (!tuple || !PyTuple_Check(tuple.ptr()) || PyTuple_GET_SIZE(tuple.ptr()) > 4) return false;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple.ptr()); ++i) {
        to[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple.ptr(), i));
    }
    return true;
}

inline bool type_of(py::handle tensor, Type& type) {
    static PyObject* const dtype = name("dtype");
    // In the order of Type; they live as long as PyTorch.
    static const std::array<PyObject*, 4> types = [] {
        const py::module_ torch = py::module_::import("torch");
        return std::array<PyObject*, 4>{torch.attr("float16").ptr(), torch.attr("bfloat16").ptr(),
                                        torch.attr("float32").ptr(), torch.attr("float64").ptr()};
    }();
    const py::object found = attribute(tensor, dtype);
    for (int i = 0; i < 4; ++i) {
        if (found.ptr() == types[static_cast<std::size_t>(i)]) {
            type = static_cast<Type>(i);
            return true;
        }
    }
    return false;
}

inline bool read(py::handle tensor, TensorArgument& argument) {
    static PyObject *const shape = name("shape"), *const stride = name("stride");
    argument.map.data = address_of(tensor);
    const bool read = !PyErr_Occurred() && type_of(tensor, argument.map.type) &&
                      numbers(attribute(tensor, shape), argument.shape.data()) &&
                      numbers(call(tensor, stride), argument.map.stride);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return false;
    }
    if (read && argument.map.data == nullptr && tensor.attr("numel")().cast<std::int64_t>() > 0) {
        throw py::value_error("a tensor has no memory: its storage was resized to 0");
    }
    return read;
}

}  // namespace python
}  // namespace pyhar

namespace pybind11 {
namespace detail {

template <>
struct type_caster<pyhar::TensorArgument> {
    PYBIND11_TYPE_CASTER(pyhar::TensorArgument, const_name("torch.Tensor | None"));

    bool load(handle source, bool) { return source.is_none() || pyhar::python::read(source, value); }
};

template <>
struct type_caster<pyhar::MemoryArgument> {
    PYBIND11_TYPE_CASTER(pyhar::MemoryArgument, const_name("torch.Tensor | None"));

    bool load(handle source, bool) {
        if (source.is_none()) return true;
        value.data = pyhar::python::address_of(source);
        if (!PyErr_Occurred()) return true;
        PyErr_Clear();
        return false;
    }
};

}  // namespace detail
}  // namespace pybind11
