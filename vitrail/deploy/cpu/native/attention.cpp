// softmax(scale q k^T + bias) v for matrices that lie anywhere, or (share softmax(...) + fixed) v; or with q and k of
// length one, and a factor. A head of an image at a time: its keys and values are packed once, and the scores of some
// queries never leave the first caches.
#include "cells.h"
#include <cstdlib>

constexpr int MATRICES = 8;                             // q, k, v, bias, share, fixed, factor and the answer
struct Sizes { int64_t queries, keys, depth, width; };  // (queries x depth) (depth x keys), and (keys x width)
struct Scale { float all, least; };                     // of products; least > 0: lengths, at least so long, become one

constexpr int WIDEST = 4;                               // vectors of a tile; its rows are what registers are left for
constexpr int rows_of(int tile) { return tile == 4 ? 6 : tile == 1 ? 12 : 8; }

// to (count x T vectors, of the last `last` numbers) = the weight of each row times a (count x cells) b (cells x T)
template <class Kind, class To, int T>
static void product(const float *a, int64_t a_row, const float *b, int64_t b_row, int64_t cells, int count,
                    const float *weight, const To &put, typename To::Number *to, int64_t to_row, int64_t last) {
    constexpr int R = rows_of(T);
    for (int r = 0; r < count; r += R) {
        Vec c[R][T];
        for (int i = 0; i < R; i++) for (int t = 0; t < T; t++) c[i][t] = Vec{};
        for (int64_t d = 0; d < cells; d++) {
            Vec row[T];
#pragma GCC unroll 4
            for (int t = 0; t < T; t++) row[t] = load(b + d * b_row + t * LANES);
#pragma GCC unroll 12
            for (int i = 0; i < R; i++)
#pragma GCC unroll 4
                for (int t = 0; t < T; t++) c[i][t] = Kind::add_product(c[i][t], a[(r + i) * a_row + d], row[t]);
        }
#pragma GCC unroll 12
        for (int i = 0; i < R; i++)
            if (r + i < count)
#pragma GCC unroll 4
                for (int t = 0; t < T; t++)
                    put.write(to + (r + i) * to_row + t * LANES, c[i][t] * all(weight[r + i]),
                              t == T - 1 ? last : LANES);
    }
}

// The same for any count of columns, in tiles as even as can be.
template <class Kind, class To>
static void products(const float *a, int64_t a_row, const float *b, int64_t columns, int64_t cells, int count,
                     const float *weight, const To &put, typename To::Number *to, int64_t to_row) {
    const int64_t wide = up(columns, LANES), vectors = wide / LANES, parts = (vectors + WIDEST - 1) / WIDEST;
    for (int64_t i = 0, at = 0; i < parts; i++) {
        const int64_t size = (vectors - at + parts - i - 1) / (parts - i), from = at * LANES;
        const int64_t last = columns - from - (size - 1) * LANES;
        auto how = size == 1 ? product<Kind, To, 1> : size == 2 ? product<Kind, To, 2> :
                   size == 3 ? product<Kind, To, 3> : product<Kind, To, WIDEST>;
        how(a, a_row, b + from, wide, cells, count, weight, put, to + from, to_row, last);
        at += size;
    }
}

// What makes the lengths of keys (cells x wide) one.
template <class Kind> static void make_one(const float *keys, int64_t cells, int64_t wide, float least, float *inverse) {
    for (int64_t n = 0; n < wide; n += LANES) {
        Vec squares = {};
        for (int64_t c = 0; c < cells; c++) squares = Kind::add_square(squares, load(keys + c * wide + n));
        store(inverse + n, all(1.f) / larger(_mm512_sqrt_ps(squares), all(least)));
    }
}

// And that of a query.
template <class Kind> static float make_one(const float *query, int64_t depth, float least) {
    Vec squares = {};
    for (int64_t c = 0; c < depth; c += LANES) squares = Kind::add_square(squares, load(query + c));
    return 1.f / fmaxf(sqrtf(_mm512_reduce_add_ps(squares)), least);
}

