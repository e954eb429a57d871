/* Products of many rows of activations with AVX-512 VNNI. The packed weights of 4 bands (32 rows) and 16 tiles are
   written out once, as bytes and fp32 scales that stay in the first-level cache, and then meet all rows of activations.

   Sums are formed in the same order as elsewhere, so that many tokens and one give the same bits.

   Included by kernels_avx512vnni.c after products_256.h. */

#define EXPANDED_TILES 16 /* 24 KiB with two pairs of bands */
#define EXPANDED_PAIRS 2
#define EXPANDED_ROWS (4 * MAX_GROUP) /* fewer rows of activations do not pay where unpacking is cheap */

/* A tile of two bands: lanes are their 16 rows. */
struct expanded {
    __m512i w[8]; /* unsigned: codes, or int8 plus 128 */
    __m512 scale[2], minimum[2];
};

/* As bits_of, of two bands. */
INLINE __m512i bits_of_pair(const int bits, const struct pair *pair, const int plane, const int k, const int to)
{
    const int move = plane_shift(bits, k) - to;
    __m512i all = quants(pair, plane + 32 * plane_vector(bits, k));
    all = move > 0 ? _mm512_srli_epi16(all, (unsigned)move) : move < 0 ? _mm512_slli_epi16(all, (unsigned)-move) : all;
    return _mm512_and_si512(all, _mm512_set1_epi8((char)(((1 << bits) - 1) << to)));
}

INLINE __m512i weights_of_pair(const int format, const struct pair *pair, const int k)
{
    const int low = codings[format].low_bits, high = codings[format].high_bits;
    __m512i w = low == 8 ? quants(pair, quants_at(format) + 32 * k) : bits_of_pair(low, pair, quants_at(format), k, 0);
    if (high)
        w = _mm512_or_si512(w, bits_of_pair(high, pair, high_at(format), k, low));
    if (codings[format].codebook)
        w = _mm512_shuffle_epi8(_mm512_broadcast_i64x4(codebook_of(format)), w);
    return as_codes(format) ? w : _mm512_xor_si512(w, _mm512_set1_epi8(-128));
}

INLINE __m512 joined(__m256 a, __m256 b)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(a), b, 1);
}

/* Tiles first to first + n of two bands. */
INLINE void expand(const int format, const struct pair *bands, const int n_tiles, int first, int n, struct expanded *to)
{
    const int bytes = tile_bytes(format), of_factors = factor_bytes(format), run = run_tiles(format, n_tiles);
    __m256 factors[2][2] = {{_mm256_setzero_ps()}};
    for (int i = first; i < first + n; i++, to++) {
        size_t at = (size_t)i * (size_t)bytes;
        if (of_factors) {
            at += (size_t)(i / run) * (size_t)of_factors;
            const size_t head = at - (size_t)(i % run) * (size_t)bytes;
            if (i % run == 0 || i == first) {
                read_factors(format, bands->a + head, factors[0]);
                read_factors(format, bands->b + head, factors[1]);
            }
            at += (size_t)of_factors;
        }
        const struct pair tile = {bands->a + at, bands->b + at};
        const struct scales8 a = read_scales(format, tile.a, factors[0]), b = read_scales(format, tile.b, factors[1]);
        prefetch_tile(tile.a + PREFETCH_BYTES, bytes);
        prefetch_tile(tile.b + PREFETCH_BYTES, bytes);
        for (int h = 0; h < codings[format].per_tile; h++) {
            to->scale[h] = joined(a.scale[h], b.scale[h]);
            if (takes_sums(format))
                to->minimum[h] = joined(a.minimum[h], b.minimum[h]);
        }
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++)
            to->w[k] = weights_of_pair(format, &tile, k);
    }
}

