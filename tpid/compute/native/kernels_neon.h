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

/* From 16 bytes of a plane of b bits the codes of 4k to 4k + 3, moved to bit `to` of their bytes. */
INLINE uint8x16_t bits_of(const int bits, uint8x16_t all, const int k, const int to)
{
    const int move = plane_shift(bits, k) - to;
    all = move ? vshlq_u8(all, vdupq_n_s8((int8_t)-move)) : all;
    return vandq_u8(all, vdupq_n_u8((uint8_t)(((1 << bits) - 1) << to)));
}

/* The weights of inputs 4k to 4k + 3 of rows 0-3, or 4-7. */
INLINE int8x16_t weights4(const int format, const uint8_t *tile, const int k, const int half)
{
    const int low = codings[format].low_bits, high = codings[format].high_bits;
    uint8x16_t w = vld1q_u8(tile + quants_at(format) + 32 * plane_vector(low, k) + 16 * half);
    if (low != 8)
        w = bits_of(low, w, k, 0);
    if (high)
        w = vorrq_u8(w, bits_of(high, vld1q_u8(tile + high_at(format) + 32 * plane_vector(high, k) + 16 * half), k, low));
    if (codings[format].codebook)
        return vqtbl1q_s8(vld1q_s8(codings[format].codebook == IQ4_CODES ? iq4_codes : e2m1_codes), w);
    return vreinterpretq_s8_u8(w);
}

/* One half of a tile, 16 inputs: w[k] holds inputs 4k to 4k + 3 of rows 0-3 and of rows 4-7. */
INLINE void weights_half(const int format, const uint8_t *tile, const int inputs, int8x16_t (*w)[2])
{
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
        for (int half = 0; half < 2; half++)
            w[k][half] = weights4(format, tile, inputs / 4 + k, half);
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
    /* Into 16 bits go 4 products of 63 * 127 at most, or 2 of 128 * 127. */
    int32x4_t fours = vreinterpretq_s32_s8(x);
    int8x16_t x0 = vreinterpretq_s8_s32(vdupq_laneq_s32(fours, 0));
    int8x16_t x1 = vreinterpretq_s8_s32(vdupq_laneq_s32(fours, 1));
    int8x16_t x2 = vreinterpretq_s8_s32(vdupq_laneq_s32(fours, 2));
    int8x16_t x3 = vreinterpretq_s8_s32(vdupq_laneq_s32(fours, 3));
    for (int half = 0; half < 2; half++) {
        int16x8_t low = vmull_s8(vget_low_s8(w[0][half]), vget_low_s8(x0)), high = vmull_high_s8(w[0][half], x0);
        low = vmlal_s8(low, vget_low_s8(w[1][half]), vget_low_s8(x1)), high = vmlal_high_s8(high, w[1][half], x1);
        if (has_signs(format)) {
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

/* dot = the products of n inputs from the first on, of n_rows rows of activations. */
INLINE void dot_rows(const int format, const uint8_t *tile, const uint8_t *x, const int first, const int n,
                     const int n_rows, int32x4_t (*dot)[DOTS])
{
#pragma GCC unroll 4
    for (int t = 0; t < n_rows; t++)
        for (int part = 0; part < DOTS; part++)
            dot[t][part] = vdupq_n_s32(0);
#pragma GCC unroll 2
    for (int inputs = first; inputs < first + n; inputs += 16) {
        int8x16_t w[4][2];
        weights_half(format, tile, inputs, w);
#pragma GCC unroll 4
        for (int t = 0; t < n_rows; t++)
            dot_half(format, dot[t], w, x + t * 32 + inputs);
    }
}

/* Of 4 rows of a tile; of the first and second 16 inputs where there are two. The first minimum is then the difference
   to the second, which meets all inputs. */
struct scales4 {
    float32x4_t scale[2], minimum[2];
};

INLINE float32x4_t whole4(uint32x4_t numbers)
{
    return vcvtq_f32_u32(numbers);
}

INLINE uint32x4_t wide4(const uint8_t *at)
{
    uint32_t four;
    memcpy(&four, at, 4);
    return vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four))));
}

INLINE float32x4_t halves4(const uint8_t *at)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(at)));
}

