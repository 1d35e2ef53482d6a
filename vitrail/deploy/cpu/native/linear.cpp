// act(x W^T + bias) + residual, with rows of x that lie evenly or are found through an index: several of them side by
// side make a row of a convolution. A tile of the answer stays in registers, while the weights of its columns stream.
#include "activations.h"
#include <algorithm>
#include <type_traits>

constexpr int WIDEST = 4;                               // vectors of a tile; its rows are what registers are left for
constexpr int rows_of(int tile) { return tile == 4 ? 6 : tile == 3 ? 8 : 12; }
constexpr int64_t ROWS = 192, FEW_ROWS = 24;            // of a thread's task
constexpr int64_t NEAR = 512 * 1024, PART = NEAR / 2;   // bytes of weights, and of rows, that stay in a core's own cache

// What a product takes at once is a cell of 32 bits: one number in float32, two in bfloat16, four bytes.
struct FloatCells : Float {
    typedef Vec Sum;
    static INLINE Sum add_product(Sum c, Vec one, Vec row) { return c + one * row; }
    static INLINE Vec value(Sum c) { return c; }
};

#if defined(__AVX512BF16__)
struct BFloat16Cells : BFloat16 {
    typedef Vec Sum;
    static INLINE Sum add_product(Sum c, Vec one, Vec row) {
        return _mm512_dpbf16_ps(c, bits_of<__m512bh>(one), bits_of<__m512bh>(row));
    }
    static INLINE Vec value(Sum c) { return c; }
};
#endif

#if defined(__AVX512VNNI__)
struct ByteCells {                                      // of x from 0 to 255, of weights from -127 to 127
    typedef uint8_t Number;
    typedef int Sum __attribute__((vector_size(64)));
    static INLINE Sum add_product(Sum c, Vec one, Vec row) {    // the intrinsic's type keeps sums out of registers
        asm("vpdpbusd %2, %1, %0" : "+v"(c) : "v"(one), "v"(row));
        return c;
    }
    static INLINE Vec value(Sum c) { return _mm512_cvtepi32_ps((__m512i)c); }
};
#endif

enum Answer { FLOAT32, BFLOAT16, BYTES };

struct Linear {
    const char *x;
    int64_t row;                                        // bytes from one row of x to the next
    const int32_t *index;                               // per row of the answer `taps` rows of x, or -1 for zeros
    int64_t taps, period, image;                        // it returns after `period` rows, for x `image` rows later
    const float *weight;                                // in panels of up to WIDEST vectors of columns, and zeros
    const float *scale, *bias;
    const char *residual;
    char *out;
    int64_t rows, columns, cells, activation;           // cells of one row of x
    const float *zeros;                                 // as many as a row's cells
    int64_t answer;
    double step;                                        // and zero: the range of an answer in bytes
    int64_t zero;

    INLINE const float *place(int64_t row, int64_t tap) const {
        if (index) {
            const int32_t there = index[row % period * taps + tap];
            if (there < 0) return zeros;
            row = there + row / period * image;
        }
        return (const float *)(x + row * this->row);
    }
};

// R rows and T vectors of the answer, of which `count` rows and, of the last vector, `last` columns are there.
template <class Kind, class To, Activation KIND, int R, int T>
static __attribute__((noinline)) void tile(const Linear &job, int64_t first, int count, int64_t column, int64_t last,
                                           const float *weight, const To &put) {
    typedef typename To::Number Number;
    typename Kind::Sum sum[R][T];
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) sum[i][t] = typename Kind::Sum{};
    const int64_t cells = job.cells;
    for (int64_t tap = 0; tap < job.taps; tap++) {
        const float *at[R];
#pragma GCC unroll 12
        for (int i = 0; i < R; i++) at[i] = job.place(first + (i < count ? i : 0), tap);
        for (int64_t k = 0; k < cells; k++, weight += T * LANES) {
            Vec part[T];
#pragma GCC unroll 4
            for (int t = 0; t < T; t++) part[t] = load(weight + t * LANES);
#pragma GCC unroll 12
            for (int i = 0; i < R; i++) {
                const Vec one = all(at[i][k]);
#pragma GCC unroll 4
                for (int t = 0; t < T; t++) sum[i][t] = Kind::add_product(sum[i][t], one, part[t]);
            }
        }
    }
    Number *out = (Number *)job.out + first * job.columns + column;
    const Number *residual = (const Number *)job.residual + first * job.columns + column;
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
        const int64_t n = t == T - 1 ? last : LANES, at = t * LANES;
        const Vec scale = job.scale ? load_part(job.scale + column + at, n) : all(1.f);
        const Vec bias = job.bias ? load_part(job.bias + column + at, n) : Vec{};
