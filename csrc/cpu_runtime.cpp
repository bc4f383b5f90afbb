// The parts of the CPU backend that are compiled once: choice of the instruction set, working memory.
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/features.h"
#include "cpu/pages.h"
#include "cpu/problem.h"
#include "cpu/scratch.h"

#ifdef __linux__
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace pyhar {

namespace {

constexpr std::size_t alignment = 64, first_chunk = std::size_t{1} << 18, kept = std::size_t{1} << 25;

struct Free {
    void operator()(char* p) const { ::operator delete(p, std::align_val_t{alignment}); }
};

struct Chunk {
    explicit Chunk(std::size_t bytes)
        : memory(static_cast<char*>(::operator new(bytes, std::align_val_t{alignment}))), size(bytes) {}
    std::unique_ptr<char, Free> memory;
    std::size_t size;
};

struct Stack {
    std::vector<Chunk> chunks;
    std::size_t chunk = 0, used = 0;  // top of the stack: used bytes of chunks[chunk]
};

thread_local Stack stack;

#ifdef PYHAR_TILES_X86
// Linux gives a process the tile registers only when asked.
bool tiles_allowed() {
    constexpr long request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

const Kernels* named(const std::string& name) {
    std::string names;
    for (const Kernels* k : offered_kernels()) {
        if (name == k->name) return k;
        names += std::string(names.empty() ? "" : ", ") + k->name;
    }
    throw std::invalid_argument("no CPU instruction set '" + name + "' (PYHAR_CPU_ISA): this machine offers " + names);
}

const Kernels*& in_use() {
    static const Kernels* chosen = [] {
        const char* asked = std::getenv("PYHAR_CPU_ISA");
        return asked == nullptr || *asked == '\0' ? offered_kernels().front() : named(asked);
    }();
    return chosen;
}

}  // namespace

std::vector<const Kernels*> offered_kernels() {
    std::vector<const Kernels*> offered;
#ifdef PYHAR_VECTOR_X86
    const auto features = cpu_features();
    const auto has = [&](const char* name) {
        for (const auto& feature : features) {
            if (feature == name) return true;
        }
        return false;
    };
    if (has("avx2") && has("fma") && has("f16c")) {
        if (has("avx512f") && has("avx512dq") && has("avx512bw") && has("avx512vl")) {
            static const Kernels with_int8 = [] {
                Kernels k = avx512_kernels;
                k.name = "avx512_vnni", k.int8_units = avx512_int8_units;
                return k;
            }();
            static const Kernels with_bfloat16 = [] {
                Kernels k = with_int8;
                k.name = "avx512_bf16", k.bfloat16_units = avx512_bfloat16_units;
                k.int8_bfloat16_units = avx512_int8_bfloat16_units;
                return k;
            }();
            const bool int8 = has("avx512_vnni"), bfloat16 = int8 && has("avx512_bf16");
#ifdef PYHAR_TILES_X86
            static const Kernels with_tiles = [] {
                Kernels k = with_bfloat16;
                k.name = "amx_bf16", k.bfloat16_units = amx_bfloat16_units;
                k.int8_bfloat16_units = amx_int8_bfloat16_units;
                k.tiles = amx_appearance;
                return k;
            }();
            if (bfloat16 && has("amx_tile") && has("amx_bf16") && has("amx_int8") && tiles_allowed()) {
                offered.push_back(&with_tiles);
            }
#endif
            if (bfloat16) offered.push_back(&with_bfloat16);
            if (int8) offered.push_back(&with_int8);
            offered.push_back(&avx512_kernels);
        }
#ifdef PYHAR_VNNI_X86
        static const Kernels avx2_with_int8 = [] {
            Kernels k = avx2_kernels;
            k.name = "avx2_vnni", k.int8_units = avx2_int8_units;
            return k;
        }();
        if (has("avx_vnni")) offered.push_back(&avx2_with_int8);
#endif
        offered.push_back(&avx2_kernels);
    }
#endif
    offered.push_back(&scalar_kernels);
    return offered;
}

const Kernels& kernels() { return *in_use(); }

void use_kernels(const std::string& name) { in_use() = named(name); }

bool untouched(const Map& map, const Sizes& size, std::int64_t channels) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (!map) return false;
    constexpr std::uintptr_t huge = std::uintptr_t{1} << 21;
    const std::int64_t extent[4] = {size.batch, channels, size.rows, size.columns};
    std::int64_t last = 0;
    for (int i = 0; i < 4; ++i) {
        if (extent[i] == 0) return false;
        last += (extent[i] - 1) * map.stride[i];
    }
    const auto begin = reinterpret_cast<std::uintptr_t>(map.data);
    const std::uintptr_t bytes = static_cast<std::uintptr_t>((last + 1) * size_of(map.type));
    if (bytes < 2 * huge) return false;
    static const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    unsigned char given = 1;
    void* const middle = reinterpret_cast<void*>((begin + bytes / 2) / page * page);
    if (mincore(middle, 1, &given) != 0 || (given & 1u) != 0) return false;
    const std::uintptr_t first = (begin + huge - 1) / huge * huge, end = (begin + bytes) / huge * huge;
    madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);  // a wish: all is well without
    return true;
#else
    (void)map, (void)size, (void)channels;
    return false;
#endif
}

Frame::Frame() : chunk_(stack.chunk), used_(stack.used) {}

Frame::~Frame() {
    stack.chunk = chunk_;
    stack.used = used_;
    if (chunk_ != 0 || used_ != 0) return;
    // Empty: what took several chunks gets one that holds them all next time, and very much is given back.
    std::size_t total = 0;
    for (const Chunk& c : stack.chunks) total += c.size;
    if (total > kept) {
        stack.chunks.clear();
    } else if (stack.chunks.size() > 1) {
        stack.chunks.clear();
        try {
            stack.chunks.emplace_back(total);
        } catch (const std::bad_alloc&) {
            stack.chunks.clear();
        }
    }
}

void* scratch_bytes(std::size_t bytes) {
    // One cache line more than asked, and never a multiple of a page: blocks used side by side should not compete for
    // the same cache sets.
    bytes = (bytes + alignment - 1) / alignment * alignment + alignment;
    while (stack.chunk < stack.chunks.size() && stack.used + bytes > stack.chunks[stack.chunk].size) {
        ++stack.chunk;
        stack.used = 0;
    }
    if (stack.chunk == stack.chunks.size()) {
        stack.chunks.emplace_back(bytes > first_chunk ? bytes : first_chunk);
        stack.used = 0;
    }
    void* block = stack.chunks[stack.chunk].memory.get() + stack.used;
    stack.used += bytes;
    return block;
}

}  // namespace pyhar