// The row's scores, some times each, become e^(score + bias - the largest), as cells; answers with one over their sum.
// Or they become all that v is multiplied with, where something is added to the softmax's share; answers with one.
template <class Kind>
static INLINE float softmax(float *row, int64_t keys, const float *times, const typename Kind::Number *bias,
                            int64_t step, float share, const float *fixed) {
    Vec most = all(-INFINITY), total = {};
    for (int64_t n = 0; n < keys; n += LANES) {
        Vec x = load(row + n);
        if (times) x *= load(times + n);
        if (bias && step == 1) x += Kind::read(bias + n, keys - n);
        else if (bias) for (int i = 0; i < LANES && n + i < keys; i++) x[i] += Kind::value(bias[(n + i) * step]);
        if (n + LANES > keys) x = _mm512_mask_mov_ps(all(-INFINITY), first(keys - n), x);
        most = larger(most, x);
        store(row + n, x);
    }
    const Vec top = all(_mm512_reduce_max_ps(most));
    for (int64_t n = 0; n < keys; n += LANES) {
        const Vec e = exponential(load(row + n) - top);
        total += e;
        if (fixed) store(row + n, e);
        else Kind().write((typename Kind::Number *)row + n, e, LANES);
    }
    const float weight = 1.f / _mm512_reduce_add_ps(total);
    if (!fixed) return weight;
    for (int64_t n = 0; n < keys; n += LANES)
        Kind().write((typename Kind::Number *)row + n,
                     load(row + n) * all(share * weight) + load_part(fixed + n, keys - n), LANES);
    return 1.f;
}

// Where each part of a head's work lies in a thread's memory.
template <class Kind> struct Places {
    int64_t cells, pairs, wide, across, depth;          // of a product's inside, and rows rounded up to vectors
    explicit Places(const Sizes &w)
        : cells(w.depth / Kind::NUMBERS), pairs((w.keys + Kind::NUMBERS - 1) / Kind::NUMBERS),
          wide(up(w.keys, LANES)), across(up(w.width, LANES)), depth(up(cells, LANES)) {}
    int64_t values() const { return cells * wide; }
    int64_t queries() const { return values() + pairs * across; }
    int64_t scores() const { return queries() + QUERIES * depth; }
    int64_t answers() const { return scores() + QUERIES * wide; }
    int64_t lengths() const { return answers() + QUERIES * across; }
    int64_t turned() const { return lengths() + wide; }
    int64_t floats() const { return turned() + up(QUERIES, LANES) * depth; }
};

// Some queries of a head.
template <class Kind, class To>
static void attend(const Sizes &w, const Matrix (&m)[MATRICES], int64_t from, int64_t to, Scale scale, const To &put,
                   float *memory) {
    typedef typename Kind::Number Number;
    typedef typename To::Number Answer;
    const Matrix &q = m[0], &k = m[1], &v = m[2], &bias = m[3], &share = m[4], &fixed = m[5], &out = m[7];
    const Places<Kind> at(w);
    float *queries = memory + at.queries(), *scores = memory + at.scores(), each[QUERIES], weight[QUERIES] = {};
    float *times = scale.least > 0 ? memory + at.lengths() : nullptr;
    if (m[6].at) scale.all *= *(float *)m[6].at;
    for (float &one : each) one = scale.all;
    Kind::pack_keys(k, at.cells, w.keys, memory, at.wide);
    if (times) make_one<Kind>(memory, at.cells, at.wide, scale.least, times);
    Kind::pack_values(v, w.keys, w.width, memory + at.values(), at.across);
    for (int64_t first = from; first < to; first += QUERIES) {
        const int count = (int)(to - first < QUERIES ? to - first : QUERIES);
        Kind::pack_queries({q.at + first * q.row * (int64_t)sizeof(Number), q.row, q.column}, count, at.cells, queries,
                           at.depth, memory + at.turned());
        if (times)
            for (int r = 0; r < count; r++)
                each[r] = scale.all * make_one<Kind>(queries + r * at.depth, at.depth, scale.least);
        products<Kind>(queries, at.depth, memory, at.wide, at.cells, count, each, Float(), scores, at.wide);
        for (int r = 0; r < count; r++)
            weight[r] = softmax<Kind>(scores + r * at.wide, w.keys, times,
                                      bias.at ? (Number *)bias.at + (first + r) * bias.row : nullptr, bias.column,
                                      share.at ? *(float *)share.at : 1.f,
                                      fixed.at ? (float *)fixed.at + (first + r) * fixed.row : nullptr);
        Answer *there = (Answer *)out.at + first * out.row;
        Answer *answers = out.column == 1 ? there : (Answer *)(memory + at.answers());
        const int64_t row = out.column == 1 ? out.row : w.width;
        products<Kind>(scores, at.wide, memory + at.values(), w.width, at.pairs, count, weight, put, answers, row);
        if (answers != there)
            for (int64_t d = 0; d < w.width; d++)
                for (int r = 0; r < count; r++) there[r * out.row + d * out.column] = answers[r * row + d];
    }
}