/* One part of a tile, all 32 inputs or 16 of them, with the token that begins at row t of a group: sum[p] += products. */
INLINE void expanded_part(const int format, const struct expanded *const *tile, const int h, const uint8_t *x,
                          const int t, const int planes, __m512 *sum)
{
    const int last = t + planes - 1, parts = codings[format].per_tile, zero = codings[format].zero;
    const int first = h * 8 / parts, end = first + 8 / parts;
    __m512i start = _mm512_setzero_si512();
    if (!as_codes(format))
        start = whole(x + INT8_OFFSET(MAX_GROUP) + 4 * last);
    else if (parts == 1 && zero)
        start = _mm512_srai_epi32(whole(x + INT8_OFFSET(MAX_GROUP) + 4 * last), (unsigned)zero_shift(zero));
    __m512i dot[2] = {start, start}, coarse[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
#pragma GCC unroll 8
    for (int k = first; k < end; k++) {
        const __m512i four = whole(x + last * 32 + 4 * k), coarse_four = whole(x + t * 32 + 4 * k);
        for (int p = 0; p < EXPANDED_PAIRS; p++) {
            dot[p] = _mm512_dpbusd_epi32(dot[p], tile[p]->w[k], four);
            if (planes == 2)
                coarse[p] = _mm512_dpbusd_epi32(coarse[p], tile[p]->w[k], coarse_four);
        }
    }
    for (int p = 0; p < EXPANDED_PAIRS; p++) {
        if (planes == 2)
            dot[p] = _mm512_add_epi32(dot[p], _mm512_slli_epi32(coarse[p], PLANE_BITS));
        const __m512 scaled = _mm512_mul_ps(tile[p]->scale[h], number(x + INT8_SCALE(MAX_GROUP) + 4 * last));
        sum[p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[p]), scaled, sum[p]);
    }
}

INLINE void expanded_minimums(const int format, const struct expanded *const *tile, const uint8_t *x, const int last,
                              __m512 *sum)
{
    if (!takes_sums(format))
        return;
    const int two = codings[format].per_tile == 2;
    for (int p = 0; p < EXPANDED_PAIRS; p++) {
        const __m512 first = number(x + (two ? INT8_LOW_SUM(MAX_GROUP) : INT8_SUM(MAX_GROUP)) + 4 * last);
        sum[p] = _mm512_fmadd_ps(tile[p]->minimum[0], first, sum[p]);
        if (two)
            sum[p] = _mm512_fmadd_ps(tile[p]->minimum[1], number(x + INT8_SUM(MAX_GROUP) + 4 * last), sum[p]);
    }
}

/* n tiles with a group of 8 rows of activations: sums [token][pair][16] go on from what they were. */
INLINE void expanded_group(const int format, const struct expanded *tiles, int n, const uint8_t *x, const int planes,
                           float *sums)
{
    __m512 sum[MAX_GROUP][EXPANDED_PAIRS];
    for (int t = 0; t < MAX_GROUP / planes; t++)
        for (int p = 0; p < EXPANDED_PAIRS; p++)
            sum[t][p] = _mm512_loadu_ps(sums + 16 * (EXPANDED_PAIRS * t + p));
    for (int i = 0; i < n; i++, x += MAX_GROUP * INT8_BYTES) {
        const struct expanded *tile[EXPANDED_PAIRS] = {tiles + i, tiles + EXPANDED_TILES + i};
#pragma GCC unroll 8
        for (int t = 0; t < MAX_GROUP; t += planes) {
#pragma GCC unroll 2
            for (int h = 0; h < codings[format].per_tile; h++)
                expanded_part(format, tile, h, x, t, planes, sum[t / planes]);
            expanded_minimums(format, tile, x, t + planes - 1, sum[t / planes]);
        }
    }
    for (int t = 0; t < MAX_GROUP / planes; t++)
        for (int p = 0; p < EXPANDED_PAIRS; p++)
            _mm512_storeu_ps(sums + 16 * (EXPANDED_PAIRS * t + p), sum[t][p]);
}

/* Formats whose expanded tiles are alike share a function; it is named by one of them. */
typedef void group_fn(const struct expanded *tiles, int n, const uint8_t *x, int planes, float *sums);

