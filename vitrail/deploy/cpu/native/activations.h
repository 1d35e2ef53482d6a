// What stands behind a linear layer.
#pragma once
#include "vectors.h"

enum Activation { NONE, RELU, GELU, SILU };

// The normal distribution from 0 to x, in fourteen parts and half a part of a polynomial each: Taylor's of degree six
// at a part's middle, without the Chebyshev polynomials of degree five and six. It is 1/2 beyond.
struct Normal {
    static constexpr double WIDTH = 0.355;              // of a part
    alignas(64) float at[5][LANES];                     // by powers of the distance to the middle, in widths
    Normal() : at() {
        for (int i = 0; i < LANES - 1; i++) {
            const double c = i * WIDTH, p = exp(-c * c / 2) * 0.39894228040143268, w = WIDTH * WIDTH, h = w / 4;
            const double five = (c * c * (c * c - 6) + 3) * p / 120, six = -c * (c * c * (c * c - 10) + 15) * p / 720;
            at[0][i] = (float)(0.5 * erf(c * 0.70710678118654752) + h * h * h * six / 32);
            at[1][i] = (float)((p - h * h * five * 5 / 16) * WIDTH);
            at[2][i] = (float)((-c * p / 2 - h * h * six * 9 / 16) * w);
            at[3][i] = (float)(((c * c - 1) * p / 6 + h * five * 5 / 4) * w * WIDTH);
            at[4][i] = (float)((-c * (c * c - 3) * p / 24 + h * six * 3 / 2) * w * w);
        }
        at[0][LANES - 1] = 0.5f;
    }
};

static const Normal normal;

// x times the normal distribution up to x, within 1e-6.
static INLINE Vec gelu(Vec x) {
    const Vec u = _mm512_min_ps(_mm512_abs_ps(x) * all((float)(1 / Normal::WIDTH)), all(LANES - 1.f));
    const Vec shifted = u + all(12582912.f), t = u - (shifted - all(12582912.f));       // whole parts in its low bits
    const auto pick = [&](int power) { return _mm512_permutexvar_ps(bits_of<__m512i>(shifted), load(normal.at[power])); };
    const Vec p = pick(0) + t * (pick(1) + t * (pick(2) + t * (pick(3) + t * pick(4))));
    const Vec sign = _mm512_and_ps(x, all(-0.f));
    return x * (all(0.5f) + _mm512_or_ps(p, sign));
}

template <Activation KIND> static INLINE Vec activated(Vec v) {
    if (KIND == RELU) return larger(Vec{}, v);
    if (KIND == GELU) return gelu(v);
    if (KIND == SILU) return v / (all(1.f) + exponential(Vec{} - v));
    return v;
}
