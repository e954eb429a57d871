/* All that is not a matrix product, written once in the compiler's vectors and compiled in each file of kernels for
   its instruction set. The file that includes this defines before it

   LANES                                     floats in a vector: 4, 8 or 16
   vec, veci                                 vectors of LANES fp32 and int32
   load_f16(const uint16_t *) -> vec         LANES halves, at any address
   store_f16(uint16_t *, vec) */

#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

typedef uint32_t vecu __attribute__((vector_size(4 * LANES)));
typedef int8_t vecb __attribute__((vector_size(LANES)));

INLINE vec load(const float *at)
{
    vec value;
    memcpy(&value, at, sizeof value);
    return value;
}

INLINE void store(float *at, vec value)
{
    memcpy(at, &value, sizeof value);
}

INLINE vec splat(float value)
{
    return value - (vec){0};
}

INLINE vec select_vec(veci mask, vec yes, vec no)
{
    return (vec)(((veci)yes & mask) | ((veci)no & ~mask));
}

INLINE int any_lane(veci mask)
{
    int32_t any = 0;
    for (int i = 0; i < LANES; i++)
        any |= mask[i];
    return any;
}

INLINE float sum_lanes(vec value)
{
    float sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += value[i];
    return sum;
}

INLINE float max_lane(vec value)
{
    float max = value[0];
    for (int i = 1; i < LANES; i++)
        max = value[i] > max ? value[i] : max;
    return max;
}

/* e^x to 2 ulp for x <= 88; below -87 it stays at e^-87, which is nothing beside the 1 of a softmax's largest. */
INLINE vec exp_vec(vec x)
{
    const float rounder = 12582912.0f; /* 1.5 * 2^23: adding it rounds to whole numbers */
    x = select_vec(x < splat(-87.0f), splat(-87.0f), x);
    x = select_vec(x > splat(88.0f), splat(88.0f), x);
    vec shifted = x * 1.44269504f + rounder, n = shifted - rounder;
    vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vec p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * (vec)(((vecu)shifted + 127) << 23); /* n is in the low bits of `shifted` */
}

static void norm(const float *x, const float *weight, float eps, int n, float *out)
{
    vec squares = {0};
    float rest = 0;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        squares += load(x + i) * load(x + i);
    for (; i < n; i++)
        rest += x[i] * x[i];
    float scale = 1.0f / sqrtf((sum_lanes(squares) + rest) / (float)n + eps);
    for (i = 0; i + LANES <= n; i += LANES)
        store(out + i, load(x + i) * scale * load(weight + i));
    for (; i < n; i++)
        out[i] = x[i] * scale * weight[i];
}

static void silu_product(float *gate, const float *up, int n)
{
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec g = load(gate + i);
        store(gate + i, g / (1.0f + exp_vec(-g)) * load(up + i));
    }
    for (; i < n; i++)
        gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

/* 32 numbers to int8; `rest` gets what rounding took from them. Infinity and NaN give a scale and a sum of NaN, and so
   is the product: nothing is hidden. */
INLINE void quantize_group(const float *x, int8_t *q, float *scale, float *sum, int32_t *offset, float *rest)
{
    const float rounder = 12582912.0f;
    vecu largest = {0}; /* bits without the sign: ordered as the numbers are, and infinity and NaN above them all */
    for (int i = 0; i < 32; i += LANES) {
        vecu bits = (vecu)load(x + i) & 0x7fffffff, larger = (vecu)(bits > largest);
        largest = (bits & larger) | (largest & ~larger);
    }
    const float amax = max_lane((vec)largest);
    if (any_lane(largest >= 0x7f800000)) {
        *scale = *sum = NAN, *offset = 0;
        memset(q, 0, 32);
        memset(rest, 0, 32 * sizeof *rest);
        return;
    }
    *scale = amax / 127.0f;
    float inverse = amax > 1e-30f ? 127.0f / amax : 0.0f;
    veci sums = {0};
    for (int i = 0; i < 32; i += LANES) {
        /* The sum's low bits are the whole number, in the mantissa of 1.5 * 2^23. */
        veci whole = (veci)(load(x + i) * inverse + rounder) - 0x4b400000;
        sums += whole;
        store(rest + i, load(x + i) - __builtin_convertvector(whole, vec) * *scale);
        vecb bytes = __builtin_convertvector(whole, vecb);
        memcpy(q + i, &bytes, sizeof bytes);
    }
    int32_t total = 0;
    for (int lane = 0; lane < LANES; lane++)
        total += sums[lane];
    *sum = *scale * (float)total;
    *offset = -128 * total;
}

