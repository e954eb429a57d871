/* x86-64 with AVX-512 VNNI: two bands at a time, lanes are their 16 rows. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "target.h"

static int usable(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("f16c");
}

TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")

#define LANES 16
typedef float vec __attribute__((vector_size(64)));
typedef int32_t veci __attribute__((vector_size(64)));

static inline __attribute__((always_inline)) vec load_f16(const uint16_t *from)
{
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

static inline __attribute__((always_inline)) void store_f16(uint16_t *to, vec value)
{
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT));
}

#include "lanes.h"

#define PREFETCH_BYTES 2048

/* A pair of bands; of the last band of an odd number both are the same, and half of the result is not stored. */
struct pair {
    const uint8_t *a, *b;
    __mmask16 rows;
};

INLINE struct pair pair_of(const uint8_t *weights, int n, size_t band_bytes)
{
    return (struct pair){weights, n == 2 ? weights + band_bytes : weights, n == 2 ? 0xffff : 0x00ff};
}

INLINE __m512i quants(const struct pair *pair, int offset)
{
    __m256i a = _mm256_loadu_si256((const __m256i *)(pair->a + offset));
    return _mm512_inserti64x4(_mm512_castsi256_si512(a), _mm256_loadu_si256((const __m256i *)(pair->b + offset)), 1);
}

INLINE __m256i halves(const struct pair *pair, int offset)
{
    __m128i a = _mm_loadu_si128((const __m128i *)(pair->a + offset));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(a), _mm_loadu_si128((const __m128i *)(pair->b + offset)), 1);
}

INLINE void prefetch(const struct pair *pair, int bytes)
{
    for (int line = 0; line < bytes; line += 64) {
        _mm_prefetch((const char *)pair->a + PREFETCH_BYTES + line, _MM_HINT_T0);
        _mm_prefetch((const char *)pair->b + PREFETCH_BYTES + line, _MM_HINT_T0);
    }
}

INLINE __m512i whole(const uint8_t *at) /* an int32, or 4 int8, in all lanes */
{
    int32_t four;
    memcpy(&four, at, 4);
    return _mm512_set1_epi32(four);
}

INLINE __m512 number(const uint8_t *at)
{
    return _mm512_castsi512_ps(whole(at));
}

INLINE void finish(float *out, __m512 sum, __mmask16 rows, int accumulate)
{
    if (accumulate)
        sum = _mm512_add_ps(_mm512_maskz_loadu_ps(rows, out), sum);
    _mm512_mask_storeu_ps(out, rows, sum);
}

INLINE void finish_rows(const __m512 *sum, int g, int planes, float *out, ptrdiff_t stride, __mmask16 rows,
                        int accumulate)
{
    if (planes == 1 || g == 1) /* a row alone is a token */
        for (int t = 0; t < g; t++)
            finish(out + t * stride, sum[t], rows, accumulate);
    else
        for (int t = 0; t < g; t += 2)
            finish(out + t / 2 * stride, _mm512_add_ps(sum[t], sum[t + 1]), rows, accumulate);
}

INLINE void w4_band(const uint8_t *weights, int n, int n_tiles, const uint8_t *x, const int g, int planes, float *out,
                    ptrdiff_t stride, int accumulate)
{
    struct pair pair = pair_of(weights, n, (size_t)n_tiles * W4_BYTES);
    const __m512i low = _mm512_set1_epi8(15);
    __m512 sum[MAX_GROUP], rest = _mm512_setzero_ps();
    for (int t = 0; t < g; t++)
        sum[t] = _mm512_setzero_ps();
    for (int i = 0; i < n_tiles; i++, pair.a += W4_BYTES, pair.b += W4_BYTES, x += g * INT8_BYTES) {
        __m512i w[8];
        if (g == 1)
            prefetch(&pair, W4_BYTES);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m512i both = quants(&pair, 32 + 32 * j);
            w[2 * j] = _mm512_and_si512(both, low);
            w[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        }
        __m512 scale = _mm512_cvtph_ps(halves(&pair, 0)), minimum = _mm512_cvtph_ps(halves(&pair, 16));
#pragma GCC unroll 8
        for (int t = 0; t < g; t++) {
            __m512i dot = _mm512_setzero_si512();
#pragma GCC unroll 8
            for (int k = 0; k < 8; k++)
                dot = _mm512_dpbusd_epi32(dot, w[k], whole(x + t * 32 + 4 * k));
            __m512 scaled = _mm512_mul_ps(scale, number(x + INT8_SCALE(g) + 4 * t));
            __m512 *minimums = g == 1 ? &rest : &sum[t]; /* a second chain where there is but one row */
            sum[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scaled, sum[t]);
            *minimums = _mm512_fmadd_ps(minimum, number(x + INT8_SUM(g) + 4 * t), *minimums);
        }
    }
    if (g == 1)
        sum[0] = _mm512_add_ps(sum[0], rest);
    finish_rows(sum, g, planes, out, stride, pair.rows, accumulate);
}