/* Of rows 0-3, or 4-7; factors: of scales, and minus those of minimums. */
INLINE struct scales4 read_scales(const int format, const uint8_t *tile, const int half, float32x4_t (*factors)[2])
{
    const struct coding *coding = &codings[format];
    struct scales4 s = {{vdupq_n_f32(0), vdupq_n_f32(0)}, {vdupq_n_f32(0), vdupq_n_f32(0)}};
    if (coding->scales == HALVES) {
        s.scale[0] = halves4(tile + 8 * half);
        if (coding->minimum)
            s.minimum[0] = halves4(tile + 16 + 8 * half);
    } else if (coding->scales == SIXES) {
        static const int32_t places[4] = {0, -4, -8, -12};
        const uint32x4_t both = wide4(tile + 4 * half), first = vandq_u32(both, vdupq_n_u32(63));
        uint16_t two;
        memcpy(&two, tile + 8 + 2 * half, 2);
        const uint32x4_t nibbles = vandq_u32(vshlq_u32(vdupq_n_u32(two), vld1q_s32(places)), vdupq_n_u32(15));
        const uint32x4_t second = vorrq_u32(vshrq_n_u32(both, 6), vshlq_n_u32(nibbles, 2));
        if (coding->minimum) {
            s.scale[0] = vmulq_f32(whole4(first), factors[0][half]);
            s.minimum[0] = vmulq_f32(whole4(second), factors[1][half]);
        } else {
            s.scale[0] = vmulq_f32(vsubq_f32(whole4(first), vdupq_n_f32(32)), factors[0][half]);
            s.scale[1] = vmulq_f32(vsubq_f32(whole4(second), vdupq_n_f32(32)), factors[0][half]);
        }
    } else if (coding->scales == EXPONENTS) {
        const uint32x4_t bits = vqsubq_u32(wide4(tile + 4 * half), vdupq_n_u32(1));
        s.scale[0] = vreinterpretq_f32_u32(vshlq_n_u32(bits, 23));
    } else
        for (int h = 0; h < coding->per_tile; h++) {
            const uint8_t *at = tile + 8 * h + 4 * half;
            if (coding->scales == BYTES) {
                s.scale[h] = vmulq_f32((float32x4_t)load_int8(at), factors[0][half]);
                continue;
            }
            s.scale[h] = vmulq_f32(whole4(vandq_u32(wide4(at), vdupq_n_u32(15))), factors[0][half]);
            s.minimum[h] = vmulq_f32(whole4(vshrq_n_u32(wide4(at), 4)), factors[1][half]);
        }
    if (coding->per_tile == 2) {
        for (int h = 0; h < 2 && !coding->minimum; h++)
            s.minimum[h] = vmulq_n_f32(s.scale[h], -(float)coding->zero);
        s.minimum[0] = vsubq_f32(s.minimum[0], s.minimum[1]);
    }
    return s;
}

INLINE void read_factors(const int format, const uint8_t *run, float32x4_t (*factors)[2])
{
    for (int half = 0; half < 2; half++) {
        if (codings[format].factors)
            factors[0][half] = halves4(run + 8 * half);
        if (codings[format].factors == 2)
            factors[1][half] = vnegq_f32(halves4(run + 16 + 8 * half));
    }
}

INLINE float32x4_t add_minimums(const int format, float32x4_t sum, const struct scales4 *s, const uint8_t *x,
                                const int g, const int number)
{
    if (!takes_sums(format))
        return sum;
    if (codings[format].per_tile == 1)
        return vfmaq_n_f32(sum, s->minimum[0], number_at(x + INT8_SUM(g), number));
    sum = vfmaq_n_f32(sum, s->minimum[0], number_at(x + INT8_LOW_SUM(g), number));
    return vfmaq_n_f32(sum, s->minimum[1], number_at(x + INT8_SUM(g), number));
}

/* The products of one tile with rows first to first + n of g rows of activations. */
INLINE void tile_rows(const int format, const uint8_t *tile, float32x4_t (*factors)[2], const uint8_t *x, const int g,
                      const int first, const int n, const int planes, float32x4_t (*sum)[2])
{
    const int parts = codings[format].per_tile, zero = codings[format].zero;
    struct scales4 s[2] = {read_scales(format, tile, 0, factors), read_scales(format, tile, 1, factors)};
#pragma GCC unroll 2
    for (int h = 0; h < parts; h++) {
        int32x4_t dot[TOGETHER][DOTS];
        dot_rows(format, tile, x + first * 32, h * 16, 32 / parts, n, dot);
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++)
#pragma GCC unroll 4
            for (int t = 0; t < n; t += planes) {
                const int last = t + planes - 1, number = first + last;
                int32x4_t whole = whole_dot(dot[last], half);
                if (planes == 2)
                    whole = vaddq_s32(whole, vshlq_n_s32(whole_dot(dot[t], half), PLANE_BITS));
                if (parts == 1 && zero) {
                    const int32_t offset = ((const int32_t *)(const void *)(x + INT8_OFFSET(g)))[number];
                    whole = vaddq_s32(whole, vdupq_n_s32(offset >> zero_shift(zero)));
                }
                float32x4_t scaled = vmulq_n_f32(s[half].scale[h], number_at(x + INT8_SCALE(g), number));
                sum[t][half] = vfmaq_f32(sum[t][half], vcvtq_f32_s32(whole), scaled);
            }
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++)
#pragma GCC unroll 4
        for (int t = 0; t < n; t += planes)
            sum[t][half] = add_minimums(format, sum[t][half], &s[half], x, g, first + t + planes - 1);
}

INLINE void int8_rows(const int format, const uint8_t *tile, int n_tiles, const uint8_t *x, const int g,
                      const int first, const int n, const int planes, float *out, ptrdiff_t stride, int accumulate)
{
    const int bytes = tile_bytes(format), run = run_tiles(format, n_tiles);
    float32x4_t sum[TOGETHER][2], factors[2][2];
#pragma GCC unroll 4
    for (int t = 0; t < n; t++)
        sum[t][0] = sum[t][1] = vdupq_n_f32(0);
    for (int left = n_tiles; left > 0; left -= run) {
        read_factors(format, tile, factors);
        tile += factor_bytes(format);
        for (int i = 0; i < run; i++, tile += bytes, x += g * INT8_BYTES) {
            prefetch(tile, bytes);
            tile_rows(format, tile, factors, x, g, first, n, planes, sum);
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
