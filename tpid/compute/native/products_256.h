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

/* Are weights codes that an unsigned product takes as they are? Else they are int8, and such a product takes them plus
   128. */
INLINE int as_codes(const int format)
{
    return !has_signs(format);
}

/* What a product of unsigned weights has too much, taken back beforehand. */
INLINE __m256i start_of(const int format, const uint8_t *offset)
{
    const int zero = codings[format].zero;
#ifdef DOT_PRODUCT
    if (!as_codes(format))
        return inputs4(offset);
#endif
    if (codings[format].per_tile == 2 || !zero)
        return _mm256_setzero_si256();
    return _mm256_srai_epi32(inputs4(offset), zero_shift(zero));
}

/* From a plane of b bits the codes of 4k to 4k + 3, moved to bit `to` of their bytes. */
INLINE __m256i bits_of(const int bits, const uint8_t *plane, const int k, const int to)
{
    const int move = plane_shift(bits, k) - to;
    __m256i all = _mm256_loadu_si256((const __m256i *)(plane + 32 * plane_vector(bits, k)));
    all = move > 0 ? _mm256_srli_epi16(all, move) : move < 0 ? _mm256_slli_epi16(all, -move) : all;
    return _mm256_and_si256(all, _mm256_set1_epi8((char)(((1 << bits) - 1) << to)));
}

INLINE __m256i codebook_of(const int format)
{
    const void *codes = codings[format].codebook == IQ4_CODES ? iq4_codes : e2m1_codes;
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)codes));
}

/* The weights of a tile's inputs 4k to 4k + 3, as the dot product takes them. */
INLINE __m256i weights4(const int format, const uint8_t *tile, const int k)
{
    const int low = codings[format].low_bits, high = codings[format].high_bits;
    __m256i w;
    if (low == 8)
        w = _mm256_loadu_si256((const __m256i *)(tile + quants_at(format) + 32 * k));
    else
        w = bits_of(low, tile + quants_at(format), k, 0);
    if (high)
        w = _mm256_or_si256(w, bits_of(high, tile + high_at(format), k, low));
    if (codings[format].codebook)
        w = _mm256_shuffle_epi8(codebook_of(format), w);
#ifdef DOT_PRODUCT
    if (!as_codes(format))
        w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
#endif
    return w;
}

#ifndef DOT_PRODUCT
/* Vectors of codes whose products are summed in 16 bits: two of each make 2 * 127 * (2^bits - 1) at most. */
INLINE int in_16_bits(const int format)
{
    return code_bits(format) <= 4 ? 8 : code_bits(format) == 5 ? 4 : 2;
}
#endif

/* dot = the products of a tile's inputs from 4 first on, 4 n of them, with `rows` rows of activations. */
INLINE void dot_rows(const int format, const uint8_t *tile, const uint8_t *x, const int first, const int n,
                     const int rows, __m256i *dot)
{
    for (int t = 0; t < rows; t++)
        dot[t] = _mm256_setzero_si256();
#ifdef DOT_PRODUCT
#pragma GCC unroll 8
    for (int k = first; k < first + n; k++) {
        const __m256i w = weights4(format, tile, k);
#pragma GCC unroll 4
        for (int t = 0; t < rows; t++)
            dot[t] = DOT_PRODUCT(dot[t], w, inputs4(x + t * 32 + 4 * k));
    }
#else
    const __m256i ones = _mm256_set1_epi16(1);
    if (as_codes(format)) {
        const int step = in_16_bits(format) < n ? in_16_bits(format) : n;
#pragma GCC unroll 4
        for (int from = first; from < first + n; from += step) {
            __m256i part[TOGETHER];
            for (int t = 0; t < rows; t++)
                part[t] = _mm256_setzero_si256();
#pragma GCC unroll 8
            for (int k = from; k < from + step; k++) {
                const __m256i w = weights4(format, tile, k);
#pragma GCC unroll 4
                for (int t = 0; t < rows; t++)
                    part[t] = _mm256_add_epi16(part[t], _mm256_maddubs_epi16(w, inputs4(x + t * 32 + 4 * k)));
            }
            for (int t = 0; t < rows; t++)
                dot[t] = _mm256_add_epi32(dot[t], _mm256_madd_epi16(part[t], ones));
        }
        return;
    }
#pragma GCC unroll 8
    for (int k = first; k < first + n; k++) {
        const __m256i w = weights4(format, tile, k);
#pragma GCC unroll 4
        for (int t = 0; t < rows; t++) {
            __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(inputs4(x + t * 32 + 4 * k), w));
            dot[t] = _mm256_add_epi32(dot[t], _mm256_madd_epi16(pairs, ones));
        }
    }
#endif
}

/* Of a tile's 8 rows; of the first and second 16 inputs where there are two. The first minimum is then the difference
   to the second, which meets all inputs. */
struct scales8 {
    __m256 scale[2], minimum[2];
};

INLINE __m256 whole8(__m256i numbers)
{
    return _mm256_cvtepi32_ps(numbers);
}

INLINE __m256i bytes8(const uint8_t *at)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)at));
}