INLINE void w8_band(const uint8_t *weights, int n, int n_tiles, const uint8_t *x, const int g, int planes, float *out,
                    ptrdiff_t stride, int accumulate)
{
    struct pair pair = pair_of(weights, n, (size_t)n_tiles * W8_BYTES);
    __m512 sum[MAX_GROUP];
    for (int t = 0; t < g; t++)
        sum[t] = _mm512_setzero_ps();
    for (int i = 0; i < n_tiles; i++, pair.a += W8_BYTES, pair.b += W8_BYTES, x += g * INT8_BYTES) {
        __m512i w[8];
        if (g == 1)
            prefetch(&pair, W8_BYTES);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) /* unsigned x signed: plus 128, which `offset` takes back */
            w[j] = _mm512_xor_si512(quants(&pair, 16 + 32 * j), _mm512_set1_epi8(-128));
        __m512 scale = _mm512_cvtph_ps(halves(&pair, 0));
#pragma GCC unroll 8
        for (int t = 0; t < g; t++) {
            __m512i dot = whole(x + INT8_OFFSET(g) + 4 * t);
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++)
                dot = _mm512_dpbusd_epi32(dot, w[j], whole(x + t * 32 + 4 * j));
            sum[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot),
                                     _mm512_mul_ps(scale, number(x + INT8_SCALE(g) + 4 * t)), sum[t]);
        }
    }
    finish_rows(sum, g, planes, out, stride, pair.rows, accumulate);
}

INLINE __m512 half_row(int bf16, const struct pair *pair, int j)
{
    __m256i row = halves(pair, 16 * j);
    return bf16 ? _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(row), 16)) : _mm512_cvtph_ps(row);
}

INLINE void half_band(int bf16, const uint8_t *weights, int n, int n_tiles, const uint8_t *x, const int g, float *out,
                      ptrdiff_t stride, int accumulate)
{
    const int chains = g == 1 ? 4 : g == 2 ? 2 : 1; /* enough sums under way to hide the latency of an FMA */
    struct pair pair = pair_of(weights, n, (size_t)n_tiles * HALF_BYTES);
    __m512 sum[MAX_GROUP];
    for (int s = 0; s < g * chains; s++)
        sum[s] = _mm512_setzero_ps();
    for (int i = 0; i < n_tiles; i++, pair.a += HALF_BYTES, pair.b += HALF_BYTES, x += g * FP32_BYTES) {
        if (g == 1)
            prefetch(&pair, HALF_BYTES);
#pragma GCC unroll 4
        for (int j = 0; j < 32; j++) {
            __m512 w = half_row(bf16, &pair, j);
#pragma GCC unroll 8
            for (int t = 0; t < g; t++)
                sum[j % chains * g + t] =
                    _mm512_fmadd_ps(w, number(x + t * FP32_BYTES + 4 * j), sum[j % chains * g + t]);
        }
    }
    for (int t = 0; t < g; t++) {
        for (int chain = 1; chain < chains; chain++)
            sum[t] = _mm512_add_ps(sum[t], sum[chain * g + t]);
        finish(out + t * stride, sum[t], pair.rows, accumulate);
    }
}

#define F16_BAND(w, n, tiles, x, g, planes, out, stride, add) half_band(0, w, n, tiles, x, g, out, stride, add)
#define BF16_BAND(w, n, tiles, x, g, planes, out, stride, add) half_band(1, w, n, tiles, x, g, out, stride, add)

DEFINE_GEMM(gemm_w4, w4_band, 2, W4_BYTES, INT8_BYTES)
DEFINE_GEMM(gemm_w8, w8_band, 2, W8_BYTES, INT8_BYTES)
DEFINE_GEMM(gemm_f16, F16_BAND, 2, HALF_BYTES, FP32_BYTES)
DEFINE_GEMM(gemm_bf16, BF16_BAND, 2, HALF_BYTES, FP32_BYTES)

TARGET_END

DEFINE_KERNELS(kernels_avx512vnni, "avx512vnni", usable);
#endif
