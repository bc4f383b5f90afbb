// Parallel loops. torch.set_num_threads rules here too.
#pragma once

#include <cstdint>

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace pyhar {

// While it lives, this thread takes subnormal numbers, those closest to 0, for 0. A softmax over sharp maps is full of
// them, and on x86 each costs more than a hundred ordinary operations.
class FlushSubnormals {
public:
#ifdef __SSE2__
    FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | flush_results | zero_operands); }
    ~FlushSubnormals() { _mm_setcsr(before_); }

private:
    static constexpr unsigned flush_results = 1u << 15, zero_operands = 1u << 6;
    const unsigned before_;
#else
    FlushSubnormals() {}
#endif
public:
    FlushSubnormals(const FlushSubnormals&) = delete;
    FlushSubnormals& operator=(const FlushSubnormals&) = delete;
};

// Whether loops run in the threads of PyTorch's OpenMP runtime; elsewhere set_max_threads has to say how many there are.
bool shares_threads();
void set_max_threads(int count);

// The number of threads a parallel loop started now would use.
int max_threads();

using RangeTask = void (*)(void* context, std::int64_t begin, std::int64_t end);

// Calls task(context, begin, end) on ranges of at most `grain` that make up [0, count), by up to `threads` threads. Where
// there are no more ranges than threads, each thread has the same range whenever it is called so. Subnormal numbers are
// flushed meanwhile.
void run_ranges(std::int64_t count, std::int64_t grain, int threads, RangeTask task, void* context);

// The threads worth waking for `work` floating-point operations split over `units`: what takes ten microseconds is done
// sooner by one.
inline int useful_threads(double work, std::int64_t units) {
    constexpr double worth_a_thread = 1e6;
    std::int64_t n = max_threads();
    if (units < n) n = units;
    if (work < worth_a_thread * static_cast<double>(n)) n = static_cast<std::int64_t>(work / worth_a_thread);
    return n < 1 ? 1 : static_cast<int>(n);
}

// body(begin, end) as above. What body computes for an index must not depend on the range it comes in.
template <class Body>
void parallel_for(std::int64_t count, std::int64_t grain, int threads, Body& body) {
    run_ranges(
        count, grain, threads,
        [](void* context, std::int64_t begin, std::int64_t end) { (*static_cast<Body*>(context))(begin, end); }, &body);
}

}  // namespace pyhar
