/* Products with 256-bit vectors of x86: one band at a time, lanes are its 8 rows.

   Whoever includes this defines DOT_PRODUCT(sum, unsigned, signed), or nothing for AVX2 alone, and has included
   lanes.h. All for one band:

   narrow_w4, narrow_w8 (weights, n_tiles, activations, g, planes, out, stride, accumulate)
   narrow_half (bf16, weights, n_tiles, activations, g, out, stride, accumulate) */

#define TOGETHER 4 /* rows of activations whose sums fit the 16 registers */
#define PREFETCH_BYTES 8192 /* beyond the page at which the processor's own prefetch stops; 2048 is slower by a fifth */

INLINE __m256i inputs4(const uint8_t *at) /* 4 int8 in all lanes */
{
    int32_t four;
    memcpy(&four, at, 4);
    return _mm256_set1_epi32(four);
}

INLINE __m256 eight_halves(const uint8_t *at)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at));
}

INLINE __m256 number8(const uint8_t *at, int t)
{
    return _mm256_broadcast_ss((const float *)(const void *)at + t);
}

INLINE void prefetch_tile(const uint8_t *at, int bytes)
{
    for (int line = 0; line < bytes; line += 64)
        _mm_prefetch((const char *)at + line, _MM_HINT_T0);
}

INLINE void finish8(float *out, __m256 sum, int accumulate)
{
    _mm256_storeu_ps(out, accumulate ? _mm256_add_ps(_mm256_loadu_ps(out), sum) : sum);
}

/* The sums of rows first to first + n, which are whole tokens. */
INLINE void finish_rows8(const __m256 *sum, int first, int n, int planes, float *out, ptrdiff_t stride, int accumulate)
{
    if (planes == 1 || n == 1) /* a row alone is a token */
        for (int t = 0; t < n; t++)
            finish8(out + (first + t) * stride, sum[t], accumulate);
    else
        for (int t = 0; t < n; t += 2)
            finish8(out + (first + t) / 2 * stride, _mm256_add_ps(sum[t], sum[t + 1]), accumulate);
}

INLINE void w4_rows(const uint8_t *tile, int n_tiles, const uint8_t *x, int g, int first, int n, int planes, float *out,
                    ptrdiff_t stride, int accumulate)
{
    const __m256i low = _mm256_set1_epi8(15);
    __m256 sum[TOGETHER], rest[TOGETHER];
    for (int t = 0; t < n; t++)
        sum[t] = rest[t] = _mm256_setzero_ps();
    for (int i = 0; i < n_tiles; i++, tile += W4_BYTES, x += g * INT8_BYTES) {
        __m256i dot[TOGETHER];
        prefetch_tile(tile + PREFETCH_BYTES, W4_BYTES);
        for (int t = 0; t < n; t++)
            dot[t] = _mm256_setzero_si256();
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m256i both = _mm256_loadu_si256((const __m256i *)(tile + 32 + 32 * j));
            __m256i w0 = _mm256_and_si256(both, low), w1 = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
#pragma GCC unroll 4
            for (int t = 0; t < n; t++) {
                __m256i x0 = inputs4(x + (first + t) * 32 + 8 * j), x1 = inputs4(x + (first + t) * 32 + 8 * j + 4);
#ifdef DOT_PRODUCT
                dot[t] = DOT_PRODUCT(DOT_PRODUCT(dot[t], w0, x0), w1, x1);
#else
                /* 16 products of 15 * 127 at most: no overflow of 16 bits in a tile. */
                dot[t] = _mm256_add_epi16(dot[t], _mm256_maddubs_epi16(w0, x0));
                dot[t] = _mm256_add_epi16(dot[t], _mm256_maddubs_epi16(w1, x1));
#endif
            }
        }
        __m256 scale = eight_halves(tile), minimum = eight_halves(tile + 16);
#pragma GCC unroll 4
        for (int t = 0; t < n; t++) {
#ifndef DOT_PRODUCT
            dot[t] = _mm256_madd_epi16(dot[t], _mm256_set1_epi16(1));
#endif
            __m256 scaled = _mm256_mul_ps(scale, number8(x + INT8_SCALE(g), first + t));
            __m256 *minimums = n == 1 ? rest : sum; /* a second chain where there is but one row */
            sum[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[t]), scaled, sum[t]);
            minimums[t] = _mm256_fmadd_ps(minimum, number8(x + INT8_SUM(g), first + t), minimums[t]);
        }
    }
    if (n == 1)
        sum[0] = _mm256_add_ps(sum[0], rest[0]);
    finish_rows8(sum, first, n, planes, out, stride, accumulate);
}

