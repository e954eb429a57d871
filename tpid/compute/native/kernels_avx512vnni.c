/* x86-64 with AVX-512 VNNI. Groups of WIDE_ROWS rows of activations and more meet two bands at a time, lanes are their
   16 rows; smaller ones, where joining two bands costs more than it brings, meet one. */
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

static inline __attribute__((always_inline)) vec load_int8(const uint8_t *from)
{
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
}

static inline __attribute__((always_inline)) void store_f16(uint16_t *to, vec value)
{
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT));
}

#include "lanes.h"

#define WIDE_ROWS 4
#define DOT_PRODUCT _mm256_dpbusd_epi32
#include "products_256.h"

/* Two bands that follow each other. */
struct pair {
    const uint8_t *a, *b;
};

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

/* A tile of the pair of bands that follows, or of one further on: far enough ahead if bands are short. */
INLINE size_t ahead_of(int n_tiles, size_t tile_bytes)
{
    const size_t pair_bytes = 2 * (size_t)n_tiles * tile_bytes;
    return (PREFETCH_BYTES + pair_bytes - 1) / pair_bytes * pair_bytes;
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

INLINE void finish(float *out, __m512 sum, int accumulate)
{
    _mm512_storeu_ps(out, accumulate ? _mm512_add_ps(_mm512_loadu_ps(out), sum) : sum);
}

INLINE void finish_rows(const __m512 *sum, const int g, int planes, float *out, ptrdiff_t stride, int accumulate)
{
    if (planes == 1)
        for (int t = 0; t < g; t++)
            finish(out + t * stride, sum[t], accumulate);
    else
        for (int t = 0; t < g; t += 2)
            finish(out + t / 2 * stride, _mm512_add_ps(sum[t], sum[t + 1]), accumulate);
}

INLINE void wide_w4(const uint8_t *weights, int n_tiles, const uint8_t *x, const int g, int planes, float *out,
                    ptrdiff_t stride, int accumulate)
{
    struct pair pair = {weights, weights + (size_t)n_tiles * W4_BYTES};
    const size_t ahead = ahead_of(n_tiles, W4_BYTES);
    const __m512i low = _mm512_set1_epi8(15);
    __m512 sum[MAX_GROUP];
    for (int t = 0; t < g; t++)
        sum[t] = _mm512_setzero_ps();
    for (int i = 0; i < n_tiles; i++, pair.a += W4_BYTES, pair.b += W4_BYTES, x += g * INT8_BYTES) {
        __m512i w[8];
        prefetch_tile(pair.a + ahead, W4_BYTES);
        prefetch_tile(pair.b + ahead, W4_BYTES);
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
            sum[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scaled, sum[t]);
            sum[t] = _mm512_fmadd_ps(minimum, number(x + INT8_SUM(g) + 4 * t), sum[t]);
        }
    }
    finish_rows(sum, g, planes, out, stride, accumulate);
}

INLINE void wide_w8(const uint8_t *weights, int n_tiles, const uint8_t *x, const int g, int planes, float *out,
                    ptrdiff_t stride, int accumulate)
{
    struct pair pair = {weights, weights + (size_t)n_tiles * W8_BYTES};
    const size_t ahead = ahead_of(n_tiles, W8_BYTES);
    __m512 sum[MAX_GROUP];
    for (int t = 0; t < g; t++)
        sum[t] = _mm512_setzero_ps();
    for (int i = 0; i < n_tiles; i++, pair.a += W8_BYTES, pair.b += W8_BYTES, x += g * INT8_BYTES) {
        __m512i w[8];
        prefetch_tile(pair.a + ahead, W8_BYTES);
        prefetch_tile(pair.b + ahead, W8_BYTES);
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
    finish_rows(sum, g, planes, out, stride, accumulate);
}

INLINE void wide_half(int bf16, const uint8_t *weights, int n_tiles, const uint8_t *x, const int g, float *out,
                      ptrdiff_t stride, int accumulate)
{
    struct pair pair = {weights, weights + (size_t)n_tiles * HALF_BYTES};
    const size_t ahead = ahead_of(n_tiles, HALF_BYTES);
    __m512 sum[MAX_GROUP];
    for (int t = 0; t < g; t++)
        sum[t] = _mm512_setzero_ps();
    for (int i = 0; i < n_tiles; i++, pair.a += HALF_BYTES, pair.b += HALF_BYTES, x += g * FP32_BYTES) {
        prefetch_tile(pair.a + ahead, HALF_BYTES);
        prefetch_tile(pair.b + ahead, HALF_BYTES);
#pragma GCC unroll 4
        for (int j = 0; j < 32; j++) {
            __m256i row = halves(&pair, 16 * j);
            __m512 w = bf16 ? _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(row), 16))
                            : _mm512_cvtph_ps(row);
#pragma GCC unroll 8
            for (int t = 0; t < g; t++)
                sum[t] = _mm512_fmadd_ps(w, number(x + t * FP32_BYTES + 4 * j), sum[t]);
        }
    }
    finish_rows(sum, g, 1, out, stride, accumulate);
}

/* One band or two, by what is left of them and by the size of the group. */
#define BANDS(WIDE, NARROW, BAND_BYTES)                                                                            \
    if (g >= WIDE_ROWS && n == 2) {                                                                                \
        WIDE;                                                                                                      \
        return;                                                                                                    \
    }                                                                                                              \
    for (int band = 0; band < n; band++, weights += BAND_BYTES, out += TILE_ROWS)                                  \
        NARROW;

INLINE void w4_bands(const uint8_t *weights, int n, int n_tiles, const uint8_t *x, const int g, int planes, float *out,
                     ptrdiff_t stride, int accumulate)
{
    BANDS(wide_w4(weights, n_tiles, x, g, planes, out, stride, accumulate),
          narrow_w4(weights, n_tiles, x, g, planes, out, stride, accumulate), (size_t)n_tiles * W4_BYTES)
}

INLINE void w8_bands(const uint8_t *weights, int n, int n_tiles, const uint8_t *x, const int g, int planes, float *out,
                     ptrdiff_t stride, int accumulate)
{
    BANDS(wide_w8(weights, n_tiles, x, g, planes, out, stride, accumulate),
          narrow_w8(weights, n_tiles, x, g, planes, out, stride, accumulate), (size_t)n_tiles * W8_BYTES)
}

INLINE void half_bands(int bf16, const uint8_t *weights, int n, int n_tiles, const uint8_t *x, const int g, float *out,
                       ptrdiff_t stride, int accumulate)
{
    BANDS(wide_half(bf16, weights, n_tiles, x, g, out, stride, accumulate),
          narrow_half(bf16, weights, n_tiles, x, g, out, stride, accumulate), (size_t)n_tiles * HALF_BYTES)
}

#define F16_BANDS(w, n, tiles, x, g, planes, out, stride, add) half_bands(0, w, n, tiles, x, g, out, stride, add)
#define BF16_BANDS(w, n, tiles, x, g, planes, out, stride, add) half_bands(1, w, n, tiles, x, g, out, stride, add)

DEFINE_GEMM(gemm_w4, w4_bands, 2, W4_BYTES, INT8_BYTES)
DEFINE_GEMM(gemm_w8, w8_bands, 2, W8_BYTES, INT8_BYTES)
DEFINE_GEMM(gemm_f16, F16_BANDS, 2, HALF_BYTES, FP32_BYTES)
DEFINE_GEMM(gemm_bf16, BF16_BANDS, 2, HALF_BYTES, FP32_BYTES)

TARGET_END

DEFINE_KERNELS(kernels_avx512vnni, "avx512vnni", usable);
#endif
