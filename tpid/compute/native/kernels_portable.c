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

INLINE int32_t dot4(const int8_t *a, const int8_t *b)
{
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
}

/* The weights of a tile as [row][input]. */
INLINE void unpack(const int format, const uint8_t *quants, int8_t (*w)[32])
{
    for (int j = 0; j < (format == W8 ? 8 : 4); j++)
        for (int r = 0; r < 8; r++)
            for (int b = 0; b < 4; b++) {
                uint8_t byte = quants[32 * j + 4 * r + b];
                if (format == W8)
                    w[r][4 * j + b] = (int8_t)byte;
                else {
                    w[r][8 * j + b] = byte & 15;
                    w[r][8 * j + 4 + b] = (int8_t)(byte >> 4);
                }
            }
}

INLINE veci dots(int8_t (*w)[32], const int8_t *q)
{
    veci dot = {0};
    for (int r = 0; r < 8; r++)
        for (int j = 0; j < 32; j += 4)
            dot[r] += dot4(w[r] + j, q + j);
    return dot;
}

INLINE void int8_band(const int format, const uint8_t *tile, int n, int n_tiles, const uint8_t *x, const int g,
                      const int planes, float *out, ptrdiff_t stride, int accumulate)
{
    (void)n;
    vec sum[MAX_GROUP] = {{0}};
    for (int i = 0; i < n_tiles; i++, tile += tile_bytes(format), x += g * INT8_BYTES) {
        const vec scale = load_f16((const uint16_t *)tile);
        int8_t w[8][32];
        unpack(format, tile + quants_at(format), w);
        for (int t = 0; t < g; t += planes) {
            const int last = t + planes - 1;
            veci dot = dots(w, (const int8_t *)x + t * 32);
            if (planes == 2)
                dot = (dot << PLANE_BITS) + dots(w, (const int8_t *)x + last * 32);
            if (format == W4S)
                dot += ((const int32_t *)(x + INT8_OFFSET(g)))[last] / 16;
            vec *to = &sum[t / planes];
            *to += __builtin_convertvector(dot, vec) * (scale * ((const float *)(x + INT8_SCALE(g)))[last]);
            if (format == W4)
                *to += load_f16((const uint16_t *)tile + 8) * ((const float *)(x + INT8_SUM(g)))[last];
        }
    }
    for (int t = 0; t < g / planes; t++)
        finish(out + t * stride, sum[t], accumulate);
}

INLINE void half_band(const int format, const uint8_t *tile, int n, int n_tiles, const uint8_t *x, const int g,
                      int planes, float *out, ptrdiff_t stride, int accumulate)
{
    (void)n, (void)planes;
    vec sum[MAX_GROUP] = {{0}};
    for (int i = 0; i < n_tiles; i++, tile += HALF_BYTES, x += g * FP32_BYTES)
        for (int j = 0; j < 32; j++) {
            const uint16_t *halves = (const uint16_t *)tile + 8 * j;
            vec w;
            for (int r = 0; r < 8; r++)
                w[r] = format == BF16 ? float_of_bf16(halves[r]) : float_of_f16(halves[r]);
            for (int t = 0; t < g; t++)
                sum[t] += w * ((const float *)x)[t * 32 + j];
        }
    for (int t = 0; t < g; t++)
        finish(out + t * stride, sum[t], accumulate);
}

DEFINE_ALL_GEMM(int8_band, half_band, 1)

static int always(void)
{
    return 1;
}

DEFINE_KERNELS(kernels_portable, "portable", always);
