// The tiled matrix product behind the appearance: out[m, n] = sum_k A[m, k] * B[n, k].
//
// A block makes a tile of ROWS x COLS outputs. It brings 32 k of both operands into shared memory, each thread makes 4x4
// outputs from registers, and SPLIT teams of threads share the k among them and are summed at the end, in order: more
// warps where the tile is small. Each 32 k are summed apart before they are added, which keeps long sums accurate.
#pragma once

#include "params.cuh"

namespace pyhar {

constexpr int DEPTH = 32;  // k brought in at once

// An operand in shared memory, [row][k] in quads of k. Quad q of row r lies at place q ^ (r ^ r/8) % 8, so that neither
// a read by rows (8 neighbouring rows, one quad) nor a write along either dimension meets the same bank twice.
template <typename T, int ROWS>
struct Operand {
    T* data;

    static constexpr int SIZE = ROWS * DEPTH;

    static PYHAR_DEVICE int index(int row, int k) {
        return row * DEPTH + (((k >> 2) ^ ((row ^ (row >> 3)) & 7)) << 2) + (k & 3);
    }

    PYHAR_DEVICE void quad(int row, int q, T (&value)[4]) const {
        const Pack<T, 4> pack = *reinterpret_cast<const Pack<T, 4>*>(data + index(row, q * 4));
#pragma unroll
        for (int i = 0; i < 4; ++i) value[i] = pack.value[i];
    }

    // Fills the operand element by element: fetch(row, k). Threads next to each other take rows, or k.
    template <typename Fetch>
    PYHAR_DEVICE void fill(bool along_rows, const Fetch& fetch) const {
        const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
#pragma unroll 4
        for (int i = thread; i < SIZE; i += threads) {
            const int row = along_rows ? i % ROWS : i / DEPTH, k = along_rows ? i / ROWS : i % DEPTH;
            data[index(row, k)] = fetch(row, k);
        }
    }

    // The same, V elements at a time: fetch(row, k, values) gives those from (row, k) on along the dimension.
    template <int V, typename Fetch>
    PYHAR_DEVICE void fill_packs(bool along_rows, const Fetch& fetch) const {
        const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
#pragma unroll 2
        for (int i = thread; i < SIZE / V; i += threads) {
            T value[V];
            if (along_rows) {
                const int row = i % (ROWS / V) * V, k = i / (ROWS / V);
                fetch(row, k, value);
#pragma unroll
                for (int v = 0; v < V; ++v) data[index(row + v, k)] = value[v];
            } else {
                const int row = i / (DEPTH / V), k = i % (DEPTH / V) * V;
                fetch(row, k, value);
#pragma unroll
                for (int v = 0; v < V; ++v) data[index(row, k + v)] = value[v];
            }
        }
    }
};

template <typename T, int ROWS, int COLS>
PYHAR_DEVICE constexpr int product_values() {
    return (ROWS + COLS) * DEPTH;
}

// bring(k0) fills both operands with k0..k0+31 (zero beyond the last k) and may not assume that all threads have
// arrived; store(m, n, value) takes an output. `by_rows` gives neighbouring threads neighbouring m in the stores.
template <typename T, int ROWS, int COLS, int SPLIT, typename Bring, typename Store>
PYHAR_DEVICE void product(
    const Operand<T, ROWS>& A, const Operand<T, COLS>& B, int depth, bool by_rows, const Bring& bring,
    const Store& store) {
    constexpr int ACROSS = COLS / 4, DOWN = ROWS / 4, TEAM = ACROSS * DOWN;
    const int thread = static_cast<int>(threadIdx.x), team = thread / TEAM, member = thread % TEAM;
    const int m0 = by_rows ? member % DOWN : member / ACROSS, n0 = by_rows ? member / DOWN : member % ACROSS;
    T total[4][4] = {};
    for (int k0 = 0; k0 < depth; k0 += DEPTH) {
        bring(k0);
        __syncthreads();
        const int left = depth - k0, quads = left < DEPTH ? (left + 3) / 4 : DEPTH / 4;
        T sum[4][4] = {};
#pragma unroll 1
        for (int q = team; q < quads; q += SPLIT) {
            T a[4][4], b[4][4];
#pragma unroll
            for (int i = 0; i < 4; ++i) A.quad(m0 + i * DOWN, q, a[i]);
#pragma unroll
            for (int i = 0; i < 4; ++i) B.quad(n0 + i * ACROSS, q, b[i]);
#pragma unroll
            for (int k = 0; k < 4; ++k) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
#pragma unroll
                    for (int j = 0; j < 4; ++j) sum[i][j] += a[i][k] * b[j][k];
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) total[i][j] += sum[i][j];
        }
        __syncthreads();
    }
    T* others = A.data;  // both operands lie next to each other; one team's outputs fit into them
    for (int other = 1; other < SPLIT; ++other) {
        if (team == other) {
#pragma unroll
            for (int i = 0; i < 16; ++i) others[i * TEAM + member] = total[i / 4][i % 4];
        }
        __syncthreads();
        if (team == 0) {
#pragma unroll
            for (int i = 0; i < 16; ++i) total[i / 4][i % 4] += others[i * TEAM + member];
        }
        __syncthreads();
    }
    if (team == 0) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) store(m0 + i * DOWN, n0 + j * ACROSS, total[i][j]);
        }
    }
}

}  // namespace pyhar
