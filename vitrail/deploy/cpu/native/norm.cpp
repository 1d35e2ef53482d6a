// Layer norm of rows, and rounding to bytes, by itself or with a norm.
#include "vectors.h"

template <class From, class To>
static INLINE void norm(const typename From::Number *x, typename To::Number *y, int64_t columns, const float *weight,
                        const float *bias, float epsilon, const To &put) {
    Vec total = {}, squares = {};
    for (int64_t c = 0; c < columns; c += LANES) total += From::read(x + c, columns - c);
    const Vec mean = all(_mm512_reduce_add_ps(total) / columns);
    for (int64_t c = 0; c < columns; c += LANES) {
        const Vec apart = _mm512_maskz_sub_ps(first(columns - c), From::read(x + c, columns - c), mean);
        squares += apart * apart;
    }
    const Vec scale = all(1.f / sqrtf(_mm512_reduce_add_ps(squares) / columns + epsilon));
    for (int64_t c = 0; c < columns; c += LANES) {
        const int64_t n = columns - c;
        Vec found = (From::read(x + c, n) - mean) * scale;
        if (weight) found = found * load_part(weight + c, n);
        if (bias) found += load_part(bias + c, n);
        put.write(y + c, found, n);
    }
}

struct Norm {
    const void *x;
    void *y;
    int64_t rows, columns;
    const float *weight, *bias;
    double epsilon, step;                               // step > 0: the answer is rounded to bytes
    int64_t zero;
};

template <class From, class To> static void norms(const Norm &job, const To &put, int64_t threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t r = 0; r < job.rows; r++)
        norm<From>((const typename From::Number *)job.x + r * job.columns,
                   (typename To::Number *)job.y + r * job.columns, job.columns, job.weight, job.bias,
                   (float)job.epsilon, put);
}

template <class Kind> static int norms(const Norm &job, int64_t threads) {
    if (job.step > 0) norms<Kind>(job, Byte((float)job.step, job.zero), threads);
    else norms<Kind>(job, Kind(), threads);
    return 0;
}

struct Bytes {
    const void *x;
    uint8_t *y;
    int64_t count;
    double step;
    int64_t zero;
};

template <class From> static int bytes(const Bytes &job, int64_t threads) {
    const Byte put((float)job.step, job.zero);
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < job.count; i += LANES)
        put.write(job.y + i, From::read((const typename From::Number *)job.x + i, job.count - i), job.count - i);
    return 0;
}

extern "C" int norm_float32(const Norm *job, int64_t threads) { return norms<Float>(*job, threads); }
extern "C" int bytes_float32(const Bytes *job, int64_t threads) { return bytes<Float>(*job, threads); }

#if defined(__AVX512BF16__)
extern "C" int norm_bfloat16(const Norm *job, int64_t threads) { return norms<BFloat16>(*job, threads); }
extern "C" int bytes_bfloat16(const Bytes *job, int64_t threads) { return bytes<BFloat16>(*job, threads); }
#endif
