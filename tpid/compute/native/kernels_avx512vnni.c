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

/* The products of a pair of tiles with one row of activations, on top of `sum`. */
INLINE __m512i dots(__m512i sum, const __m512i *w, const uint8_t *x)
{
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++)
        sum = _mm512_dpbusd_epi32(sum, w[k], whole(x + 4 * k));
    return sum;
}

INLINE void unpack(const int format, const struct pair *pair, __m512i *w)
{
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++)
        if (format == W8) /* unsigned x signed: plus 128, which `offset` takes back */
            w[j] = _mm512_xor_si512(quants(pair, 16 + 32 * j), _mm512_set1_epi8(-128));
        else {
            __m512i both = quants(pair, quants_at(format) + 32 * (j / 2));
            w[j] = _mm512_and_si512(j % 2 ? _mm512_srli_epi16(both, 4) : both, low);
        }
}

INLINE void wide_int8(const int format, const uint8_t *weights, int n_tiles, const uint8_t *x, const int g,
                      const int planes, float *out, ptrdiff_t stride, int accumulate)
{
    const int bytes = tile_bytes(format);
    struct pair pair = {weights, weights + (size_t)n_tiles * (size_t)bytes};
    const size_t ahead = ahead_of(n_tiles, (size_t)bytes);
    __m512 sum[MAX_GROUP];
    for (int t = 0; t < g; t++)
        sum[t] = _mm512_setzero_ps();
    for (int i = 0; i < n_tiles; i++, pair.a += bytes, pair.b += bytes, x += g * INT8_BYTES) {
        __m512i w[8];
        prefetch_tile(pair.a + ahead, bytes);
        prefetch_tile(pair.b + ahead, bytes);
        unpack(format, &pair, w);
        const __m512 scale = _mm512_cvtph_ps(halves(&pair, 0));
#pragma GCC unroll 8
        for (int t = 0; t < g; t += planes) {
            const int last = t + planes - 1;
            __m512i dot = format == W4 ? _mm512_setzero_si512() : whole(x + INT8_OFFSET(g) + 4 * last);
            if (format == W4S)
                dot = _mm512_srai_epi32(dot, 4);
            dot = dots(dot, w, x + last * 32);
            if (planes == 2) {
                __m512i coarse = dots(_mm512_setzero_si512(), w, x + t * 32);
                dot = _mm512_add_epi32(dot, _mm512_slli_epi32(coarse, PLANE_BITS));
            }
            __m512 scaled = _mm512_mul_ps(scale, number(x + INT8_SCALE(g) + 4 * last));
            sum[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scaled, sum[t]);
            if (format == W4)
                sum[t] = _mm512_fmadd_ps(_mm512_cvtph_ps(halves(&pair, 16)), number(x + INT8_SUM(g) + 4 * last), sum[t]);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < g; t += planes)
        finish(out + t / planes * stride, sum[t], accumulate);
}

/* 4 int8 of `x` in all lanes of the lower half, those 8 further on in the upper one. */
INLINE __m512i inputs_of_halves(__m512i x, const int four)
{
    return _mm512_permutexvar_epi32(_mm512_inserti64x4(_mm512_set1_epi32(four), _mm256_set1_epi32(four + 2), 1), x);
}

/* 4-bit weights, one token and one band: the halves of a vector are the same 8 rows with different inputs, so that
   weights are read in one stream with half the instructions of 256 bits. */
INLINE void one_w4(const int format, const uint8_t *tile, int n_tiles, const uint8_t *x, const int planes, float *out,
                     int accumulate)
{
    const int bytes = tile_bytes(format), last = planes - 1;
    const __m512i low = _mm512_set1_epi8(15);
    __m256 sum = _mm256_setzero_ps();
    for (int i = 0; i < n_tiles; i++, tile += bytes, x += planes * INT8_BYTES) {
        __m512i inputs = planes == 2 ? _mm512_loadu_si512(x)
                                     : _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)x));
        __m512i dot[MAX_PLANES] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
        prefetch_tile(tile + PREFETCH_BYTES, bytes);
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            /* The low, then the high nibbles of the tile's vectors 0 and 1, then those of 2 and 3. */
            __m512i w = _mm512_loadu_si512(tile + quants_at(format) + 64 * (k / 2));
            w = _mm512_and_si512(k % 2 ? _mm512_srli_epi16(w, 4) : w, low);
            const int first = k / 2 * 4 + k % 2;