INLINE void w8_rows(const uint8_t *tile, int n_tiles, const uint8_t *x, int g, int first, int n, int planes, float *out,
                    ptrdiff_t stride, int accumulate)
{
    __m256 sum[TOGETHER];
    for (int t = 0; t < n; t++)
        sum[t] = _mm256_setzero_ps();
    for (int i = 0; i < n_tiles; i++, tile += W8_BYTES, x += g * INT8_BYTES) {
        __m256i dot[TOGETHER];
        prefetch_tile(tile + PREFETCH_BYTES, W8_BYTES);
        for (int t = 0; t < n; t++)
#ifdef DOT_PRODUCT
            dot[t] = inputs4(x + INT8_OFFSET(g) + (first + t) * 4);
#else
            dot[t] = _mm256_setzero_si256();
#endif
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            __m256i w = _mm256_loadu_si256((const __m256i *)(tile + 16 + 32 * j));
#ifdef DOT_PRODUCT
            /* Unsigned x signed: the weights are taken plus 128, and `offset` takes that back. */
            __m256i moved = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
#else
            __m256i absolute = _mm256_abs_epi8(w);
#endif
#pragma GCC unroll 4
            for (int t = 0; t < n; t++) {
                __m256i four = inputs4(x + (first + t) * 32 + 4 * j);
#ifdef DOT_PRODUCT
                dot[t] = DOT_PRODUCT(dot[t], moved, four);
#else
                __m256i pairs = _mm256_maddubs_epi16(absolute, _mm256_sign_epi8(four, w));
                dot[t] = _mm256_add_epi32(dot[t], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
            }
        }
        __m256 scale = eight_halves(tile);
#pragma GCC unroll 4
        for (int t = 0; t < n; t++)
            sum[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[t]),
                                     _mm256_mul_ps(scale, number8(x + INT8_SCALE(g), first + t)), sum[t]);
    }
    finish_rows8(sum, first, n, planes, out, stride, accumulate);
}

INLINE __m256 half_row8(int bf16, const uint8_t *at)
{
    __m128i halves = _mm_loadu_si128((const __m128i *)at);
    return bf16 ? _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16)) : _mm256_cvtph_ps(halves);
}

INLINE void narrow_half(int bf16, const uint8_t *tile, int n_tiles, const uint8_t *x, const int g, float *out,
                      ptrdiff_t stride, int accumulate)
{
    const int chains = g == 1 ? 4 : g == 2 ? 2 : 1; /* enough sums under way to hide the latency of an FMA */
    __m256 sum[MAX_GROUP];
    for (int s = 0; s < g * chains; s++)
        sum[s] = _mm256_setzero_ps();
    for (int i = 0; i < n_tiles; i++, tile += HALF_BYTES, x += g * FP32_BYTES) {
        prefetch_tile(tile + PREFETCH_BYTES, HALF_BYTES);
        for (int j = 0; j < 32; j += 4)
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) {
                __m256 w = half_row8(bf16, tile + 16 * (j + k)), *to = sum + k % chains * g;
#pragma GCC unroll 8
                for (int t = 0; t < g; t++)
                    to[t] = _mm256_fmadd_ps(w, number8(x, t * 32 + j + k), to[t]);
            }
    }
    for (int t = 0; t < g; t++) {
        for (int chain = 1; chain < chains; chain++)
            sum[t] = _mm256_add_ps(sum[t], sum[chain * g + t]);
        finish8(out + t * stride, sum[t], accumulate);
    }
}

INLINE void narrow_w4(const uint8_t *w, int n_tiles, const uint8_t *x, const int g, int planes, float *out,
                    ptrdiff_t stride, int accumulate)
{
    for (int first = 0; first < g; first += TOGETHER)
        w4_rows(w, n_tiles, x, g, first, g < TOGETHER ? g : TOGETHER, planes, out, stride, accumulate);
}

INLINE void narrow_w8(const uint8_t *w, int n_tiles, const uint8_t *x, const int g, int planes, float *out,
                    ptrdiff_t stride, int accumulate)
{
    for (int first = 0; first < g; first += TOGETHER)
        w8_rows(w, n_tiles, x, g, first, g < TOGETHER ? g : TOGETHER, planes, out, stride, accumulate);
}
