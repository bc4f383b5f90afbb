// What pyhar._native lends to pyhar._autograd, a module of its own: an address in a capsule.
#pragma once

#include "cpu/problem.h"

namespace pyhar {

// None needs Python's lock.
struct Lent {
    static constexpr const char* capsule = "pyhar._native.lent " PYHAR_BUILD;

    // The problems' batches are not empty. Both throw as kernels() does.
    void (*forward)(const Problem&, const ForwardOutputs&);
    void (*backward)(const Problem&, const Gradients&);
    bool (*shares_threads)();
    void (*set_max_threads)(int);
};

}  // namespace pyhar
