/* All that is not a matrix product, written once in the compiler's vectors and compiled in each file of kernels for
   its instruction set. The file that includes this defines before it

   LANES                                     floats in a vector: 4, 8 or 16
   vec, veci                                 vectors of LANES fp32 and int32
   load_f16(const uint16_t *) -> vec         LANES halves, at any address
   load_int8(const uint8_t *) -> vec         LANES int8, at any address
   store_f16(uint16_t *, vec) */

#include <math.h>
#include <string.h>

#ifndef INLINE /* what is constant in a call is so in its code: a function for each format and size of a group */
#define INLINE static inline __attribute__((always_inline))
#endif

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

/* x times a logistic function: the tanh of the approximation, written as one. */
static void gelu_product(float *gate, const float *up, int n)
{
    const float slope = 1.5957691216057308f, cubic = 0.044715f; /* 2 sqrt(2 / pi) */
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec g = load(gate + i);
        store(gate + i, g / (1.0f + exp_vec(-slope * (g + cubic * g * g * g))) * load(up + i));
    }
    for (; i < n; i++) {
        const float g = gate[i];
        gate[i] = g / (1.0f + expf(-slope * (g + cubic * g * g * g))) * up[i];
    }
}

struct token {
    float scale, sum, low_sum;
    int32_t offset;
};

#define ROUNDER 12582912.0f /* the low bits of x + 1.5 * 2^23 are x, rounded */

/* 32 numbers to int8 at `first`; with two planes, what rounding takes from them goes to `second`. Infinity and NaN give
   a scale and a sum of NaN, and so is the product: nothing is hidden. */
INLINE struct token quantize_group(const float *x, const int planes, int8_t *first, int8_t *second)
{
    vecu largest = {0}; /* bits without the sign: ordered as the numbers are, and infinity and NaN above them all */
    for (int i = 0; i < 32; i += LANES) {
        vecu bits = (vecu)load(x + i) & 0x7fffffff, larger = (vecu)(bits > largest);
        largest = (bits & larger) | (largest & ~larger);
    }
    const float amax = max_lane((vec)largest);
    if (any_lane(largest >= 0x7f800000)) {
        memset(first, 0, 32);
        memset(second, 0, 32);
        return (struct token){NAN, NAN, NAN, 0};
    }
    const float step = amax / 127.0f, inverse = amax > 1e-30f ? 127.0f / amax : 0.0f;
    veci sums = {0}, low_sums = {0};
    for (int i = 0; i < 32; i += LANES) {
        if (i == 16)
            low_sums = sums;
        vec value = load(x + i);
        veci number = (veci)(value * inverse + ROUNDER) - 0x4b400000;
        vecb bytes = __builtin_convertvector(number, vecb);
        memcpy(first + i, &bytes, sizeof bytes);
        if (planes == 2) {
            vec rest = value - __builtin_convertvector(number, vec) * step;
            veci fine = (veci)(rest * (inverse * (1 << PLANE_BITS)) + ROUNDER) - 0x4b400000;
            bytes = __builtin_convertvector(fine, vecb);
            memcpy(second + i, &bytes, sizeof bytes);
            number = (number << PLANE_BITS) + fine;
        }
        sums += number;
    }
    int32_t total = 0, low = 0;
    for (int lane = 0; lane < LANES; lane++)
        total += sums[lane], low += low_sums[lane];
    const float scale = planes == 2 ? step / (1 << PLANE_BITS) : step;
    return (struct token){scale, scale * (float)total, scale * (float)low, -128 * total};
}

INLINE void pack_tokens_int8(const float *x, ptrdiff_t stride, int columns, int g, const int planes, uint8_t *out)
{
    float padded[TILE_COLUMNS];
    for (int tile = 0; tile * TILE_COLUMNS < columns; tile++, out += g * INT8_BYTES)
        for (int row = 0; row < g; row += planes) {
            const float *from = x + row / planes * stride + tile * TILE_COLUMNS;
            const int last = row + planes - 1;
            if (columns - tile * TILE_COLUMNS < TILE_COLUMNS) {
                memset(padded, 0, sizeof padded);
                memcpy(padded, from, (size_t)(columns - tile * TILE_COLUMNS) * sizeof *x);
                from = padded;
            }
            struct token token = quantize_group(from, planes, (int8_t *)out + row * 32, (int8_t *)out + last * 32);
            ((float *)(out + INT8_SCALE(g)))[last] = token.scale;
            ((float *)(out + INT8_SUM(g)))[last] = token.sum;
            ((int32_t *)(out + INT8_OFFSET(g)))[last] = token.offset;
            ((float *)(out + INT8_LOW_SUM(g)))[last] = token.low_sum;
        }
}

