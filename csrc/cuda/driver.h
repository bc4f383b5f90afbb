// Launching the kernels that were compiled ahead, through the CUDA driver found at run time: the module is built, and
// imports, where there is no driver. Plain addresses in and out; nothing here includes a CUDA header.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#ifndef _WIN32
#include <dlfcn.h>
#endif

namespace pyhar::cuda {

using Function = void*;

// The few entry points of the driver that are used, with the types they have in memory.
class Driver {
   public:
    static const Driver& get() {
        static const Driver driver;
        return driver;
    }

    // Why there is no driver; empty where there is one.
    const std::string& missing() const { return missing_; }

    // As the driver gives it, 1000*major + 10*minor; 0 without one.
    int version() const {
        int found = 0;
        if (missing_.empty()) check(version_(&found), "cuDriverGetVersion");
        return found;
    }

    // Gives this thread the context that PyTorch uses on a device, if it has none yet: a new thread has none.
    void enter(int device) const {
        require();
        void* context = nullptr;
        check(current_context_(&context), "cuCtxGetCurrent");
        if (context) return;
        int handle = 0;
        check(device_(&handle, device), "cuDeviceGet");
        check(primary_context_(&context, handle), "cuDevicePrimaryCtxRetain");
        check(set_context_(context), "cuCtxSetCurrent");
    }

    // Loads an image into the current context. A stream may be captured meanwhile, here and below: it is not touched.
    void* load(const void* image) const {
        void* module = nullptr;
        check(while_capturing([&] { return load_(&module, image); }), "cuModuleLoadData");
        return module;
    }

    // Where the driver loads lazily, this is what loads the kernel.
    Function function(void* module, const char* name) const {
        require();
        Function found = nullptr;
        check(while_capturing([&] { return function_(&found, module, name); }), "cuModuleGetFunction");
        return found;
    }

    // A kernel that takes one struct by value.
    void launch(
        Function function, std::uint64_t stream, const void* parameters, unsigned blocks, unsigned threads,
        unsigned shared_bytes) const {
        void* arguments[] = {const_cast<void*>(parameters)};
        check(launch_(function, blocks, 1, 1, threads, 1, 1, shared_bytes, reinterpret_cast<void*>(stream), arguments,
                      nullptr),
              "cuLaunchKernel");
    }

   private:
    Driver() {
#ifdef _WIN32
        missing_ = "kernels compiled ahead are not offered on Windows";
#else
        void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        if (!library) {
            missing_ = "no CUDA driver (libcuda.so.1 does not load)";
            return;
        }
        int (*initialize)(unsigned) = nullptr;
        const std::pair<const char*, void*> wanted[] = {
            {"cuInit", &initialize},
            {"cuDriverGetVersion", &version_},
            {"cuGetErrorString", &error_},
            {"cuDeviceGet", &device_},
            {"cuCtxGetCurrent", &current_context_},
            {"cuCtxSetCurrent", &set_context_},
            {"cuDevicePrimaryCtxRetain", &primary_context_},
            {"cuThreadExchangeStreamCaptureMode", &exchange_capture_mode_},
            {"cuModuleLoadData", &load_},
            {"cuModuleGetFunction", &function_},
            {"cuLaunchKernel", &launch_},
        };
        for (const auto& [name, place] : wanted) {
            void* const found = dlsym(library, name);
            if (!found) {
                missing_ = std::string("the CUDA driver is too old: it lacks ") + name;
                return;
            }
            *static_cast<void**>(place) = found;
        }
        if (const int result = initialize(0)) missing_ = "the CUDA driver does not start: " + words(result);
#endif
    }

    // A call that the driver would else refuse while a stream is captured.
    template <typename Call>
    int while_capturing(const Call& call) const {
        int mode = 2;  // relaxed
        check(exchange_capture_mode_(&mode), "cuThreadExchangeStreamCaptureMode");
        const int result = call();
        exchange_capture_mode_(&mode);
        return result;
    }

    void require() const {
        if (!missing_.empty()) throw std::runtime_error(missing_);
    }

    std::string words(int result) const {
        const char* text = nullptr;
        if (error_ && error_(result, &text) == 0 && text) return text;
        return "error " + std::to_string(result);
    }

    void check(int result, const char* what) const {
        if (result) throw std::runtime_error(std::string(what) + ": " + words(result));
    }

    std::string missing_;
    int (*version_)(int*) = nullptr;
    int (*error_)(int, const char**) = nullptr;
    int (*device_)(int*, int) = nullptr;
    int (*current_context_)(void**) = nullptr;
    int (*set_context_)(void*) = nullptr;
    int (*primary_context_)(void**, int) = nullptr;
    int (*exchange_capture_mode_)(int*) = nullptr;
    int (*load_)(void**, const void*) = nullptr;
    int (*function_)(Function*, void*, const char*) = nullptr;
    int (*launch_)(Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
                   void**) = nullptr;
};

}  // namespace pyhar::cuda
