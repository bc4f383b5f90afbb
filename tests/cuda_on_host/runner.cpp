// Runs a kernel block by block; the threads of a block are fibers. See stand_in.hpp.
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "stand_in.hpp"

namespace host {

Index thread_index, block_index, block_size, grid_size;

namespace {

constexpr std::size_t stack_bytes = 64 * 1024, margin = 4096;
constexpr unsigned char poison = 0xff;  // NaN in every floating-point type

enum Outcome : int { fine, divergent_barrier, outside_shared_memory };
enum Order : int { ascending, descending, shuffled, warps_ahead };

struct Warp {
    alignas(16) unsigned char value[2][32][16];
};

struct Fiber {
    jmp_buf resume;
    ucontext_t start;
    bool started = false, done = false;
    Wait waits = Wait::none;
    std::intptr_t detail = 0;
    int shuffles = 0;
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
std::vector<unsigned char> memory;
unsigned char* stacks = nullptr;
std::size_t stacks_for = 0;
jmp_buf scheduler;
Fiber* running = nullptr;
void (*kernel)(const void*) = nullptr;
const void* parameters = nullptr;

void body() {
    kernel(parameters);
    running->done = true;
    _longjmp(scheduler, 1);
}

void resume(Fiber& fiber, unsigned thread) {
    running = &fiber;
    thread_index = {thread, 0, 0};
    fiber.waits = Wait::none;
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.resume, 1);
    fiber.started = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = stacks + thread * stack_bytes;
    fiber.start.uc_stack.ss_size = stack_bytes;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, body, 0);
    setcontext(&fiber.start);
}

// Lets those go on that wait for the same thing in the given range, if all of it do.
bool release(std::size_t first, std::size_t last, bool whole_block) {
    for (std::size_t i = first; i < last; ++i) {
        const bool block = fibers[i].waits == Wait::block;
        if (fibers[i].done || fibers[i].waits == Wait::none || block != whole_block) return false;
        if (fibers[i].waits != fibers[first].waits || fibers[i].detail != fibers[first].detail) return false;
    }
    for (std::size_t i = first; i < last; ++i) fibers[i].waits = Wait::none;
    return true;
}

Outcome run_block(std::vector<unsigned>& order, Order kind, std::mt19937& random) {
    const std::size_t threads = fibers.size();
    for (Fiber& fiber : fibers) fiber.started = fiber.done = false, fiber.waits = Wait::none, fiber.shuffles = 0;
    std::fill(memory.begin(), memory.end(), poison);
    for (Warp& warp : warps) std::memset(&warp, poison, sizeof warp);
    const auto go_on = [](unsigned thread) {
        Fiber& fiber = fibers[thread];
        if (!fiber.done && fiber.waits == Wait::none) resume(fiber, thread);
    };
    while (true) {
        if (kind == shuffled || kind == warps_ahead) std::shuffle(order.begin(), order.end(), random);
        if (kind == warps_ahead) {
            // Warp after warp, in the order of their first threads, goes as far as the block's barriers let it.
            std::vector<bool> gone(warps.size());
            for (const unsigned first : order) {
                const std::size_t warp = first / 32, begin = 32 * warp, end = std::min(begin + 32, threads);
                if (gone[warp]) continue;
                gone[warp] = true;
                do {
                    for (const unsigned thread : order) {
                        if (thread / 32 == warp) go_on(thread);
                    }
                } while (release(begin, end, false));
            }
        } else {
            std::for_each(order.begin(), order.end(), go_on);
        }
        if (std::all_of(fibers.begin(), fibers.end(), [](const Fiber& f) { return f.done; })) break;
        bool moved = release(0, threads, true);
        for (std::size_t first = 0; first < threads; first += 32) {
            moved |= release(first, std::min(first + 32, threads), false);
        }
        if (!moved) return divergent_barrier;
    }
    const auto touched = [](unsigned char byte) { return byte != poison; };
    if (std::any_of(memory.begin(), memory.begin() + margin, touched)) return outside_shared_memory;
    if (std::any_of(memory.end() - margin, memory.end(), touched)) return outside_shared_memory;
    return fine;
}

}  // namespace

unsigned char* shared_memory() { return memory.data() + margin; }

static void suspend_at(Wait what, std::intptr_t detail) {
    Fiber& self = *running;
    const Index index = thread_index;
    self.waits = what;
    self.detail = detail;
    if (!_setjmp(self.resume)) _longjmp(scheduler, 1);
    thread_index = index;
}

void suspend(Wait what, int detail) { suspend_at(what, detail); }

[[gnu::noinline]] void wait_for_block() {
    suspend_at(Wait::block, reinterpret_cast<std::intptr_t>(__builtin_return_address(0)));
}

// Two places for each value, used in turn: a lane may be at its next shuffle while another still reads.
void* exchange(int lane) {
    const std::size_t warp = thread_index.x / 32;
    return warps[warp].value[running->shuffles % 2][lane];
}

void exchanged() { ++running->shuffles; }

}  // namespace host

// Runs `kernel` on a grid of blocks in one dimension; returns an Outcome.
extern "C" int run_kernel(
    void (*kernel)(const void*), const void* parameters, long long blocks, int threads, int shared_bytes, int order,
    unsigned seed) {
    using namespace host;
    if (stacks_for < static_cast<std::size_t>(threads)) {
        if (stacks) munmap(stacks, stacks_for * stack_bytes);
        stacks_for = threads;
        void* const found = mmap(nullptr, stacks_for * stack_bytes, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (found == MAP_FAILED) return -1;
        stacks = static_cast<unsigned char*>(found);
    }
    fibers.resize(threads);
    warps.resize((threads + 31) / 32);
    memory.resize(shared_bytes + 2 * margin);
    host::kernel = kernel;
    host::parameters = parameters;
    block_size = {static_cast<unsigned>(threads), 1, 1};
    grid_size = {static_cast<unsigned>(blocks), 1, 1};
    std::mt19937 random(seed);
    std::vector<unsigned> turns(threads);
    std::iota(turns.begin(), turns.end(), 0u);
    if (order == descending) std::reverse(turns.begin(), turns.end());
    for (long long block = 0; block < blocks; ++block) {
        block_index = {static_cast<unsigned>(block), 0, 0};
        const Outcome outcome = run_block(turns, static_cast<Order>(order), random);
        if (outcome != fine) return outcome;
    }
    return fine;
}
