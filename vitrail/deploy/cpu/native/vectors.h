// Sixteen 32-bit numbers at a time, with AVX-512: its masks read and write what is left over of a row.
#pragma once
#include <immintrin.h>
#include <cmath>
#include <cstdint>
#include <cstring>

#define INLINE inline __attribute__((always_inline))
typedef __m512 Vec;
constexpr int LANES = 16;

static INLINE int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
static INLINE Vec all(float x) { return _mm512_set1_ps(x); }
static INLINE Vec load(const float *p) { return _mm512_loadu_ps(p); }
static INLINE void store(float *p, Vec v) { _mm512_storeu_ps(p, v); }
static INLINE Vec larger(Vec a, Vec b) { return _mm512_max_ps(a, b); }          // b where one of them is no number

// The first n lanes, 0 < n.
static INLINE __mmask16 first(int64_t n) { return n >= LANES ? 0xffff : (__mmask16)((1u << n) - 1); }
static INLINE Vec load_part(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }

template <class To, class From> static INLINE To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From), "bits are moved, not changed");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

// e^x for x up to 88, to two units in the last place; below -87 it is e^-87, all but 0.
static INLINE Vec exponential(Vec x) {
    x = larger(all(-87.f), x);
    const Vec whole = _mm512_roundscale_ps(x * all(1.44269504088896341f), _MM_FROUND_TO_NEAREST_INT);
    const Vec r = x - whole * all(0.693145751953125f) - whole * all(1.42860682030941723e-6f);       // by ln 2
    Vec p = all(1.f / 720);
    p = p * r + all(1.f / 120);
    p = p * r + all(1.f / 24);
    p = p * r + all(1.f / 6);
    p = p * r + all(0.5f);
    p = p * r + all(1.f);
    p = p * r + all(1.f);
    return _mm512_scalef_ps(p, whole);
}

// Two rows exchange blocks of K lanes, as a transposition does.
template <int K> static INLINE void exchange(Vec &a, Vec &b) {
    alignas(64) static constexpr struct Picks {
        int low[LANES], high[LANES];
        constexpr Picks() : low(), high() {
            for (int i = 0; i < LANES; i++) {
                low[i] = i & K ? LANES + i - K : i;
                high[i] = i & K ? LANES + i : i + K;
            }
        }
    } picks;
    const Vec low = _mm512_permutex2var_ps(a, _mm512_load_si512(picks.low), b);
    b = _mm512_permutex2var_ps(a, _mm512_load_si512(picks.high), b);
    a = low;
}

template <int K = LANES / 2> static INLINE void transpose(Vec (&rows)[LANES]) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) if (!(i & K)) exchange<K>(rows[i], rows[i + K]);
    if constexpr (K > 1) transpose<K / 2>(rows);
}

// A matrix of 32-bit numbers that lies with any strides, row by row; columns are padded with zeros to `wide`, which is
// a multiple of the lanes.
static inline void pack(const float *from, int64_t row, int64_t column, int64_t rows, int64_t columns, float *to,
                        int64_t wide) {
    if (column == 1) {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < wide; c += LANES)
                store(to + r * wide + c, c < columns ? load_part(from + r * row + c, columns - c) : Vec{});
    } else if (row == 1) {
        for (int64_t c = 0; c < wide; c += LANES)
            for (int64_t r = 0; r < rows; r += LANES) {
                Vec block[LANES];
#pragma GCC unroll 16
                for (int i = 0; i < LANES; i++)
                    block[i] = c + i < columns ? load_part(from + (c + i) * column + r, rows - r) : Vec{};
                transpose(block);
#pragma GCC unroll 16
                for (int i = 0; i < LANES; i++) if (r + i < rows) store(to + (r + i) * wide + c, block[i]);
            }
    } else {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < wide; c++) to[r * wide + c] = c < columns ? from[r * row + c * column] : 0.f;
    }
}

// How numbers of a type are read and written, the first n of a vector.
struct Float {
    typedef float Number;
    static INLINE Vec read(const Number *p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
    INLINE void write(Number *p, Vec v, int64_t n) const { _mm512_mask_storeu_ps(p, first(n), v); }
    static INLINE float value(Number x) { return x; }
};

#if defined(__AVX512BF16__)
struct BFloat16 {
    typedef uint16_t Number;
    static INLINE __m512i low(const Number *p, int64_t n) {
        return _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_maskz_loadu_epi16(first(n), p));
    }
    static INLINE __m512i high(const Number *p, int64_t n) { return _mm512_maskz_slli_epi32(0xffff, low(p, n), 16); }
    static INLINE Vec read(const Number *p, int64_t n) { return bits_of<Vec>(high(p, n)); }
    INLINE void write(Number *p, Vec v, int64_t n) const {
        _mm256_mask_storeu_epi16(p, first(n), bits_of<__m256i>(_mm512_cvtneps_pbh(v)));
    }
    static INLINE float value(Number x) { return bits_of<float>((uint32_t)x << 16); }
};
#endif

struct Byte {                                           // x / scale + zero, from 0 to 255
    typedef uint8_t Number;
    float inverse, zero;
    Byte(float scale, int64_t zero) : inverse(1.f / scale), zero((float)zero) {}
    INLINE void write(Number *p, Vec v, int64_t n) const {
        const Vec whole = larger(v * all(inverse) + all(zero), Vec{});
        _mm512_mask_cvtusepi32_storeu_epi8(p, first(n), _mm512_cvtps_epi32(whole));
    }
};
