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

template <class From, class To>
static void norms(const void *x, void *y, int64_t rows, int64_t columns, const float *weight, const float *bias,
                  float epsilon, const To &put, int64_t threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t r = 0; r < rows; r++)
        norm<From>((const typename From::Number *)x + r * columns, (typename To::Number *)y + r * columns, columns,
                   weight, bias, epsilon, put);
}

template <class From, class To>
static void norms(const void *x, void *y, int64_t rows, int64_t columns, const float *weight, const float *bias,
                  float epsilon, float step, int64_t zero, int64_t threads) {
    if (step > 0) norms<From>(x, y, rows, columns, weight, bias, epsilon, Byte{step, (int32_t)zero}, threads);
    else norms<From>(x, y, rows, columns, weight, bias, epsilon, To(), threads);
}

template <class From>
static void bytes(const void *x, uint8_t *y, int64_t count, float step, int64_t zero, int64_t threads) {
    const Byte put = {step, (int32_t)zero};
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < count; i += LANES)
        put.write(y + i, From::read((const typename From::Number *)x + i, count - i), count - i);
}

extern "C" void norm_float32(const void *x, void *y, int64_t rows, int64_t columns, const float *weight,
                             const float *bias, float epsilon, float step, int64_t zero, int64_t threads) {
    norms<Float, Float>(x, y, rows, columns, weight, bias, epsilon, step, zero, threads);
}

extern "C" void bytes_float32(const void *x, uint8_t *y, int64_t count, float step, int64_t zero, int64_t threads) {
    bytes<Float>(x, y, count, step, zero, threads);
}

#if defined(__AVX512BF16__)
extern "C" void norm_bfloat16(const void *x, void *y, int64_t rows, int64_t columns, const float *weight,
                              const float *bias, float epsilon, float step, int64_t zero, int64_t threads) {
    norms<BFloat16, BFloat16>(x, y, rows, columns, weight, bias, epsilon, step, zero, threads);
}

extern "C" void bytes_bfloat16(const void *x, uint8_t *y, int64_t count, float step, int64_t zero, int64_t threads) {
    bytes<BFloat16>(x, y, count, step, zero, threads);
}
#endif