#pragma GCC unroll 12
        for (int i = 0; i < R; i++) {
            Vec v = activated<KIND>(Kind::value(sum[i][t]) * scale + bias);
            if (i < count) {
                if constexpr (!std::is_same<Number, uint8_t>::value)
                    if (job.residual) v += To::read(residual + i * job.columns + at, n);
                put.write(out + i * job.columns + at, v, n);
            }
        }
    }
}

// Rows from `first` to `end` of one panel.
template <class Kind, class To, Activation KIND, int T>
static void panel(const Linear &job, int64_t first, int64_t end, int64_t column, const float *weight, const To &put) {
    constexpr int R = rows_of(T);
    const int64_t last = std::min<int64_t>(LANES, job.columns - column - (T - 1) * LANES);
    for (; first < end; first += R)
        tile<Kind, To, KIND, R, T>(job, first, (int)std::min<int64_t>(R, end - first), column, last, weight, put);
}

template <class Kind, class To, Activation KIND>
static void panel(int size, const Linear &job, int64_t first, int64_t end, int64_t column, const float *weight,
                  const To &put) {
    if (size == 4) panel<Kind, To, KIND, 4>(job, first, end, column, weight, put);
    else if (size == 3) panel<Kind, To, KIND, 3>(job, first, end, column, weight, put);
    else if (size == 2) panel<Kind, To, KIND, 2>(job, first, end, column, weight, put);
    else panel<Kind, To, KIND, 1>(job, first, end, column, weight, put);
}

// Panels are as even as can be. Where all weights stay near, a task is all columns of as many rows as do, which are
// read once; else it is some rows of one panel. A thread has tasks that follow each other, and so the rows that it had
// in the layer before: they need not come from another core.
template <class Kind, class To> static int linear(const Linear &job, const To &put, int64_t threads) {
    const int64_t vectors = (job.columns + LANES - 1) / LANES, panels = (vectors + WIDEST - 1) / WIDEST;
    const int64_t depth = job.cells * job.taps, mine = (job.rows + threads - 1) / threads;
    const bool together = 4 * depth * job.columns <= NEAR && mine >= 2 * FEW_ROWS;
    int64_t each = std::min(ROWS, up((job.rows * panels + 4 * threads - 1) / (4 * threads), FEW_ROWS));
    if (together) {
        const int64_t most = std::max(FEW_ROWS, PART / (4 * job.cells)), chunks = (mine + most - 1) / most;
        each = up((mine + chunks - 1) / chunks, FEW_ROWS / 2);
    }
    const int64_t parts = (job.rows + each - 1) / each;
    const auto how = job.activation == NONE ? panel<Kind, To, NONE> : job.activation == RELU ? panel<Kind, To, RELU> :
                     job.activation == GELU ? panel<Kind, To, GELU> : panel<Kind, To, SILU>;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t task = 0; task < (together ? parts : parts * panels); task++) {
        const int64_t first = (together ? task : task % parts) * each, end = std::min(job.rows, first + each);
        const int64_t from = together ? 0 : task / parts, to = together ? panels : from + 1;
        for (int64_t p = from; p < to; p++) {
            const int64_t start = p * vectors / panels, size = (p + 1) * vectors / panels - start;
            const int64_t column = start * LANES;
            how((int)size, job, first, end, column, job.weight + column * depth, put);
        }
    }
    return 0;
}

extern "C" int linear_float32(const Linear *job, int64_t threads) {
    return linear<FloatCells>(*job, Float(), threads);
}

#if defined(__AVX512BF16__)
extern "C" int linear_bfloat16(const Linear *job, int64_t threads) {
    return linear<BFloat16Cells>(*job, BFloat16(), threads);
}
#endif

#if defined(__AVX512VNNI__)
extern "C" int linear_uint8(const Linear *job, int64_t threads) {
    if (job->answer == FLOAT32) return linear<ByteCells>(*job, Float(), threads);
#if defined(__AVX512BF16__)
    if (job->answer == BFLOAT16) return linear<ByteCells>(*job, BFloat16(), threads);
#endif
    return linear<ByteCells>(*job, Byte((float)job->step, job->zero), threads);
}
#endif