static void pack_int8(const float *x, ptrdiff_t stride, int columns, int g, int planes, uint8_t *out)
{
    float padded[TILE_COLUMNS], rest[TILE_COLUMNS];
    for (int tile = 0; tile * TILE_COLUMNS < columns; tile++, out += g * INT8_BYTES)
        for (int row = 0; row < g; row++) {
            const float *from = x + row / planes * stride + tile * TILE_COLUMNS;
            if (row % planes)
                from = rest;
            else if (columns - tile * TILE_COLUMNS < TILE_COLUMNS) {
                memset(padded, 0, sizeof padded);
                memcpy(padded, from, (size_t)(columns - tile * TILE_COLUMNS) * sizeof *x);
                from = padded;
            }
            quantize_group(from, (int8_t *)out + row * 32, (float *)(out + INT8_SCALE(g)) + row,
                           (float *)(out + INT8_SUM(g)) + row, (int32_t *)(out + INT8_OFFSET(g)) + row, rest);
        }
}

static void pack_fp32(const float *x, ptrdiff_t stride, int columns, int g, uint8_t *out)
{
    for (int tile = 0; tile * TILE_COLUMNS < columns; tile++, out += g * FP32_BYTES)
        for (int t = 0; t < g; t++) {
            int n = columns - tile * TILE_COLUMNS;
            n = n < TILE_COLUMNS ? n : TILE_COLUMNS;
            memset(out + t * FP32_BYTES, 0, FP32_BYTES);
            memcpy(out + t * FP32_BYTES, x + t * stride + tile * TILE_COLUMNS, (size_t)n * sizeof *x);
        }
}

static void store_key(uint16_t *keys, int head_dim, int position, const float *key)
{
    uint16_t *column = keys + (size_t)(position / KEY_BLOCK) * head_stride(head_dim) * KEY_BLOCK;
    column += position % KEY_BLOCK;
    for (int i = 0; i < head_dim; i += LANES) {
        float part[LANES] = {0};
        uint16_t halves[LANES];
        int n = head_dim - i < LANES ? head_dim - i : LANES;
        memcpy(part, key + i, (size_t)n * sizeof *part);
        store_f16(halves, load(part));
        for (int lane = 0; lane < LANES; lane++)
            column[(i + lane) * KEY_BLOCK] = halves[lane];
    }
}

static void store_value(uint16_t *values, int head_dim, int position, const float *value)
{
    size_t row = head_stride(head_dim);
    for (size_t i = 0; i < row; i += LANES) {
        float part[LANES] = {0};
        int left = head_dim - (int)i, n = left < LANES ? left : LANES;
        if (n > 0)
            memcpy(part, value + i, (size_t)n * sizeof *part);
        store_f16(values + (size_t)position * row + i, load(part));
    }
}

/* Scores of `n` rows against `blocks` of keys: lanes are positions. Each score is summed up in the same order however
   many rows and blocks go together: that only fills the pipeline. */
INLINE void score_rows(const float *q, const uint16_t *keys, size_t row, int head_dim, int n, int blocks, float *scores)
{
    for (int part = 0; part < KEY_BLOCK; part += LANES) {
        vec sum[8] = {{0}};
        for (int i = 0; i < head_dim; i++)
            for (int block = 0; block < blocks; block++) {
                vec k = load_f16(keys + ((size_t)block * row + (size_t)i) * KEY_BLOCK + part);
                for (int r = 0; r < n; r++)
                    sum[block * n + r] += k * q[(size_t)r * row + (size_t)i];
            }
        for (int block = 0; block < blocks; block++)
            for (int r = 0; r < n; r++)
                store(scores + r * ATTEND_KEYS + block * KEY_BLOCK + part, sum[block * n + r]);
    }
}

/* result[n] += weights[n][n_keys] x values[n_keys][row], for `parts` vectors of the head's dimensions. */
INLINE void mix_rows(const float *weights, const uint16_t *values, size_t row, int n_keys, int n, int parts,
                     float *result)
{
    vec sum[8];
    for (int r = 0; r < n; r++)
        for (int part = 0; part < parts; part++)
            sum[r * parts + part] = load(result + (size_t)r * row + part * LANES);
    for (int key = 0; key < n_keys; key++)
        for (int part = 0; part < parts; part++) {
            vec v = load_f16(values + (size_t)key * row + part * LANES);
            for (int r = 0; r < n; r++)
                sum[r * parts + part] += v * weights[r * ATTEND_KEYS + key];
        }
    for (int r = 0; r < n; r++)
        for (int part = 0; part < parts; part++)
            store(result + (size_t)r * row + part * LANES, sum[r * parts + part]);
}

