/* x86-64 with AVX-512 VNNI. Groups of WIDE_ROWS rows of activations and more meet pairs of bands, lanes are their 16
   rows; smaller ones, where joining two bands costs more than it brings, meet one band. */
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

#define MANY_GEMM expanded_gemm

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

/* A tile of the bands that follow these pairs, or of some further on: far enough ahead if bands are short. */
INLINE size_t ahead_of(int n_tiles, int pairs, size_t tile_bytes)
{
    const size_t step_bytes = 2 * (size_t)pairs * (size_t)n_tiles * tile_bytes;
    return (PREFETCH_BYTES + step_bytes - 1) / step_bytes * step_bytes;
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

/* One pair of bands or two: with two, an activation that was loaded is used twice. */
INLINE void wide_int8(const int format, const int pairs, const uint8_t *weights, int n_tiles, const uint8_t *x,
                      const int g, const int planes, float *out, ptrdiff_t stride, int accumulate)
{
    const int bytes = tile_bytes(format);
    const size_t of_band = band_bytes(format, n_tiles), ahead = ahead_of(n_tiles, pairs, (size_t)bytes);
    struct pair pair[2] = {{weights, weights + of_band}, {weights + 2 * of_band, weights + 3 * of_band}};
    __m512 sum[2][MAX_GROUP];
    for (int t = 0; t < g; t++)
        sum[0][t] = sum[1][t] = _mm512_setzero_ps();
    for (int i = 0; i < n_tiles; i++, x += g * INT8_BYTES) {
        __m512i w[2][8];
        for (int p = 0; p < pairs; p++) {
            prefetch_tile(pair[p].a + ahead, bytes);
            prefetch_tile(pair[p].b + ahead, bytes);
            unpack(format, &pair[p], w[p]);
        }
#pragma GCC unroll 8
        for (int t = 0; t < g; t += planes) {
            const int last = t + planes - 1;
            __m512i start = format == W4 ? _mm512_setzero_si512() : whole(x + INT8_OFFSET(g) + 4 * last);
            if (format == W4S)
                start = _mm512_srai_epi32(start, 4);
            __m512i dot[2] = {start, start}, coarse[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
#pragma GCC unroll 8
            for (int k = 0; k < 8; k++) {
                const __m512i four = whole(x + last * 32 + 4 * k), coarse_four = whole(x + t * 32 + 4 * k);
                for (int p = 0; p < pairs; p++) {
                    dot[p] = _mm512_dpbusd_epi32(dot[p], w[p][k], four);
                    if (planes == 2)
                        coarse[p] = _mm512_dpbusd_epi32(coarse[p], w[p][k], coarse_four);
                }
            }
            for (int p = 0; p < pairs; p++) {
                const __m512 scale = _mm512_cvtph_ps(halves(&pair[p], 0));
                if (planes == 2)
                    dot[p] = _mm512_add_epi32(dot[p], _mm512_slli_epi32(coarse[p], PLANE_BITS));
                __m512 scaled = _mm512_mul_ps(scale, number(x + INT8_SCALE(g) + 4 * last));
                sum[p][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[p]), scaled, sum[p][t]);
                if (format == W4)
                    sum[p][t] = _mm512_fmadd_ps(_mm512_cvtph_ps(halves(&pair[p], 16)),
                                                number(x + INT8_SUM(g) + 4 * last), sum[p][t]);
            }
        }
        for (int p = 0; p < pairs; p++)
            pair[p].a += bytes, pair[p].b += bytes;
    }
    for (int p = 0; p < pairs; p++)
#pragma GCC unroll 8
        for (int t = 0; t < g; t += planes)
            finish(out + t / planes * stride + p * 2 * TILE_ROWS, sum[p][t], accumulate);
}

#include "expanded_512.h"

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

INLINE void wide_half(const int format, const uint8_t *weights, int n_tiles, const uint8_t *x, const int g, int planes,
                      float *out, ptrdiff_t stride, int accumulate)
{
    struct pair pair = {weights, weights + (size_t)n_tiles * HALF_BYTES};
    const size_t ahead = ahead_of(n_tiles, 1, HALF_BYTES);
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

/* As many bands at once as are left, and as the size of the group makes worth while. */
INLINE void int8_bands(const int format, const uint8_t *weights, int n, int n_tiles, const uint8_t *x, const int g,
                       const int planes, float *out, ptrdiff_t stride, int accumulate)
{
    const size_t bytes = band_bytes(format, n_tiles);
    const int wide = g >= WIDE_ROWS && format <= W8;
    if (g == MAX_GROUP && !wide)
        return; /* never asked for: expanded_gemm does them all */
    if (wide && n == 4) {
        wide_int8(format, 2, weights, n_tiles, x, g, planes, out, stride, accumulate);
        return;
    }
    for (; wide && n >= 2; n -= 2, weights += 2 * bytes, out += 2 * TILE_ROWS)
        wide_int8(format, 1, weights, n_tiles, x, g, planes, out, stride, accumulate);
    for (; n > 0; n--, weights += bytes, out += TILE_ROWS)
        if (g == planes && (format == W4 || format == W4S))
            one_w4(format, weights, n_tiles, x, planes, out, accumulate);
        else
            narrow_int8(format, weights, n_tiles, x, g, planes, out, stride, accumulate);
}

INLINE void half_bands(const int format, const uint8_t *weights, int n, int n_tiles, const uint8_t *x, const int g,
                       const int planes, float *out, ptrdiff_t stride, int accumulate)
{
    const size_t bytes = (size_t)n_tiles * HALF_BYTES;
    for (; g >= WIDE_ROWS && n >= 2; n -= 2, weights += 2 * bytes, out += 2 * TILE_ROWS)
        wide_half(format, weights, n_tiles, x, g, planes, out, stride, accumulate);
    for (; n > 0; n--, weights += bytes, out += TILE_ROWS)
        narrow_half(format, weights, n_tiles, x, g, planes, out, stride, accumulate);
}

DEFINE_ALL_GEMM(int8_bands, half_bands, 4)

TARGET_END

DEFINE_KERNELS(kernels_avx512vnni, "avx512vnni", usable);
#endif
