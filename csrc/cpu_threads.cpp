// Parallel loops by the threads of PyTorch, whose OpenMP runtime is found in the process: two runtimes would fight for
// the cores, and compilers may have none. Where PyTorch has none, by threads of our own.
#include "cpu/parallel.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#ifndef _WIN32
#include <dlfcn.h>
#include <pthread.h>
#endif

namespace pyhar {

namespace {

// Ranges of grain indices, given to the members of a team: one each where there are enough members, else in turn.
struct Loop {
    std::int64_t count, grain, ranges;
    RangeTask task;
    void* context;
    std::atomic<std::int64_t> next{0};

    void run(std::int64_t i) const {
        task(context, i * grain, (i + 1) * grain < count ? (i + 1) * grain : count);
    }

    // What member `number` of `members` does.
    void work(int number, int members) {
        const FlushSubnormals flush;
        if (ranges <= members) {
            if (number < ranges) run(number);
        } else {
            for (std::int64_t i = next++; i < ranges; i = next++) run(i);
        }
    }
};

// GCC's and LLVM's runtimes both have these functions.
class OpenMP {
public:
    static const OpenMP& get() {
        static const OpenMP runtime;
        return runtime;
    }

    bool found() const { return parallel_ && max_threads && in_parallel && number_ && members_; }

    void run(Loop& loop, int threads) const {
        parallel_([](void* loop) { static_cast<Loop*>(loop)->work(get().number_(), get().members_()); }, &loop,
                  static_cast<unsigned>(threads), 0);
    }

    int (*max_threads)() = nullptr, (*in_parallel)() = nullptr;

private:
    OpenMP() {
        find(parallel_, "GOMP_parallel");
        find(max_threads, "omp_get_max_threads"), find(in_parallel, "omp_in_parallel");
        find(number_, "omp_get_thread_num"), find(members_, "omp_get_num_threads");
    }

    template <class Function>
    static void find(Function& function, const char* name) {
#ifndef _WIN32
        function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
#else
        (void)function, (void)name;
#endif
    }

    void (*parallel_)(void (*body)(void*), void* data, unsigned threads, unsigned flags) = nullptr;
    int (*number_)() = nullptr, (*members_)() = nullptr;
};

std::atomic<int> allowed{1};
thread_local bool in_team = false;

// Threads that wait for loops. They are never ended: they sleep, and the end of the process does not wait for them.
class Team {
public:
    static Team*& get() {
        static Team* current = [] {
#ifndef _WIN32
            pthread_atfork(nullptr, nullptr, [] { get() = new Team; });  // threads do not live on in a forked process
#endif
            return new Team;
        }();
        return current;
    }

    // False, with nothing done, where another thread has the team.
    bool run(Loop& loop, int threads) {
        const std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
        if (!turn.owns_lock()) return false;
        {
            const std::lock_guard<std::mutex> lock(state_);
            hire(threads - 1);
            members_ = hired_ + 1 < threads ? hired_ + 1 : threads;
            loop_ = &loop, busy_ = hired_;
            ++round_;
        }
        begun_.notify_all();
        work(loop, 0, members_);
        watch([this] { return busy_ == 0; });
        std::unique_lock<std::mutex> lock(state_);
        ended_.wait(lock, [this] { return busy_ == 0; });
        return true;
    }

private:
    void hire(int count) {
        try {
            for (; hired_ < count; ++hired_) std::thread(&Team::serve, this, hired_ + 1, round_.load()).detach();
        } catch (const std::system_error&) {  // no more to be had: those that are there do it
        }
    }

    void serve(int number, std::uint64_t seen) {
        for (;;) {
            watch([this, seen] { return round_ != seen; });
            std::unique_lock<std::mutex> lock(state_);
            begun_.wait(lock, [this, seen] { return round_ != seen; });
            seen = round_;
            Loop& loop = *loop_;
            const int members = members_;
            lock.unlock();
            if (number < members) work(loop, number, members);
            lock.lock();
            if (--busy_ == 0) ended_.notify_one();
        }
    }

    static void work(Loop& loop, int number, int members) {
        in_team = true;
        loop.work(number, members);
        in_team = false;
    }

    // Waits awake for about as long as falling asleep and waking take: what follows mostly follows at once.
    template <class Done>
    static void watch(const Done& done) {
        using Clock = std::chrono::steady_clock;
        const auto end = Clock::now() + std::chrono::microseconds(200);
        while (!done() && Clock::now() < end) {
        }
    }

    std::mutex turn_, state_;
    std::condition_variable begun_, ended_;
    std::atomic<std::uint64_t> round_{0};
    std::atomic<int> busy_{0};
    Loop* loop_ = nullptr;
    int hired_ = 0, members_ = 0;
};

}  // namespace

bool shares_threads() { return OpenMP::get().found(); }

int max_threads() { return shares_threads() ? OpenMP::get().max_threads() : allowed.load(); }

void set_max_threads(int count) { allowed = count; }

void run_ranges(std::int64_t count, std::int64_t grain, int threads, RangeTask task, void* context) {
    if (grain < 1) grain = 1;
    Loop loop{count, grain, (count + grain - 1) / grain, task, context};
    if (threads > 1 && loop.ranges > 1) {
        const OpenMP& openmp = OpenMP::get();
        if (openmp.found()) {
            if (!openmp.in_parallel()) return openmp.run(loop, threads);
        } else if (!in_team && Team::get()->run(loop, threads)) {
            return;
        }
    }
    loop.work(0, 1);
}

}  // namespace pyhar