/* Online softmax (arXiv 1805.02867) over a run of keys: scores become weights, what was summed before is rescaled. */
INLINE void weigh_row(float *scores, int first_key, int n_keys, int from, int to, float *max, float *total,
                      float *result, size_t row)
{
    const float before = *max;
    const int begin = from - first_key, end = to - first_key < n_keys ? to - first_key : n_keys;
    vec largest = splat(before), sums = {0};
    veci key = {0};
    for (int lane = 0; lane < LANES; lane++)
        key[lane] = lane;
    for (int i = 0; i < ATTEND_KEYS; i += LANES, key += LANES) {
        vec score = select_vec((key >= begin) & (key < end), load(scores + i), splat(-INFINITY));
        largest = select_vec(score > largest, score, largest);
        store(scores + i, score);
    }
    *max = max_lane(largest);
    if (*max == -INFINITY) { /* nothing visible yet */
        memset(scores, 0, ATTEND_KEYS * sizeof *scores);
        return;
    }
    for (int i = 0; i < ATTEND_KEYS; i += LANES) {
        vec score = load(scores + i);
        vec weight = select_vec(score == splat(-INFINITY), (vec){0}, exp_vec(score - *max));
        store(scores + i, weight);
        sums += weight;
    }
    float rescale = before == -INFINITY ? 0.0f : expf(before - *max);
    *total = *total * rescale + sum_lanes(sums);
    if (rescale != 1.0f)
        for (size_t i = 0; i < row; i += LANES)
            store(result + i, load(result + i) * rescale);
}

#define ROWS_TOGETHER (LANES == 8 ? 4 : 8) /* what the registers hold: 16 of 8 lanes, 32 of 4 or 16 */

/* Of a run of n_keys keys: all rows' scores. */
INLINE void score_run(const float *q, const uint16_t *keys, size_t row, int head_dim, int n_rows, int n_keys,
                      float *scores)
{
    int r = 0;
    for (; r + ROWS_TOGETHER <= n_rows; r += ROWS_TOGETHER)
        for (int key = 0; key < n_keys; key += KEY_BLOCK)
            score_rows(q + (size_t)r * row, keys + (size_t)key * row, row, head_dim, ROWS_TOGETHER, 1,
                       scores + r * ATTEND_KEYS + key);
    for (; r < n_rows; r++) {
        int key = 0;
        for (; key + 4 * KEY_BLOCK <= n_keys; key += 4 * KEY_BLOCK)
            score_rows(q + (size_t)r * row, keys + (size_t)key * row, row, head_dim, 1, 4,
                       scores + r * ATTEND_KEYS + key);
        for (; key < n_keys; key += KEY_BLOCK)
            score_rows(q + (size_t)r * row, keys + (size_t)key * row, row, head_dim, 1, 1,
                       scores + r * ATTEND_KEYS + key);
    }
}

/* Of the same run: all rows' weighted values. */
INLINE void mix_run(const float *weights, const uint16_t *values, size_t row, int n_rows, int n_keys, float *result)
{
    int r = 0;
    for (; r + ROWS_TOGETHER <= n_rows; r += ROWS_TOGETHER)
        for (size_t i = 0; i < row; i += LANES)
            mix_rows(weights + r * ATTEND_KEYS, values + i, row, n_keys, ROWS_TOGETHER, 1,
                     result + (size_t)r * row + i);
    for (; r < n_rows; r++) {
        size_t i = 0;
        for (; i + 4 * LANES <= row; i += 4 * LANES)
            mix_rows(weights + r * ATTEND_KEYS, values + i, row, n_keys, 1, 4, result + (size_t)r * row + i);
        for (; i < row; i += LANES)
            mix_rows(weights + r * ATTEND_KEYS, values + i, row, n_keys, 1, 1, result + (size_t)r * row + i);
    }
}

