// Depthwise convolutions of 3 x 3 over maps (B, H, W, C): act(x * w + bias) scale + shift + residual, each channel for
// itself. Four places beside each other share what they read.
#include "activations.h"
#include <algorithm>

constexpr int SIDE = 3, TOGETHER = 4;                   // of the filter, and places of a tile

struct Depthwise {
    const char *x;
    const float *weight, *bias, *scale, *shift;         // (9, C), and each (C)
    const char *residual;
    char *out;
    int64_t images, height, width, channels, rows, columns;     // of x, and rows and columns of the answer
    int64_t stride, padding, activation;
    double step;                                        // > 0: the answer is rounded to bytes, and nothing is added
    int64_t zero;
};

// What a tile sees: rows of x from its first column on, and their weights.
template <class Number> struct Seen {
    const Number *x[SIDE];
    const float *weight[SIDE];
    int rows, from, to;                                 // and which columns of the filter are within the map
};

// N places of the answer beside each other; where N is 1 some columns of the filter may lie outside.
template <class Kind, class To, Activation KIND, int STRIDE, int N>
static INLINE void tile(const Depthwise &job, const Seen<typename Kind::Number> &seen, int64_t place, const To &put) {
    typedef typename Kind::Number Number;
    const int64_t C = job.channels;
    for (int64_t c = 0; c < C; c += LANES) {
        const int64_t n = C - c;
        Vec sum[N];
#pragma GCC unroll 4
        for (int i = 0; i < N; i++) sum[i] = Vec{};
        for (int r = 0; r < seen.rows; r++) {
            const Number *x = seen.x[r] + c;
            const float *w = seen.weight[r] + c;
            if (N > 1) {
                constexpr int COLUMNS = (N - 1) * STRIDE + SIDE;
                const Vec weight[SIDE] = {load_part(w, n), load_part(w + C, n), load_part(w + 2 * C, n)};
#pragma GCC unroll 12
                for (int k = 0; k < COLUMNS; k++) {
                    const Vec value = Kind::read(x + k * C, n);
                    if (r == seen.rows - 1 && k >= SIDE - STRIDE) __builtin_prefetch(x + (k + N * STRIDE) * C);
#pragma GCC unroll 4
                    for (int i = 0; i < N; i++)
                        if (k >= i * STRIDE && k < i * STRIDE + SIDE) sum[i] += value * weight[k - i * STRIDE];
                }
            } else {
                for (int k = seen.from; k < seen.to; k++)
                    sum[0] += Kind::read(x + k * C, n) * load_part(w + k * C, n);
            }
        }
#pragma GCC unroll 4
        for (int i = 0; i < N; i++) {
            const int64_t at = (place + i) * C + c;
            Vec v = sum[i];
            if (job.bias) v += load_part(job.bias + c, n);
            v = activated<KIND>(v);
            if (job.scale) v = v * load_part(job.scale + c, n) + load_part(job.shift + c, n);
            if (job.residual) v += Kind::read((const Number *)job.residual + at, n);
            put.write((typename To::Number *)job.out + at, v, n);
        }
    }
}

// A row of the answer.
template <class Kind, class To, Activation KIND, int STRIDE>
static void row(const Depthwise &job, int64_t at, const To &put) {
    typedef typename Kind::Number Number;
    const int64_t C = job.channels, top = at % job.rows * STRIDE - job.padding;
    const Number *image = (const Number *)job.x + at / job.rows * job.height * job.width * C;
    Seen<Number> seen = {};
    for (int64_t y = 0; y < SIDE; y++)
        if (top + y >= 0 && top + y < job.height) {
            seen.x[seen.rows] = image + (top + y) * job.width * C;
            seen.weight[seen.rows++] = job.weight + y * SIDE * C;
        }
    for (int64_t x = 0; x < job.columns;) {
        const int64_t left = x * STRIDE - job.padding;
        Seen<Number> here = seen;
        for (int r = 0; r < seen.rows; r++) here.x[r] += left * C;
        here.from = (int)std::max<int64_t>(0, -left);
        here.to = (int)std::min<int64_t>(SIDE, job.width - left);
        const bool within = left >= 0 && left + (TOGETHER - 1) * STRIDE + SIDE <= job.width;
        if (within && x + TOGETHER <= job.columns) {
            tile<Kind, To, KIND, STRIDE, TOGETHER>(job, here, at * job.columns + x, put);
            x += TOGETHER;
        } else {
            tile<Kind, To, KIND, STRIDE, 1>(job, here, at * job.columns + x, put);
            x++;
        }
    }
}

template <class Kind, class To, Activation KIND> static int depthwise(const Depthwise &job, const To &put,
                                                                     int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t at = 0; at < job.images * job.rows; at++)
        if (job.stride == 1) row<Kind, To, KIND, 1>(job, at, put);
        else row<Kind, To, KIND, 2>(job, at, put);
    return 0;
}

template <class Kind, class To> static int depthwise(const Depthwise &job, const To &put, int64_t threads) {
    if (job.activation == NONE) return depthwise<Kind, To, NONE>(job, put, threads);
    if (job.activation == RELU) return depthwise<Kind, To, RELU>(job, put, threads);
    if (job.activation == GELU) return depthwise<Kind, To, GELU>(job, put, threads);
    return depthwise<Kind, To, SILU>(job, put, threads);
}

template <class Kind> static int depthwise(const Depthwise &job, int64_t threads) {
    if (job.step > 0) return depthwise<Kind>(job, Byte((float)job.step, job.zero), threads);
    return depthwise<Kind>(job, Kind(), threads);
}

extern "C" int depthwise_float32(const Depthwise *job, int64_t threads) { return depthwise<Float>(*job, threads); }

#if defined(__AVX512BF16__)
extern "C" int depthwise_bfloat16(const Depthwise *job, int64_t threads) { return depthwise<BFloat16>(*job, threads); }
#endif
