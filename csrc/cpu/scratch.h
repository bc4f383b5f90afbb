// Working memory of one thread: a stack of aligned blocks that is kept between calls.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pyhar {

// Bytes at an address divisible by 64, valid until the innermost Frame of this thread ends.
void* scratch_bytes(std::size_t bytes);

// While a Frame lives, scratch_bytes() hands out memory; its end takes back what was handed out since.
class Frame {
public:
    Frame();
    ~Frame();
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

private:
    std::size_t chunk_, used_;
};

template <class T>
T* scratch(std::int64_t count) {
    return static_cast<T*>(scratch_bytes(static_cast<std::size_t>(count) * sizeof(T)));
}

}  // namespace pyhar