static void attend(const struct attend_job *job, float *scratch)
{
    const size_t row = head_stride(job->head_dim);
    float *q = scratch, *result = q + ATTEND_ROWS * row, *scores = result + ATTEND_ROWS * row;
    float max[ATTEND_ROWS], total[ATTEND_ROWS];
    int from[ATTEND_ROWS] = {0}, to[ATTEND_ROWS] = {0};
    memset(result, 0, ATTEND_ROWS * row * sizeof *result);
    for (int r = 0; r < job->n_rows; r++) {
        int token = (job->first_row + r) / job->heads, head = (job->first_row + r) % job->heads;
        memcpy(q + (size_t)r * row, job->queries + token * job->query_stride + head * job->head_dim,
               (size_t)job->head_dim * sizeof *q);
        max[r] = -INFINITY, total[r] = 0;
        to[r] = job->start + token + 1;
        from[r] = job->window && to[r] > job->window ? to[r] - job->window : 0;
    }
    for (int key = from[0] / KEY_BLOCK * KEY_BLOCK; key < to[job->n_rows - 1]; key += ATTEND_KEYS) {
        int n_keys = to[job->n_rows - 1] - key;
        n_keys = n_keys < ATTEND_KEYS ? n_keys : ATTEND_KEYS;
        score_run(q, job->keys + (size_t)key * row, row, job->head_dim, job->n_rows, n_keys, scores);
        for (int r = 0; r < job->n_rows; r++)
            weigh_row(scores + r * ATTEND_KEYS, key, n_keys, from[r], to[r], max + r, total + r,
                      result + (size_t)r * row, row);
        mix_run(scores, job->values + (size_t)key * row, row, job->n_rows, n_keys, result);
    }
    for (int r = 0; r < job->n_rows; r++) {
        int token = (job->first_row + r) / job->heads, head = (job->first_row + r) % job->heads;
        float *out = job->out + token * job->out_stride + head * job->head_dim;
        for (int i = 0; i < job->head_dim; i++)
            out[i] = result[(size_t)r * row + (size_t)i] / total[r];
    }
}

/* A matrix product from a function for `BANDS` bands and g rows of activations, where g is a constant of each call. */
#define DEFINE_GEMM(NAME, BAND, BANDS, TILE_BYTES, ROW_BYTES)                                                      \
    static void NAME(const uint8_t *weights, int n_tiles, int n_bands, const uint8_t *activations, int n_tokens,   \
                     int planes, float *out, ptrdiff_t stride, int accumulate)                                     \
    {                                                                                                              \
        const size_t band_bytes = (size_t)n_tiles * TILE_BYTES, row_bytes = (size_t)n_tiles * ROW_BYTES;           \
        for (int band = 0; band < n_bands; band += BANDS, weights += BANDS * band_bytes, out += BANDS * TILE_ROWS) { \
            const int n = n_bands - band < BANDS ? n_bands - band : BANDS;                                         \
            (void)n;                                                                                               \
            for (int row = 0, g; row < n_tokens * planes; row += g) {                                              \
                const uint8_t *x = activations + (size_t)row * row_bytes;                                          \
                float *to = out + row / planes * stride;                                                           \
                g = group_rows(n_tokens * planes - row);                                                           \
                if (g == 8)                                                                                        \
                    BAND(weights, n, n_tiles, x, 8, planes, to, stride, accumulate);                               \
                else if (g == 4)                                                                                   \
                    BAND(weights, n, n_tiles, x, 4, planes, to, stride, accumulate);                               \
                else if (g == 2)                                                                                   \
                    BAND(weights, n, n_tiles, x, 2, planes, to, stride, accumulate);                               \
                else                                                                                               \
                    BAND(weights, n, n_tiles, x, 1, planes, to, stride, accumulate);                               \
            }                                                                                                      \
        }                                                                                                          \
    }

#define DEFINE_KERNELS(SYMBOL, NAME, USABLE)                                                                       \
    const struct kernels SYMBOL = {                                                                                \
        .name = NAME,                                                                                              \
        .usable = USABLE,                                                                                          \
        .gemm = {gemm_w4, gemm_w8, gemm_f16, gemm_bf16},                                                           \
        .norm = norm,                                                                                              \
        .pack_int8 = pack_int8,                                                                                    \
        .pack_fp32 = pack_fp32,                                                                                    \
        .silu_product = silu_product,                                                                              \
        .store_key = store_key,                                                                                    \
        .store_value = store_value,                                                                                \
        .attend = attend,                                                                                          \
    }