struct Attention {
    char *at[MATRICES];                                 // share, fixed and factor are in float32
    const int64_t *sizes;                               // queries, keys, depth, width, and the `outer` ones
    int64_t outer;
    const int64_t *strides;                             // of all matrices, in numbers: of the outer sizes, of rows and
    double scale, least, step;                          // of columns. step > 0: the answer is rounded to bytes
    int64_t zero;
};

template <class Kind, class To> static int attention(const Attention &job, const To &put, int64_t threads) {
    const int64_t *sizes = job.sizes, outer = job.outer;
    const Scale scale = {(float)job.scale, (float)job.least};
    char *const *at = job.at;
    const Sizes w = {sizes[0], sizes[1], sizes[2], sizes[3]};
    int64_t heads = 1, parts = 1;                       // parts of a head's queries, that all threads have as much
    for (int i = 0; i < outer; i++) heads *= sizes[4 + i];
    const int64_t blocks = (w.queries + QUERIES - 1) / QUERIES;
    while (parts < blocks && heads * parts < 4 * threads && heads * parts % threads) parts++;
    const int64_t each = (blocks + parts - 1) / parts * QUERIES, bytes = up(4 * Places<Kind>(w).floats(), 64);
    const int64_t tasks = heads * parts, chunk = tasks / (8 * threads) + 1;     // neighbours share what caches fetch
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *memory = (float *)aligned_alloc(64, bytes);
        failed |= memory == nullptr;
#pragma omp for schedule(dynamic, chunk)
        for (int64_t task = 0; task < tasks; task++) {
            Matrix m[MATRICES];
            for (int j = 0; j < MATRICES; j++) {
                const int64_t *step = job.strides + j * (outer + 2);
                int64_t left = task / parts, away = 0;
                for (int i = outer - 1; i >= 0; left /= sizes[4 + i], i--) away += left % sizes[4 + i] * step[i];
                away *= j == 7 ? sizeof(typename To::Number) : j > 3 ? 4 : sizeof(typename Kind::Number);
                m[j] = {at[j] ? at[j] + away : nullptr, step[outer], step[outer + 1]};
            }
            const int64_t from = task % parts * each, to = from + each < w.queries ? from + each : w.queries;
            if (memory && from < to) attend<Kind>(w, m, from, to, scale, put, memory);
        }
        free(memory);
    }
    return failed;
}

template <class Kind> static int attention(const Attention &job, int64_t threads) {
    if (job.step > 0) return attention<Kind>(job, Byte((float)job.step, job.zero), threads);
    return attention<Kind>(job, Kind(), threads);
}

extern "C" int attention_float32(const Attention *job, int64_t threads) { return attention<FloatCells>(*job, threads); }

#if defined(__AVX512BF16__)
extern "C" int attention_bfloat16(const Attention *job, int64_t threads) {
    return attention<BFloat16Cells>(*job, threads);
}
#endif