#define DEFINE_GROUP(NAME, FORMAT)                                                                                 \
    static void NAME(const struct expanded *tiles, int n, const uint8_t *x, int planes, float *sums)               \
    {                                                                                                              \
        if (planes == 2)                                                                                           \
            expanded_group(FORMAT, tiles, n, x, 2, sums);                                                          \
        else                                                                                                       \
            expanded_group(FORMAT, tiles, n, x, 1, sums);                                                          \
    }

DEFINE_GROUP(group_plain_minimum, W4)
DEFINE_GROUP(group_zero_8, W4S)
DEFINE_GROUP(group_zero_16, Q5_0)
DEFINE_GROUP(group_signed, W8)
DEFINE_GROUP(group_two_scales, Q6_K)

INLINE group_fn *group_of(const int format)
{
    if (!as_codes(format))
        return group_signed;
    if (codings[format].per_tile == 2)
        return group_two_scales;
    return codings[format].zero == 8 ? group_zero_8 : codings[format].zero == 16 ? group_zero_16 : group_plain_minimum;
}

/* `n` bands, 4 at most, with all rows of activations of a chunk of tokens, groups of 8. */
INLINE void expanded_chunk(const int format, const uint8_t *weights, int n, int n_tiles, const uint8_t *x, int n_rows,
                           int planes, float *out, ptrdiff_t stride, int accumulate)
{
    const size_t of_band = band_bytes(format, n_tiles), group_bytes = (size_t)n_tiles * MAX_GROUP * INT8_BYTES;
    struct expanded tiles[EXPANDED_PAIRS * EXPANDED_TILES];
    float sums[CHUNK_TOKENS][EXPANDED_PAIRS * 16];
    const int n_tokens = n_rows / planes, last = n - 1;
    memset(sums, 0, (size_t)n_tokens * sizeof *sums);
    for (int first = 0; first < n_tiles; first += EXPANDED_TILES) {
        const int some = n_tiles - first < EXPANDED_TILES ? n_tiles - first : EXPANDED_TILES;
        for (int p = 0; p < EXPANDED_PAIRS; p++) { /* in the place of bands that are not there is the last one */
            const int a = 2 * p < last ? 2 * p : last, b = 2 * p + 1 < last ? 2 * p + 1 : last;
            const struct pair pair = {weights + (size_t)a * of_band, weights + (size_t)b * of_band};
            expand(format, &pair, n_tiles, first, some, tiles + p * EXPANDED_TILES);
        }
        const uint8_t *at = x + (size_t)first * MAX_GROUP * INT8_BYTES;
        for (int row = 0; row < n_rows; row += MAX_GROUP, at += group_bytes)
            group_of(format)(tiles, some, at, planes, sums[row / planes]);
    }
    for (int token = 0; token < n_tokens; token++)
        for (int band = 0; band < n; band++)
            finish8(out + token * stride + band * TILE_ROWS, _mm256_loadu_ps(sums[token] + band * TILE_ROWS), accumulate);
}

/* Multiplies whole groups of rows of activations, if there are enough of them to pay; gives how many rows it has done. */
INLINE int expanded_gemm(const int format, const uint8_t *weights, int n_tiles, int n_bands, const uint8_t *x,
                         int n_tokens, int planes, float *out, ptrdiff_t stride, int accumulate)
{
    const int done = n_tokens * planes / MAX_GROUP * MAX_GROUP, chunk = CHUNK_TOKENS * planes;
    const size_t bands_bytes = 2 * EXPANDED_PAIRS * band_bytes(format, n_tiles);
    if (is_half(format) || n_tokens * planes < (format <= W8 ? EXPANDED_ROWS : MAX_GROUP))
        return 0;
    for (int band = 0; band < n_bands; band += 2 * EXPANDED_PAIRS, weights += bands_bytes) {
        const int n = n_bands - band < 2 * EXPANDED_PAIRS ? n_bands - band : 2 * EXPANDED_PAIRS;
        for (int row = 0; row < done; row += chunk)
            expanded_chunk(format, weights, n, n_tiles, x + (size_t)row * (size_t)n_tiles * INT8_BYTES,
                           done - row < chunk ? done - row : chunk, planes,
                           out + row / planes * stride + band * TILE_ROWS, stride, accumulate);
    }
    return done;
}
