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

#define INT8_BAND(format, w, n, tiles, x, g, planes, out, stride, add)                                             \
    narrow_int8(format, w, tiles, x, g, planes, out, stride, add)
#define HALF_BAND(format, w, n, tiles, x, g, planes, out, stride, add)                                             \
    narrow_half(format, w, tiles, x, g, planes, out, stride, add)

DEFINE_ALL_GEMM(INT8_BAND, HALF_BAND, 1)
