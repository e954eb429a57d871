/* Products with the 128-bit vectors of ARM: one band at a time, two vectors for its 8 rows.

   Included by kernels_neon.c (DOT_PRODUCT 0) and kernels_neondot.c (DOT_PRODUCT 1, sdot). */

#define LANES 4
typedef float vec __attribute__((vector_size(16)));
typedef int32_t veci __attribute__((vector_size(16)));

static inline __attribute__((always_inline)) vec load_f16(const uint16_t *from)
{
    return (vec)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
}

static inline __attribute__((always_inline)) vec load_int8(const uint8_t *from)
{
    int32_t four;
    memcpy(&four, from, 4);
    return (vec)vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four))))));
}

static inline __attribute__((always_inline)) void store_f16(uint16_t *to, vec value)
{
    vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)value)));
}

#include "lanes.h"

#define PREFETCH_BYTES 1024
#if DOT_PRODUCT
#define TOGETHER 4 /* rows of activations whose sums fit the 32 registers */
#define DOTS 2     /* vectors of whole sums: rows 0-3, rows 4-7 */
#else
#define TOGETHER 2
#define DOTS 4 /* rows 0-1, 2-3, 4-5, 6-7, each with two sums */
#endif

INLINE void prefetch(const uint8_t *tile, int bytes)
{
    for (int line = 0; line < bytes; line += 64)
        __builtin_prefetch(tile + PREFETCH_BYTES + line);
}

INLINE float number_at(const uint8_t *at, int t)
{
    return ((const float *)(const void *)at)[t];
}

INLINE void finish(float *out, const float32x4_t *sum, int accumulate)
{
    for (int half = 0; half < 2; half++)
        vst1q_f32(out + 4 * half, accumulate ? vaddq_f32(vld1q_f32(out + 4 * half), sum[half]) : sum[half]);
}

/* One half of a tile, 16 inputs: w[k] holds inputs 4k to 4k + 3 of rows 0-3 and of rows 4-7. */

INLINE void w4_half(const uint8_t *quants, int8x16_t (*w)[2])
{
    for (int k = 0; k < 4; k += 2)
        for (int half = 0; half < 2; half++) {
            uint8x16_t both = vld1q_u8(quants + 16 * k + 16 * half);
            w[k][half] = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
            w[k + 1][half] = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
        }
}

INLINE void w8_half(const uint8_t *quants, int8x16_t (*w)[2])
{
    for (int k = 0; k < 4; k++)
        for (int half = 0; half < 2; half++)
            w[k][half] = vreinterpretq_s8_u8(vld1q_u8(quants + 32 * k + 16 * half));
}

/* dot += w x 16 activations of one row. */
INLINE void dot_half(const int format, int32x4_t *dot, int8x16_t (*w)[2], const uint8_t *at)
{
    int8x16_t x = vreinterpretq_s8_u8(vld1q_u8(at));
#if DOT_PRODUCT
    (void)format;
    for (int half = 0; half < 2; half++) {
        dot[half] = vdotq_laneq_s32(dot[half], w[0][half], x, 0);
        dot[half] = vdotq_laneq_s32(dot[half], w[1][half], x, 1);
        dot[half] = vdotq_laneq_s32(dot[half], w[2][half], x, 2);
        dot[half] = vdotq_laneq_s32(dot[half], w[3][half], x, 3);
    }
#else
    /* Into 16 bits go 4 products of 15 * 127 at most, or 2 of 128 * 127. */
    int32x4_t fours = vreinterpretq_s32_s8(x);
    int8x16_t x0 = vreinterpretq_s8_s32(vdupq_laneq_s32(fours, 0));
    int8x16_t x1 = vreinterpretq_s8_s32(vdupq_laneq_s32(fours, 1));
    int8x16_t x2 = vreinterpretq_s8_s32(vdupq_laneq_s32(fours, 2));
    int8x16_t x3 = vreinterpretq_s8_s32(vdupq_laneq_s32(fours, 3));
    for (int half = 0; half < 2; half++) {
        int16x8_t low = vmull_s8(vget_low_s8(w[0][half]), vget_low_s8(x0)), high = vmull_high_s8(w[0][half], x0);
        low = vmlal_s8(low, vget_low_s8(w[1][half]), vget_low_s8(x1)), high = vmlal_high_s8(high, w[1][half], x1);
        if (format == W8) {
            dot[2 * half] = vpadalq_s16(dot[2 * half], low), dot[2 * half + 1] = vpadalq_s16(dot[2 * half + 1], high);
            low = vmull_s8(vget_low_s8(w[2][half]), vget_low_s8(x2)), high = vmull_high_s8(w[2][half], x2);
        } else {
            low = vmlal_s8(low, vget_low_s8(w[2][half]), vget_low_s8(x2)), high = vmlal_high_s8(high, w[2][half], x2);
        }
        low = vmlal_s8(low, vget_low_s8(w[3][half]), vget_low_s8(x3)), high = vmlal_high_s8(high, w[3][half], x3);
        dot[2 * half] = vpadalq_s16(dot[2 * half], low), dot[2 * half + 1] = vpadalq_s16(dot[2 * half + 1], high);
    }
#endif
}

/* The sums of 4 rows of a band. */
INLINE int32x4_t whole_dot(const int32x4_t *dot, int half)
{
#if DOT_PRODUCT
    return dot[half];
#else
    return vpaddq_s32(dot[2 * half], dot[2 * half + 1]);
#endif
}

