/* Any CPU: plain C in vectors that the compiler maps to what the target has. */
#include "halves.h"
#include "kernels.h"

#define LANES 8
typedef float vec __attribute__((vector_size(32)));
typedef int32_t veci __attribute__((vector_size(32)));

static inline __attribute__((always_inline)) vec load_f16(const uint16_t *from)
{
    vec value;
    for (int i = 0; i < 8; i++)
        value[i] = float_of_f16(from[i]);
    return value;
}

static inline __attribute__((always_inline)) vec load_int8(const uint8_t *from)
{
    vec value;
    for (int i = 0; i < 8; i++)
        value[i] = (int8_t)from[i];
    return value;
}

static inline __attribute__((always_inline)) void store_f16(uint16_t *to, vec value)
{
    for (int i = 0; i < 8; i++)
        to[i] = f16_of_float(value[i]);
}

#include "lanes.h"

INLINE void finish(float *out, vec sum, int accumulate)
{
    store(out, accumulate ? load(out) + sum : sum);
}

INLINE void finish_rows(const vec *sum, int g, int planes, float *out, ptrdiff_t stride, int accumulate)
{
    if (planes == 1)
        for (int t = 0; t < g; t++)
            finish(out + t * stride, sum[t], accumulate);
    else
        for (int t = 0; t < g; t += 2)
            finish(out + t / 2 * stride, sum[t] + sum[t + 1], accumulate);
}

INLINE int32_t dot4(const int8_t *a, const int8_t *b)
{
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
}

INLINE void w4_band(const uint8_t *tile, int n, int n_tiles, const uint8_t *x, int g, int planes, float *out,
                    ptrdiff_t stride, int accumulate)
{
    (void)n;
    vec sum[MAX_GROUP] = {{0}};
    for (int i = 0; i < n_tiles; i++, tile += W4_BYTES, x += g * INT8_BYTES) {
        vec scale = load_f16((const uint16_t *)tile), minimum = load_f16((const uint16_t *)tile + 8);
        int8_t w[8][32]; /* [row][input] */
        for (int j = 0; j < 4; j++)
            for (int r = 0; r < 8; r++)
                for (int b = 0; b < 4; b++) {
                    uint8_t both = tile[32 + 32 * j + 4 * r + b];
                    w[r][8 * j + b] = both & 15;
                    w[r][8 * j + 4 + b] = (int8_t)(both >> 4);
                }
        for (int t = 0; t < g; t++) {
            const int8_t *q = (const int8_t *)x + t * 32;
            veci dot = {0};
            for (int r = 0; r < 8; r++)
                for (int j = 0; j < 32; j += 4)
                    dot[r] += dot4(w[r] + j, q + j);
            sum[t] += __builtin_convertvector(dot, vec) * (scale * ((const float *)(x + INT8_SCALE(g)))[t]);
            sum[t] += minimum * ((const float *)(x + INT8_SUM(g)))[t];
        }
    }
    finish_rows(sum, g, planes, out, stride, accumulate);
}

INLINE void w8_band(const uint8_t *tile, int n, int n_tiles, const uint8_t *x, int g, int planes, float *out,
                    ptrdiff_t stride, int accumulate)
{
    (void)n;
    vec sum[MAX_GROUP] = {{0}};
    for (int i = 0; i < n_tiles; i++, tile += W8_BYTES, x += g * INT8_BYTES) {
        vec scale = load_f16((const uint16_t *)tile);
        for (int t = 0; t < g; t++) {
            const int8_t *q = (const int8_t *)x + t * 32;
            veci dot = {0};
            for (int j = 0; j < 8; j++)
                for (int r = 0; r < 8; r++)
                    dot[r] += dot4((const int8_t *)tile + 16 + 32 * j + 4 * r, q + 4 * j);
            sum[t] += __builtin_convertvector(dot, vec) * (scale * ((const float *)(x + INT8_SCALE(g)))[t]);
        }
    }
    finish_rows(sum, g, planes, out, stride, accumulate);
}

INLINE void half_band(int bf16, const uint8_t *tile, int n_tiles, const uint8_t *x, int g, float *out,
                      ptrdiff_t stride, int accumulate)
{
    vec sum[MAX_GROUP] = {{0}};
    for (int i = 0; i < n_tiles; i++, tile += HALF_BYTES, x += g * FP32_BYTES)
        for (int j = 0; j < 32; j++) {
            const uint16_t *halves = (const uint16_t *)tile + 8 * j;
            vec w;
            for (int r = 0; r < 8; r++)
                w[r] = bf16 ? float_of_bf16(halves[r]) : float_of_f16(halves[r]);
            for (int t = 0; t < g; t++)
                sum[t] += w * ((const float *)x)[t * 32 + j];
        }
    for (int t = 0; t < g; t++)
        finish(out + t * stride, sum[t], accumulate);
}

#define F16_BAND(w, n, tiles, x, g, planes, out, stride, add) half_band(0, w, tiles, x, g, out, stride, add)
#define BF16_BAND(w, n, tiles, x, g, planes, out, stride, add) half_band(1, w, tiles, x, g, out, stride, add)

DEFINE_GEMM(gemm_w4, w4_band, 1, W4_BYTES, INT8_BYTES)
DEFINE_GEMM(gemm_w8, w8_band, 1, W8_BYTES, INT8_BYTES)
DEFINE_GEMM(gemm_f16, F16_BAND, 1, HALF_BYTES, FP32_BYTES)
DEFINE_GEMM(gemm_bf16, BF16_BAND, 1, HALF_BYTES, FP32_BYTES)

static int always(void)
{
    return 1;
}

DEFINE_KERNELS(kernels_portable, "portable", always);
