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

/* Row r's codes of the inputs 4k to 4k + 3, byte b. */
INLINE int code(const int format, const uint8_t *tile, int k, int r, int b)
{
    const int low = codings[format].low_bits, high = codings[format].high_bits, at = 4 * r + b;
    const uint8_t *bytes = tile + quants_at(format) + 32 * plane_vector(low, k);
    int value = bytes[at] >> plane_shift(low, k) & ((1 << low) - 1);
    if (high) {
        bytes = tile + high_at(format) + 32 * plane_vector(high, k);
        value |= (bytes[at] >> plane_shift(high, k) & ((1 << high) - 1)) << low;
    }
    if (codings[format].codebook)
        return codings[format].codebook == IQ4_CODES ? iq4_codes[value] : e2m1_codes[value];
    return value;
}

/* The codes of a tile as [row][input]. */
INLINE void unpack(const int format, const uint8_t *tile, int8_t (*w)[32])
{
    for (int k = 0; k < 8; k++)
        for (int r = 0; r < 8; r++)
            for (int b = 0; b < 4; b++)
                w[r][4 * k + b] = (int8_t)code(format, tile, k, r, b);
}

/* Of a tile's rows; of the first and second 16 inputs where there are two. */
struct scales {
    vec scale[2], minimum[2];
};

INLINE struct scales read_scales(const int format, const uint8_t *tile, const vec *factors)
{
    const struct coding *coding = &codings[format];
    struct scales s = {{{0}}, {{0}}};
    if (coding->scales == HALVES) {
        s.scale[0] = load_f16((const uint16_t *)tile);
        if (coding->minimum)
            s.minimum[0] = load_f16((const uint16_t *)tile + 8);
        return s;
    }
    for (int r = 0; r < 8; r++)
        if (coding->scales == SIXES) {
            const int first = tile[r] & 63, second = tile[r] >> 6 | (tile[8 + r / 2] >> r % 2 * 4 & 15) << 2;
            s.scale[0][r] = (float)(coding->minimum ? first : first - 32);
            if (coding->minimum)
                s.minimum[0][r] = (float)second;
            else
                s.scale[1][r] = (float)(second - 32);
        } else if (coding->scales == EXPONENTS)
            s.scale[0][r] = float_of_bits(tile[r] ? (uint32_t)(tile[r] - 1) << 23 : 0);
        else
            for (int h = 0; h < coding->per_tile; h++) {
                const uint8_t byte = tile[8 * h + r];
                s.scale[h][r] = (float)(coding->scales == BYTES ? (int8_t)byte : byte & 15);
                s.minimum[h][r] = coding->scales == BYTES ? 0 : (float)(byte >> 4);
            }
    for (int h = 0; coding->factors && h < coding->per_tile; h++) {
        s.scale[h] *= factors[0];
        s.minimum[h] = coding->minimum ? s.minimum[h] * -factors[1] : s.scale[h] * -(float)coding->zero;
    }
    return s;
}

/* Products of the inputs from first on with one row of activations. */
INLINE veci dots(int8_t (*w)[32], const int8_t *q, int first, int n)
{
    veci dot = {0};
    for (int r = 0; r < 8; r++)
        for (int j = first; j < first + n; j += 4)
            dot[r] += dot4(w[r] + j, q + j);
    return dot;
}

INLINE void int8_tile(const int format, const uint8_t *tile, const vec *factors, const uint8_t *x, const int g,
                      const int planes, vec *sum)
{
    const struct coding *coding = &codings[format];
    const struct scales scales = read_scales(format, tile, factors);
    int8_t w[8][32];
    unpack(format, tile, w);
    for (int t = 0; t < g; t += planes) {
        const int last = t + planes - 1, n = 32 / coding->per_tile;
        vec *to = &sum[t / planes];
        for (int h = 0; h < coding->per_tile; h++) {
            veci dot = dots(w, (const int8_t *)x + t * 32, h * n, n);
            if (planes == 2)
                dot = (dot << PLANE_BITS) + dots(w, (const int8_t *)x + last * 32, h * n, n);
            if (coding->per_tile == 1 && coding->zero)
                dot += ((const int32_t *)(x + INT8_OFFSET(g)))[last] >> zero_shift(coding->zero);
            *to += __builtin_convertvector(dot, vec) * (scales.scale[h] * ((const float *)(x + INT8_SCALE(g)))[last]);
        }
        const float all = ((const float *)(x + INT8_SUM(g)))[last], low = ((const float *)(x + INT8_LOW_SUM(g)))[last];
        if (coding->per_tile == 2)
            *to += (scales.minimum[0] - scales.minimum[1]) * low + scales.minimum[1] * all;
        else if (coding->minimum)
            *to += scales.minimum[0] * all;
    }
}

INLINE void int8_band(const int format, const uint8_t *tile, int n, int n_tiles, const uint8_t *x, const int g,
                      const int planes, float *out, ptrdiff_t stride, int accumulate)
{
    (void)n;
    vec sum[MAX_GROUP] = {{0}}, factors[2] = {{0}};
    const int run = run_tiles(format, n_tiles);
    for (int i = 0; i < n_tiles; i++, tile += tile_bytes(format), x += g * INT8_BYTES) {
        if (codings[format].factors && i % run == 0) {
            for (int f = 0; f < codings[format].factors; f++)
                factors[f] = load_f16((const uint16_t *)tile + 8 * f);
            tile += factor_bytes(format);
        }
        int8_tile(format, tile, factors, x, g, planes, sum);
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
