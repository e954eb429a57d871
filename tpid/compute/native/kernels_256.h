/* All kernels of a set with 256-bit vectors, for kernels_avx2.c and kernels_avxvnni.c. */

#define LANES 8
typedef float vec __attribute__((vector_size(32)));
typedef int32_t veci __attribute__((vector_size(32)));

static inline __attribute__((always_inline)) vec load_f16(const uint16_t *from)
{
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

static inline __attribute__((always_inline)) vec load_int8(const uint8_t *from)
{
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
}

static inline __attribute__((always_inline)) void store_f16(uint16_t *to, vec value)
{
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT));
}

#include "lanes.h"
#include "products_256.h"

#define W4_BAND(w, n, tiles, x, g, planes, out, stride, add) narrow_w4(w, tiles, x, g, planes, out, stride, add)
#define W8_BAND(w, n, tiles, x, g, planes, out, stride, add) narrow_w8(w, tiles, x, g, planes, out, stride, add)
#define F16_BAND(w, n, tiles, x, g, planes, out, stride, add) narrow_half(0, w, tiles, x, g, out, stride, add)
#define BF16_BAND(w, n, tiles, x, g, planes, out, stride, add) narrow_half(1, w, tiles, x, g, out, stride, add)

DEFINE_GEMM(gemm_w4, W4_BAND, 1, W4_BYTES, INT8_BYTES)
DEFINE_GEMM(gemm_w8, W8_BAND, 1, W8_BYTES, INT8_BYTES)
DEFINE_GEMM(gemm_f16, F16_BAND, 1, HALF_BYTES, FP32_BYTES)
DEFINE_GEMM(gemm_bf16, BF16_BAND, 1, HALF_BYTES, FP32_BYTES)
