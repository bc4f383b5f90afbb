// Launches kept to be repeated: the same kernels at the same addresses, without what leads to a launch.
#pragma once

#include <cstddef>
#include <functional>
#include <stdexcept>
#include <utility>
#include <vector>

namespace pyhar {

// What one thread launches between begin() and end(), which are called by that thread.
class Recording {
public:
    Recording() = default;
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;
    ~Recording() { end(); }

    void begin() {
        if (current() != nullptr) throw std::logic_error("this thread is recording already");
        current() = this;
    }
    void end() {
        if (current() == this) current() = nullptr;
    }

    std::size_t size() const { return launches_.size(); }

    void run() const {
        for (const auto& launch : launches_) launch();
    }

    static Recording*& current() {
        static thread_local Recording* recording = nullptr;
        return recording;
    }

    void add(std::function<void()> launch) { launches_.push_back(std::move(launch)); }

private:
    std::vector<std::function<void()>> launches_;
};

// Does what `launch` does, and keeps it where this thread is recording.
template <class Launch>
void perform(const Launch& launch) {
    launch();
    if (Recording* const recording = Recording::current()) recording->add(launch);
}

}  // namespace pyhar