/* factors: of scales, and minus those of minimums. */
INLINE struct scales8 read_scales(const int format, const uint8_t *tile, const __m256 *factors)
{
    const struct coding *coding = &codings[format];
    struct scales8 s = {0};
    if (coding->scales == HALVES) {
        s.scale[0] = eight_halves(tile);
        if (coding->minimum)
            s.minimum[0] = eight_halves(tile + 16);
    } else if (coding->scales == SIXES) {
        const __m256i both = bytes8(tile), places = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
        const __m256i nibbles = _mm256_and_si256(_mm256_srlv_epi32(inputs4(tile + 8), places), _mm256_set1_epi32(15));
        const __m256i first = _mm256_and_si256(both, _mm256_set1_epi32(63));
        const __m256i second = _mm256_or_si256(_mm256_srli_epi32(both, 6), _mm256_slli_epi32(nibbles, 2));
        if (coding->minimum) {
            s.scale[0] = _mm256_mul_ps(whole8(first), factors[0]);
            s.minimum[0] = _mm256_mul_ps(whole8(second), factors[1]);
        } else {
            const __m256i zero = _mm256_set1_epi32(32);
            s.scale[0] = _mm256_mul_ps(whole8(_mm256_sub_epi32(first, zero)), factors[0]);
            s.scale[1] = _mm256_mul_ps(whole8(_mm256_sub_epi32(second, zero)), factors[0]);
        }
    } else if (coding->scales == EXPONENTS) {
        const __m256i bits = _mm256_sub_epi32(_mm256_max_epi32(bytes8(tile), _mm256_set1_epi32(1)), _mm256_set1_epi32(1));
        s.scale[0] = _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23));
    } else
        for (int h = 0; h < coding->per_tile; h++) {
            const __m256i byte = bytes8(tile + 8 * h);
            if (coding->scales == BYTES) {
                const __m128i at = _mm_loadl_epi64((const __m128i *)(tile + 8 * h));
                s.scale[h] = _mm256_mul_ps(whole8(_mm256_cvtepi8_epi32(at)), factors[0]);
                continue;
            }
            s.scale[h] = _mm256_mul_ps(whole8(_mm256_and_si256(byte, _mm256_set1_epi32(15))), factors[0]);
            s.minimum[h] = _mm256_mul_ps(whole8(_mm256_srli_epi32(byte, 4)), factors[1]);
        }
    if (coding->per_tile == 2) {
        const __m256 zero = _mm256_set1_ps(-(float)coding->zero);
        for (int h = 0; h < 2 && !coding->minimum; h++)
            s.minimum[h] = _mm256_mul_ps(s.scale[h], zero);
        s.minimum[0] = _mm256_sub_ps(s.minimum[0], s.minimum[1]);
    }
    return s;
}

INLINE void read_factors(const int format, const uint8_t *run, __m256 *factors)
{
    if (codings[format].factors)
        factors[0] = eight_halves(run);
    if (codings[format].factors == 2)
        factors[1] = _mm256_xor_ps(eight_halves(run + 16), _mm256_set1_ps(-0.0f));
}

/* sum += what the minimums, and zeros of two scales, add to token `number` of g. */
INLINE __m256 add_minimums(const int format, __m256 sum, const struct scales8 *s, const uint8_t *x, const int g,
                           const int number)
{
    if (!takes_sums(format))
        return sum;
    if (codings[format].per_tile == 1)
        return _mm256_fmadd_ps(s->minimum[0], number8(x + INT8_SUM(g), number), sum);
    sum = _mm256_fmadd_ps(s->minimum[0], number8(x + INT8_LOW_SUM(g), number), sum);
    return _mm256_fmadd_ps(s->minimum[1], number8(x + INT8_SUM(g), number), sum);
}

/* The products of one tile with rows first to first + n of g rows of activations. */
INLINE void tile_rows(const int format, const uint8_t *tile, const __m256 *factors, const uint8_t *x, const int g,
                      const int first, const int n, const int planes, __m256 *sum)
{
    const int halves = codings[format].per_tile;
    const struct scales8 s = read_scales(format, tile, factors);
#pragma GCC unroll 2
    for (int h = 0; h < halves; h++) {
        __m256i dot[TOGETHER];
        dot_rows(format, tile, x + first * 32, h * 8 / halves, 8 / halves, n, dot);
#pragma GCC unroll 4
        for (int t = 0; t < n; t += planes) {
            const int last = t + planes - 1, number = first + last;
            __m256i whole = _mm256_add_epi32(dot[last], start_of(format, x + INT8_OFFSET(g) + 4 * number));
            if (planes == 2)
                whole = _mm256_add_epi32(whole, _mm256_slli_epi32(dot[t], PLANE_BITS));
            const __m256 scaled = _mm256_mul_ps(s.scale[h], number8(x + INT8_SCALE(g), number));
            sum[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), scaled, sum[t]);
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < n; t += planes)
        sum[t] = add_minimums(format, sum[t], &s, x, g, first + t + planes - 1);
}

INLINE void int8_rows(const int format, const uint8_t *tile, int n_tiles, const uint8_t *x, const int g,
                      const int first, const int n, const int planes, float *out, ptrdiff_t stride, int accumulate)
{
    const int bytes = tile_bytes(format), run = run_tiles(format, n_tiles);
    __m256 sum[TOGETHER], factors[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int t = 0; t < n; t++)
        sum[t] = _mm256_setzero_ps();
    for (int left = n_tiles; left > 0; left -= run) {
        read_factors(format, tile, factors);
        tile += factor_bytes(format);
        for (int i = 0; i < run; i++, tile += bytes, x += g * INT8_BYTES) {
            prefetch_tile(tile + PREFETCH_BYTES, bytes);
            tile_rows(format, tile, factors, x, g, first, n, planes, sum);
        }
    }
    for (int t = 0; t < n; t += planes)
        finish8(out + (first + t) / planes * stride, sum[t], accumulate);
}

INLINE void narrow_int8(const int format, const uint8_t *w, int n_tiles, const uint8_t *x, const int g,
                        const int planes, float *out, ptrdiff_t stride, int accumulate)
{
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
