/* Products with 256-bit vectors of x86: one band at a time, lanes are its 8 rows.

   Whoever includes this defines DOT_PRODUCT(sum, unsigned, signed), or nothing for AVX2 alone, and has included
   lanes.h. For one band, where format, g and planes are constants:

   narrow_int8, narrow_half (format, weights, n_tiles, activations, g, planes, out, stride, accumulate) */

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

/* What a product of unsigned weights has too much, taken back beforehand. */
INLINE __m256i start_of(const int format, const uint8_t *offset)
{
#ifdef DOT_PRODUCT
    if (format == W8)
        return inputs4(offset);
#endif
    return format == W4S ? _mm256_srai_epi32(inputs4(offset), 4) : _mm256_setzero_si256();
}

/* sum += products of 4 inputs of each row. AVX2 alone: those of 4-bit weights are summed in 16 bits, which 16 products
   of 15 * 127 do not leave; a tile has no more of them. */
INLINE __m256i dot4(const int format, __m256i sum, __m256i w, __m256i x)
{
#ifdef DOT_PRODUCT
    /* Unsigned x signed: 8-bit weights are taken plus 128. */
    return DOT_PRODUCT(sum, format == W8 ? _mm256_xor_si256(w, _mm256_set1_epi8(-128)) : w, x);
#else
    if (format != W8)
        return _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x));
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}

INLINE __m256i whole_dot(const int format, __m256i sum)
{
#ifdef DOT_PRODUCT
    (void)format;
    return sum;
#else
    return format == W8 ? sum : _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
#endif
}

/* The products of one tile with rows first to first + n of activations. */
INLINE void dot_rows(const int format, const uint8_t *quants, const uint8_t *x, const int n, __m256i *dot)
{
    const __m256i low = _mm256_set1_epi8(15);
    for (int t = 0; t < n; t++)
        dot[t] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        __m256i w = _mm256_loadu_si256((const __m256i *)(quants + 32 * (format == W8 ? j : j / 2)));
        if (format != W8)
            w = _mm256_and_si256(j % 2 ? _mm256_srli_epi16(w, 4) : w, low);
#pragma GCC unroll 4
        for (int t = 0; t < n; t++)
            dot[t] = dot4(format, dot[t], w, inputs4(x + t * 32 + 4 * j));
    }
    for (int t = 0; t < n; t++)
        dot[t] = whole_dot(format, dot[t]);
}

INLINE void int8_rows(const int format, const uint8_t *tile, int n_tiles, const uint8_t *x, const int g,
                      const int first, const int n, const int planes, float *out, ptrdiff_t stride, int accumulate)
{
    const int bytes = tile_bytes(format);
    __m256 sum[TOGETHER];
    for (int t = 0; t < n; t++)
        sum[t] = _mm256_setzero_ps();
    for (int i = 0; i < n_tiles; i++, tile += bytes, x += g * INT8_BYTES) {
        __m256i dot[TOGETHER];
        prefetch_tile(tile + PREFETCH_BYTES, bytes);
        dot_rows(format, tile + quants_at(format), x + first * 32, n, dot);
        const __m256 scale = eight_halves(tile);
#pragma GCC unroll 4
        for (int t = 0; t < n; t += planes) {
            const int last = t + planes - 1, number = first + last;
            __m256i whole = _mm256_add_epi32(dot[last], start_of(format, x + INT8_OFFSET(g) + 4 * number));
            if (planes == 2)
                whole = _mm256_add_epi32(whole, _mm256_slli_epi32(dot[t], PLANE_BITS));
            __m256 scaled = _mm256_mul_ps(scale, number8(x + INT8_SCALE(g), number));
            sum[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), scaled, sum[t]);
            if (format == W4)
                sum[t] = _mm256_fmadd_ps(eight_halves(tile + 16), number8(x + INT8_SUM(g), number), sum[t]);
        }
    }
    for (int t = 0; t < n; t += planes)
        finish8(out + (first + t) / planes * stride, sum[t], accumulate);
}

INLINE void narrow_int8(const int format, const uint8_t *w, int n_tiles, const uint8_t *x, const int g,
                        const int planes, float *out, ptrdiff_t stride, int accumulate)
{
#pragma GCC unroll 2
    for (int first = 0; first < g; first += TOGETHER)
        int8_rows(format, w, n_tiles, x, g, first, g < TOGETHER ? g : TOGETHER, planes, out, stride, accumulate);
}

INLINE __m256 half_row8(const int format, const uint8_t *at)
{
    __m128i halves = _mm_loadu_si128((const __m128i *)at);
    return format == BF16 ? _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16)) : _mm256_cvtph_ps(halves);
}

INLINE void narrow_half(const int format, const uint8_t *tile, int n_tiles, const uint8_t *x, const int g, int planes,
                        float *out, ptrdiff_t stride, int accumulate)
{
    (void)planes;
    const int chains = g == 1 ? 4 : g == 2 ? 2 : 1; /* enough sums under way to hide the latency of an FMA */
    __m256 sum[MAX_GROUP];
    for (int s = 0; s < g * chains; s++)
        sum[s] = _mm256_setzero_ps();
    for (int i = 0; i < n_tiles; i++, tile += HALF_BYTES, x += g * FP32_BYTES) {
        prefetch_tile(tile + PREFETCH_BYTES, HALF_BYTES);
        for (int j = 0; j < 32; j += 4)
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) {
                __m256 w = half_row8(format, tile + 16 * (j + k)), *to = sum + k % chains * g;
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
