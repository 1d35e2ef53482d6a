// What attention's products take at once, and how matrices that lie anywhere are packed for them.
#pragma once
#include "vectors.h"

struct Matrix { char *at; int64_t row, column; };       // strides in numbers
constexpr int QUERIES = 24;                             // of a head at a time

// What a product takes at once is a cell of 32 bits: of float32 one number, of bfloat16 two of them, summed up.
struct FloatCells : Float {
    static constexpr int NUMBERS = 1;
    static INLINE Vec add_product(Vec c, float one, Vec row) { return c + all(one) * row; }
    static INLINE Vec add_square(Vec c, Vec row) { return c + row * row; }
    static INLINE void pack_values(Matrix v, int64_t keys, int64_t width, float *to, int64_t across) {
        pack((float *)v.at, v.row, v.column, keys, width, to, across);
    }
    static INLINE void pack_keys(Matrix k, int64_t cells, int64_t keys, float *to, int64_t wide) {
        pack((float *)k.at, k.column, k.row, cells, keys, to, wide);
    }
    static INLINE void pack_queries(Matrix q, int64_t count, int64_t cells, float *to, int64_t wide, float *) {
        pack((float *)q.at, q.row, q.column, count, cells, to, wide);
    }
};

#if defined(__AVX512BF16__)
struct BFloat16Cells : BFloat16 {
    static constexpr int NUMBERS = 2;
    static INLINE Vec add_product(Vec c, float one, Vec row) {
        return _mm512_dpbf16_ps(c, bits_of<__m512bh>(all(one)), bits_of<__m512bh>(row));
    }
    static INLINE Vec add_square(Vec c, Vec row) {
        return _mm512_dpbf16_ps(c, bits_of<__m512bh>(row), bits_of<__m512bh>(row));
    }
    static INLINE void pack_values(Matrix v, int64_t keys, int64_t width, float *to, int64_t across) {
        if (v.row == 1 && v.column != 1)                // pairs lie side by side
            return pack((float *)v.at, 1, v.column / NUMBERS, keys / NUMBERS, width, to, across);
        for (int64_t n = 0; n < keys; n += 2)
            for (int64_t d = 0; d < across; d += LANES) {
                const Number *one = (Number *)v.at + n * v.row + d;
                __m512i both = {};
                if (d < width) both = low(one, width - d);
                if (d < width && n + 1 < keys) both |= high(one + v.row, width - d);
                store(to + n / 2 * across + d, bits_of<Vec>(both));
            }
    }
    static INLINE void pack_keys(Matrix k, int64_t cells, int64_t keys, float *to, int64_t wide) {
        if (k.column == 1) pack((float *)k.at, 1, k.row / NUMBERS, cells, keys, to, wide);
        else pack_values({k.at, k.column, 1}, cells * NUMBERS, keys, to, wide);
    }
    static INLINE void pack_queries(Matrix q, int64_t count, int64_t cells, float *to, int64_t wide, float *turned) {
        if (q.column == 1) return pack((float *)q.at, q.row / NUMBERS, 1, count, cells, to, wide);
        constexpr int64_t ACROSS = (QUERIES + LANES - 1) / LANES * LANES;
        pack_values({q.at, q.column, 1}, cells * NUMBERS, count, turned, ACROSS);
        pack(turned, 1, ACROSS, count, cells, to, wide);
    }
};
#endif
