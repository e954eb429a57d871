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

/* A tile written out. This alone is compiled for each format, all that follows once: so the file is small, and quick to
   compile. */
struct expanded {
    int8_t w[8][32];
    struct scales scales;
};

typedef void expand_fn(const uint8_t *tile, const vec *factors, struct expanded *to);

#define DEFINE_EXPAND(NAME, FORMAT)                                                                                \
    static void NAME(const uint8_t *tile, const vec *factors, struct expanded *to)                                 \
    {                                                                                                              \
        unpack(FORMAT, tile, to->w);                                                                               \
        to->scales = read_scales(FORMAT, tile, factors);                                                           \
    }

DEFINE_EXPAND(expand_w4, W4)
DEFINE_EXPAND(expand_w4s, W4S)
DEFINE_EXPAND(expand_w8, W8)
DEFINE_EXPAND(expand_q2_k, Q2_K)
DEFINE_EXPAND(expand_q3_k, Q3_K)
DEFINE_EXPAND(expand_q4_k, Q4_K)
DEFINE_EXPAND(expand_q5_k, Q5_K)
DEFINE_EXPAND(expand_q6_k, Q6_K)
DEFINE_EXPAND(expand_q5_0, Q5_0)
DEFINE_EXPAND(expand_q5_1, Q5_1)
DEFINE_EXPAND(expand_iq4_nl, IQ4_NL)
DEFINE_EXPAND(expand_iq4_xs, IQ4_XS)
DEFINE_EXPAND(expand_mxfp4, MXFP4)

static expand_fn *const expand[N_FORMATS] = {
    [W4] = expand_w4,         [W4S] = expand_w4s,       [W8] = expand_w8,     [Q2_K] = expand_q2_k, [Q3_K] = expand_q3_k,
    [Q4_K] = expand_q4_k,     [Q5_K] = expand_q5_k,     [Q6_K] = expand_q6_k, [Q5_0] = expand_q5_0, [Q5_1] = expand_q5_1,
    [IQ4_NL] = expand_iq4_nl, [IQ4_XS] = expand_iq4_xs, [MXFP4] = expand_mxfp4,
};

/* Products of the inputs from first on with one row of activations. */
INLINE veci dots(const int8_t (*w)[32], const int8_t *q, int first, int n)
{
    veci dot = {0};
    for (int r = 0; r < 8; r++)
        for (int j = first; j < first + n; j += 4)
            dot[r] += dot4(w[r] + j, q + j);
    return dot;
}

/* sum[token] += the products of a tile with g rows of activations. */
INLINE void int8_tile(int format, const struct expanded *tile, const uint8_t *x, int g, int planes, const int per_tile,
                      vec *sum)
{
    const int zero = per_tile == 1 ? codings[format].zero : 0;
    const struct scales *scales = &tile->scales;
    for (int t = 0; t < g; t += planes) {
        const int last = t + planes - 1, n = 32 / per_tile;
        vec *to = &sum[t / planes];
        for (int h = 0; h < per_tile; h++) {
            veci dot = dots(tile->w, (const int8_t *)x + t * 32, h * n, n);
            if (planes == 2)
                dot = (dot << PLANE_BITS) + dots(tile->w, (const int8_t *)x + last * 32, h * n, n);
            if (zero)
                dot += ((const int32_t *)(x + INT8_OFFSET(g)))[last] >> zero_shift(zero);
            *to += __builtin_convertvector(dot, vec) * (scales->scale[h] * ((const float *)(x + INT8_SCALE(g)))[last]);
        }
        const float all = ((const float *)(x + INT8_SUM(g)))[last], low = ((const float *)(x + INT8_LOW_SUM(g)))[last];
        if (per_tile == 2)
            *to += (scales->minimum[0] - scales->minimum[1]) * low + scales->minimum[1] * all;
        else if (codings[format].minimum)
            *to += scales->minimum[0] * all;
    }
}

static void int8_band(int format, const uint8_t *tile, int n, int n_tiles, const uint8_t *x, int g, int planes,
                      float *out, ptrdiff_t stride, int accumulate)
{
    (void)n;
    vec sum[MAX_GROUP] = {{0}}, factors[2] = {{0}};
    const struct coding *coding = &codings[format];
    const int run = run_tiles(format, n_tiles), bytes = tile_bytes(format);
    struct expanded expanded;
    for (int i = 0; i < n_tiles; i++, tile += bytes, x += g * INT8_BYTES) {
        if (coding->factors && i % run == 0) {
            for (int f = 0; f < coding->factors; f++)
                factors[f] = load_f16((const uint16_t *)tile + 8 * f);
            tile += factor_bytes(format);
        }
        expand[format](tile, factors, &expanded);
        if (coding->per_tile == 2)
            int8_tile(format, &expanded, x, g, planes, 2, sum);
        else
            int8_tile(format, &expanded, x, g, planes, 1, sum);
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