#pragma GCC unroll 2
            for (int plane = 0; plane < planes; plane++)
                dot[plane] = _mm512_dpbusd_epi32(dot[plane], w, inputs_of_halves(inputs, first + 8 * plane));
        }
        if (planes == 2)
            dot[1] = _mm512_add_epi32(dot[1], _mm512_slli_epi32(dot[0], PLANE_BITS));
        __m256i whole = _mm256_add_epi32(_mm512_castsi512_si256(dot[last]), _mm512_extracti64x4_epi64(dot[last], 1));
        whole = _mm256_add_epi32(whole, start_of(format, x + INT8_OFFSET(planes) + 4 * last));
        __m256 scaled = _mm256_mul_ps(eight_halves(tile), number8(x + INT8_SCALE(planes), last));
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), scaled, sum);
        if (format == W4)
            sum = _mm256_fmadd_ps(eight_halves(tile + 16), number8(x + INT8_SUM(planes), last), sum);
    }
    finish8(out, sum, accumulate);
}

INLINE void small_int8(const int format, const uint8_t *weights, int n_tiles, const uint8_t *x, const int g,
                       const int planes, float *out, ptrdiff_t stride, int accumulate)
{
    if (g == planes && format != W8)
        one_w4(format, weights, n_tiles, x, planes, out, accumulate);
    else
        narrow_int8(format, weights, n_tiles, x, g, planes, out, stride, accumulate);
}

INLINE void wide_half(const int format, const uint8_t *weights, int n_tiles, const uint8_t *x, const int g, int planes,
                      float *out, ptrdiff_t stride, int accumulate)
{
    struct pair pair = {weights, weights + (size_t)n_tiles * HALF_BYTES};
    const size_t ahead = ahead_of(n_tiles, HALF_BYTES);
    __m512 sum[MAX_GROUP];
    (void)planes;
    for (int t = 0; t < g; t++)
        sum[t] = _mm512_setzero_ps();
    for (int i = 0; i < n_tiles; i++, pair.a += HALF_BYTES, pair.b += HALF_BYTES, x += g * FP32_BYTES) {
        prefetch_tile(pair.a + ahead, HALF_BYTES);
        prefetch_tile(pair.b + ahead, HALF_BYTES);
#pragma GCC unroll 4
        for (int j = 0; j < 32; j++) {
            __m256i row = halves(&pair, 16 * j);
            __m512 w = format == BF16 ? _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(row), 16))
                                      : _mm512_cvtph_ps(row);
#pragma GCC unroll 8
            for (int t = 0; t < g; t++)
                sum[t] = _mm512_fmadd_ps(w, number(x + t * FP32_BYTES + 4 * j), sum[t]);
        }
    }
    for (int t = 0; t < g; t++)
        finish(out + t * stride, sum[t], accumulate);
}

/* One band or two, by what is left of them and by the size of the group. */
#define DEFINE_BANDS(NAME, WIDE, NARROW)                                                                           \
    INLINE void NAME(const int format, const uint8_t *weights, int n, int n_tiles, const uint8_t *x, const int g,  \
                     const int planes, float *out, ptrdiff_t stride, int accumulate)                               \
    {                                                                                                              \
        const size_t band_bytes = (size_t)n_tiles * (size_t)tile_bytes(format);                                    \
        if (g >= WIDE_ROWS && n == 2)                                                                              \
            WIDE(format, weights, n_tiles, x, g, planes, out, stride, accumulate);                                 \
        else                                                                                                       \
            for (int band = 0; band < n; band++, weights += band_bytes, out += TILE_ROWS)                          \
                NARROW(format, weights, n_tiles, x, g, planes, out, stride, accumulate);                           \
    }

DEFINE_BANDS(int8_bands, wide_int8, small_int8)
DEFINE_BANDS(half_bands, wide_half, narrow_half)
DEFINE_ALL_GEMM(int8_bands, half_bands, 2)

TARGET_END

DEFINE_KERNELS(kernels_avx512vnni, "avx512vnni", usable);
#endif