INLINE void dot_rows(const int format, const uint8_t *quants, const uint8_t *x, const int n, int32x4_t (*dot)[DOTS])
{
#pragma GCC unroll 4
    for (int t = 0; t < n; t++)
        for (int part = 0; part < DOTS; part++)
            dot[t][part] = vdupq_n_s32(0);
#pragma GCC unroll 2
    for (int inputs = 0; inputs < 32; inputs += 16) {
        int8x16_t w[4][2];
        if (format == W8)
            w8_half(quants + 8 * inputs, w);
        else
            w4_half(quants + 4 * inputs, w);
#pragma GCC unroll 4
        for (int t = 0; t < n; t++)
            dot_half(format, dot[t], w, x + t * 32 + inputs);
    }
}

INLINE void int8_rows(const int format, const uint8_t *tile, int n_tiles, const uint8_t *x, const int g,
                      const int first, const int n, const int planes, float *out, ptrdiff_t stride, int accumulate)
{
    const int bytes = tile_bytes(format);
    float32x4_t sum[TOGETHER][2];
#pragma GCC unroll 4
    for (int t = 0; t < n; t++)
        sum[t][0] = sum[t][1] = vdupq_n_f32(0);
    for (int i = 0; i < n_tiles; i++, tile += bytes, x += g * INT8_BYTES) {
        int32x4_t dot[TOGETHER][DOTS];
        prefetch(tile, bytes);
        dot_rows(format, tile + quants_at(format), x + first * 32, n, dot);
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const uint16_t *halves = (const uint16_t *)(const void *)tile + 4 * half;
            const float32x4_t scale = (float32x4_t)load_f16(halves);
#pragma GCC unroll 4
            for (int t = 0; t < n; t += planes) {
                const int last = t + planes - 1, number = first + last;
                int32x4_t whole = whole_dot(dot[last], half);
                if (planes == 2)
                    whole = vaddq_s32(whole, vshlq_n_s32(whole_dot(dot[t], half), PLANE_BITS));
                if (format == W4S)
                    whole = vaddq_s32(whole, vdupq_n_s32(((const int32_t *)(const void *)(x + INT8_OFFSET(g)))[number] / 16));
                float32x4_t scaled = vmulq_n_f32(scale, number_at(x + INT8_SCALE(g), number));
                sum[t][half] = vfmaq_f32(sum[t][half], vcvtq_f32_s32(whole), scaled);
                if (format == W4)
                    sum[t][half] = vfmaq_n_f32(sum[t][half], (float32x4_t)load_f16(halves + 8),
                                               number_at(x + INT8_SUM(g), number));
            }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < n; t += planes)
        finish(out + (first + t) / planes * stride, sum[t], accumulate);
}

INLINE void int8_band(const int format, const uint8_t *weights, int n, int n_tiles, const uint8_t *x, const int g,
                      const int planes, float *out, ptrdiff_t stride, int accumulate)
{
    (void)n;
    for (int first = 0; first < g; first += TOGETHER)
        int8_rows(format, weights, n_tiles, x, g, first, g < TOGETHER ? g : TOGETHER, planes, out, stride, accumulate);
}

INLINE void half_row(const int format, const uint8_t *at, float32x4_t *w)
{
    uint16x8_t halves = vreinterpretq_u16_u8(vld1q_u8(at));
    if (format == BF16) {
        w[0] = vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(halves), 16));
        w[1] = vreinterpretq_f32_u32(vshll_high_n_u16(halves, 16));
    } else {
        w[0] = vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(halves)));
        w[1] = vcvt_high_f32_f16(vreinterpretq_f16_u16(halves));
    }
}

INLINE void half_band(const int format, const uint8_t *tile, int n, int n_tiles, const uint8_t *x, const int g,
                      int planes, float *out, ptrdiff_t stride, int accumulate)
{
    (void)n, (void)planes;
    const int chains = g == 1 ? 4 : g == 2 ? 2 : 1; /* enough sums under way to hide the latency of an FMA */
    float32x4_t sum[MAX_GROUP][2];
    for (int s = 0; s < g * chains; s++)
        sum[s][0] = sum[s][1] = vdupq_n_f32(0);
    for (int i = 0; i < n_tiles; i++, tile += HALF_BYTES, x += g * FP32_BYTES) {
        prefetch(tile, HALF_BYTES);
        for (int j = 0; j < 32; j += 4) {
            float32x4_t w[4][2];
            for (int k = 0; k < 4; k++)
                half_row(format, tile + 16 * (j + k), w[k]);
#pragma GCC unroll 8
            for (int t = 0; t < g; t++) {
                float32x4_t four = vreinterpretq_f32_u8(vld1q_u8(x + t * FP32_BYTES + 4 * j));
                __asm__("" : "+w"(four)); /* or GCC loads each lane once more */
                for (int half = 0; half < 2; half++) {
                    float32x4_t *s0 = &sum[t][half], *s1 = &sum[1 % chains * g + t][half];
                    float32x4_t *s2 = &sum[2 % chains * g + t][half], *s3 = &sum[3 % chains * g + t][half];
                    *s0 = vfmaq_laneq_f32(*s0, w[0][half], four, 0);
                    *s1 = vfmaq_laneq_f32(*s1, w[1][half], four, 1);
                    *s2 = vfmaq_laneq_f32(*s2, w[2][half], four, 2);
                    *s3 = vfmaq_laneq_f32(*s3, w[3][half], four, 3);
                }
            }
        }
    }
    for (int t = 0; t < g; t++) {
        for (int chain = 1; chain < chains; chain++)
            for (int half = 0; half < 2; half++)
                sum[t][half] = vaddq_f32(sum[t][half], sum[chain * g + t][half]);
        finish(out + t * stride, sum[t], accumulate);
    }
}

DEFINE_ALL_GEMM(int8_band, half_band, 1)
