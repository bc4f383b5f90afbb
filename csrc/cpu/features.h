// Which vector instructions this CPU and its operating system offer, found at run time.
// Names are those Linux prints in /proc/cpuinfo, so the two can be compared.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64) || defined(_M_IX86)
#define PYHAR_X86 1
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace pyhar {

#ifdef PYHAR_X86

namespace detail {

struct Registers {
    std::uint32_t word[4];  // eax, ebx, ecx, edx
};

inline Registers cpuid(std::uint32_t leaf, std::uint32_t subleaf) {
    Registers r{};
#ifdef _MSC_VER
    int out[4];
    __cpuidex(out, static_cast<int>(leaf), static_cast<int>(subleaf));
    for (int i = 0; i < 4; ++i) r.word[i] = static_cast<std::uint32_t>(out[i]);
#else
    __cpuid_count(leaf, subleaf, r.word[0], r.word[1], r.word[2], r.word[3]);
#endif
    return r;
}

// The register files the operating system saves on a context switch. A CPU may have AVX-512 under a system that does
// not save its registers: using it there would be a crash.
inline std::uint64_t saved_state() {
    constexpr std::uint32_t osxsave = 1u << 27;
    if (!(cpuid(1, 0).word[2] & osxsave)) return 0;
#ifdef _MSC_VER
    return _xgetbv(0);
#else
    std::uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<std::uint64_t>(high) << 32) | low;
#endif
}

}  // namespace detail

inline std::vector<std::string> cpu_features() {
    enum Word { eax, ebx, ecx, edx };
    constexpr std::uint64_t ymm = 0x6, zmm = 0xe6, tile = 0x60000;  // bits of XCR0
    struct Feature {
        const char* name;
        std::uint32_t leaf, subleaf;
        Word word;
        int bit;
        std::uint64_t state;
    };
    static constexpr Feature table[] = {
        {"avx", 1, 0, ecx, 28, ymm},         {"f16c", 1, 0, ecx, 29, ymm},
        {"fma", 1, 0, ecx, 12, ymm},         {"avx2", 7, 0, ebx, 5, ymm},
        {"avx_vnni", 7, 1, eax, 4, ymm},     {"avx512f", 7, 0, ebx, 16, zmm},
        {"avx512dq", 7, 0, ebx, 17, zmm},    {"avx512bw", 7, 0, ebx, 30, zmm},
        {"avx512vl", 7, 0, ebx, 31, zmm},    {"avx512_vnni", 7, 0, ecx, 11, zmm},
        {"avx512_bf16", 7, 1, eax, 5, zmm},  {"avx512_fp16", 7, 0, edx, 23, zmm},
        {"amx_tile", 7, 0, edx, 24, tile},   {"amx_bf16", 7, 0, edx, 22, tile},
        {"amx_int8", 7, 0, edx, 25, tile},
    };
    const std::uint32_t last_leaf = detail::cpuid(0, 0).word[eax];
    const std::uint32_t last_subleaf = last_leaf >= 7 ? detail::cpuid(7, 0).word[eax] : 0;
    const std::uint64_t saved = detail::saved_state();
    std::vector<std::string> found;
    for (const Feature& f : table) {
        if (f.leaf > last_leaf || f.subleaf > last_subleaf || (saved & f.state) != f.state) continue;
        if (detail::cpuid(f.leaf, f.subleaf).word[f.word] >> f.bit & 1u) found.emplace_back(f.name);
    }
    return found;
}

#elif defined(__aarch64__)

inline std::vector<std::string> cpu_features() {
    std::vector<std::string> found{"asimd"};  // part of every 64-bit ARM
#ifdef __linux__
    // Bits as the kernel numbers them; written out because older C library headers lack the later names.
    struct Feature {
        const char* name;
        unsigned long word;
        int bit;
    };
    static constexpr Feature table[] = {
        {"asimdhp", AT_HWCAP, 10}, {"asimddp", AT_HWCAP, 20}, {"sve", AT_HWCAP, 22},
        {"sve2", AT_HWCAP2, 1},    {"i8mm", AT_HWCAP2, 13},   {"bf16", AT_HWCAP2, 14},
    };
    for (const Feature& f : table) {
        if (getauxval(f.word) >> f.bit & 1ul) found.emplace_back(f.name);
    }
#endif
    return found;
}

#else

inline std::vector<std::string> cpu_features() { return {}; }

#endif

}  // namespace pyhar