static void pack_int8(const float *x, ptrdiff_t stride, int columns, int g, int planes, uint8_t *out)
{
    if (planes == 2)
        pack_tokens_int8(x, stride, columns, g, 2, out);
    else
        pack_tokens_int8(x, stride, columns, g, 1, out);
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

#include "cache.h"

#include "attend.h"

/* A set that has another way for many rows of activations defines this: it multiplies some, and gives how many, a
   multiple of MAX_GROUP. */
#ifndef MANY_GEMM
#define MANY_GEMM(format, weights, n_tiles, n_bands, activations, n_tokens, planes, out, stride, accumulate) 0
#endif

/* A matrix product from a function for `BANDS` bands and g rows of activations, in a format; format, g and planes are
   constants of each call. */
#define DEFINE_GEMM(NAME, BAND, BANDS, FORMAT, ROW_BYTES)                                                          \
    INLINE void NAME##_planes(const uint8_t *weights, int n_tiles, int n_bands, const uint8_t *activations,        \
                              int n_tokens, int done, const int planes, float *out, ptrdiff_t stride,              \
                              int accumulate)                                                                      \
    {                                                                                                              \
        const size_t bytes = band_bytes(FORMAT, n_tiles);                                                          \
        const size_t row_bytes = (size_t)n_tiles * ROW_BYTES;                                                      \
        for (int band = 0; band < n_bands; band += BANDS, weights += BANDS * bytes, out += BANDS * TILE_ROWS) {    \
            const int n = n_bands - band < BANDS ? n_bands - band : BANDS;                                         \
            (void)n;                                                                                               \
            for (int row = done, g; row < n_tokens * planes; row += g) {                                           \
                const uint8_t *x = activations + (size_t)row * row_bytes;                                          \
                float *to = out + row / planes * stride;                                                           \
                g = group_rows(n_tokens * planes - row);                                                           \
                if (g == 8)                                                                                        \
                    BAND(FORMAT, weights, n, n_tiles, x, 8, planes, to, stride, accumulate);                       \
                else if (g == 4)                                                                                   \
                    BAND(FORMAT, weights, n, n_tiles, x, 4, planes, to, stride, accumulate);                       \
                else if (g == 2)                                                                                   \
                    BAND(FORMAT, weights, n, n_tiles, x, 2, planes, to, stride, accumulate);                       \
                else                                                                                               \
                    BAND(FORMAT, weights, n, n_tiles, x, 1, 1, to, stride, accumulate);                            \
            }                                                                                                      \
        }                                                                                                          \
    }                                                                                                              \
    static void NAME(const uint8_t *weights, int n_tiles, int n_bands, const uint8_t *activations, int n_tokens,   \
                     int planes, float *out, ptrdiff_t stride, int accumulate)                                     \
    {                                                                                                              \
        const int done = MANY_GEMM(FORMAT, weights, n_tiles, n_bands, activations, n_tokens, planes, out, stride,  \
                                   accumulate);                                                                    \
        if (planes == 2 && !is_half(FORMAT))                                                                       \
            NAME##_planes(weights, n_tiles, n_bands, activations, n_tokens, done, 2, out, stride, accumulate);     \
        else                                                                                                       \
            NAME##_planes(weights, n_tiles, n_bands, activations, n_tokens, done, 1, out, stride, accumulate);     \
    }

#define DEFINE_ALL_GEMM(INT8_BAND, HALF_BAND, BANDS)                                                               \
    DEFINE_GEMM(gemm_w4, INT8_BAND, BANDS, W4, INT8_BYTES)                                                         \
    DEFINE_GEMM(gemm_w4s, INT8_BAND, BANDS, W4S, INT8_BYTES)                                                       \
    DEFINE_GEMM(gemm_w8, INT8_BAND, BANDS, W8, INT8_BYTES)                                                         \
    DEFINE_GEMM(gemm_f16, HALF_BAND, BANDS, F16, FP32_BYTES)                                                       \
    DEFINE_GEMM(gemm_bf16, HALF_BAND, BANDS, BF16, FP32_BYTES)                                                     \
    DEFINE_GEMM(gemm_q2_k, INT8_BAND, BANDS, Q2_K, INT8_BYTES)                                                     \
    DEFINE_GEMM(gemm_q3_k, INT8_BAND, BANDS, Q3_K, INT8_BYTES)                                                     \
    DEFINE_GEMM(gemm_q4_k, INT8_BAND, BANDS, Q4_K, INT8_BYTES)                                                     \
    DEFINE_GEMM(gemm_q5_k, INT8_BAND, BANDS, Q5_K, INT8_BYTES)                                                     \
    DEFINE_GEMM(gemm_q6_k, INT8_BAND, BANDS, Q6_K, INT8_BYTES)                                                     \
    DEFINE_GEMM(gemm_q5_0, INT8_BAND, BANDS, Q5_0, INT8_BYTES)                                                     \
    DEFINE_GEMM(gemm_q5_1, INT8_BAND, BANDS, Q5_1, INT8_BYTES)                                                     \
    DEFINE_GEMM(gemm_iq4_nl, INT8_BAND, BANDS, IQ4_NL, INT8_BYTES)                                                 \
    DEFINE_GEMM(gemm_iq4_xs, INT8_BAND, BANDS, IQ4_XS, INT8_BYTES)                                                 \
    DEFINE_GEMM(gemm_mxfp4, INT8_BAND, BANDS, MXFP4, INT8_BYTES)

#define DEFINE_KERNELS(SYMBOL, NAME, USABLE)                                                                       \
    const struct kernels SYMBOL = {                                                                                \
        .name = NAME,                                                                                              \
        .usable = USABLE,                                                                                          \
        .gemm = {gemm_w4, gemm_w4s, gemm_w8, gemm_f16, gemm_bf16, gemm_q2_k, gemm_q3_k, gemm_q4_k, gemm_q5_k,      \
                 gemm_q6_k, gemm_q5_0, gemm_q5_1, gemm_iq4_nl, gemm_iq4_xs, gemm_mxfp4},                           \
        .norm = norm,                                                                                              \
        .pack_int8 = pack_int8,                                                                                    \
        .pack_fp32 = pack_fp32,                                                                                    \
        .silu_product = silu_product,                                                                              \
        .gelu_product = gelu_product,                                                                              \
        .store = store_cache,                                                                                      \
        .attend = attend,                                                                                          \
    }
