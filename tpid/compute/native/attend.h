/* The KV cache and attention over it, included by lanes.h. What reads the cache is compiled twice, for fp16 and for
   int8, by the constant `int8`. */

#define ROWS_TOGETHER (LANES == 8 ? 4 : 8) /* what the registers hold: 16 of 8 lanes, 32 of 4 or 16 */

INLINE const uint16_t *halves_at(const uint8_t *at)
{
    return (const uint16_t *)(const void *)at;
}

/* LANES numbers of the cache, at number `index`. */
INLINE vec load_cached(const uint8_t *at, size_t index, int int8, vec scale)
{
    return int8 ? load_int8(at + index) * scale : load_f16(halves_at(at) + index);
}

/* CACHE_GROUP numbers of a head, or what is left of them, to int8 with a scale in fp16. */
INLINE uint16_t quantize_cached(const float *x, int n, int8_t *q)
{
    float padded[CACHE_GROUP] = {0};
    uint16_t halves[LANES];
    if (n > 0)
        memcpy(padded, x, (size_t)n * sizeof *x);
    store_f16(halves, splat(quantize_group(padded, 1, q, q).scale));
    return halves[0];
}

/* Key or value of a position: number i of the head to `numbers` + i * stride. */
INLINE void store_int8(uint8_t *block, int head_dim, int in_block, const float *x, size_t first, size_t stride)
{
    const size_t row = head_stride(head_dim);
    uint16_t *scales = (uint16_t *)(void *)(block + KEY_BLOCK * row);
    for (size_t i = 0; i < row; i += CACHE_GROUP) {
        const int left = head_dim - (int)i, n = left < CACHE_GROUP ? left : CACHE_GROUP;
        int8_t q[CACHE_GROUP];
        scales[i / CACHE_GROUP * KEY_BLOCK + (size_t)in_block] = quantize_cached(x + i, n, q);
        for (size_t k = 0; k < CACHE_GROUP && i + k < row; k++)
            block[first + (i + k) * stride] = (uint8_t)q[k];
    }
}

INLINE void store_halves(uint8_t *block, int head_dim, const float *x, size_t first, size_t stride)
{
    uint16_t *numbers = (uint16_t *)(void *)block + first;
    for (int i = 0; i < (int)head_stride(head_dim); i += LANES) {
        const int left = head_dim - i, n = left < LANES ? left : LANES;
        float part[LANES] = {0};
        uint16_t halves[LANES];
        if (n > 0)
            memcpy(part, x + i, (size_t)n * sizeof *part);
        store_f16(halves, load(part));
        for (int lane = 0; lane < LANES; lane++)
            numbers[(size_t)(i + lane) * stride] = halves[lane];
    }
}

static void store_cache(const struct cache *cache, int position, const float *key, const float *value)
{
    const int dim = cache->head_dim, in_block = position % KEY_BLOCK;
    const size_t block = (size_t)(position / KEY_BLOCK) * cache_block_bytes(dim, cache->int8);
    const size_t row = (size_t)in_block * head_stride(dim);
    if (cache->int8) {
        store_int8(cache->keys + block, dim, in_block, key, (size_t)in_block, KEY_BLOCK);
        store_int8(cache->values + block, dim, in_block, value, row, 1);
    } else {
        store_halves(cache->keys + block, dim, key, (size_t)in_block, KEY_BLOCK);
        store_halves(cache->values + block, dim, value, row, 1);
    }
}

/* Scores of `n` rows against `blocks` of keys: lanes are positions. Each score is summed up in the same order however
   many rows and blocks go together: that only fills the pipeline. */
INLINE void score_rows(const float *q, const uint8_t *keys, int head_dim, int int8, int n, int blocks, float *scores)
{
    const size_t row = head_stride(head_dim), block_bytes = cache_block_bytes(head_dim, int8);
    for (int part = 0; part < KEY_BLOCK; part += LANES) {
        vec sum[8] = {{0}};
        for (int first = 0; first < head_dim; first += CACHE_GROUP) {
            const int end = head_dim - first < CACHE_GROUP ? head_dim : first + CACHE_GROUP;
            vec scale[4] = {{0}};
            for (int block = 0; int8 && block < blocks; block++)
                scale[block] = load_f16(halves_at(keys + (size_t)block * block_bytes + KEY_BLOCK * row) +
                                        first / CACHE_GROUP * KEY_BLOCK + part);
            for (int i = first; i < end; i++)
                for (int block = 0; block < blocks; block++) {
                    vec k = load_cached(keys + (size_t)block * block_bytes, (size_t)(i * KEY_BLOCK + part), int8,
                                        scale[block]);
                    for (int r = 0; r < n; r++)
                        sum[block * n + r] += k * q[(size_t)r * row + (size_t)i];
                }
        }
        for (int block = 0; block < blocks; block++)
            for (int r = 0; r < n; r++)
                store(scores + r * ATTEND_KEYS + block * KEY_BLOCK + part, sum[block * n + r]);
    }
}

/* result[n] += weights[n][n_keys] x values[n_keys], for `parts` vectors of the head's dimensions from `dim` on;
   scales [groups][ATTEND_KEYS]. */
INLINE void mix_rows(const float *weights, const uint8_t *values, const float *scales, int head_dim, int int8,
                     size_t dim, int n_keys, int n, int parts, float *result)
{
    const size_t row = head_stride(head_dim), block_bytes = cache_block_bytes(head_dim, int8);
    vec sum[8];
    for (int r = 0; r < n; r++)
        for (int part = 0; part < parts; part++)
            sum[r * parts + part] = load(result + (size_t)r * row + dim + part * LANES);
    for (int block = 0; block < n_keys; block += KEY_BLOCK, values += block_bytes)
        for (int key = block; key < block + KEY_BLOCK && key < n_keys; key++)
            for (int part = 0; part < parts; part++) {
                const size_t at = dim + (size_t)part * LANES, group = at / CACHE_GROUP;
                vec v = load_cached(values, (size_t)(key - block) * row + at, int8,
                                    int8 ? splat(scales[group * ATTEND_KEYS + (size_t)key]) : (vec){0});
                for (int r = 0; r < n; r++)
                    sum[r * parts + part] += v * weights[r * ATTEND_KEYS + key];
            }
    for (int r = 0; r < n; r++)
        for (int part = 0; part < parts; part++)
            store(result + (size_t)r * row + dim + part * LANES, sum[r * parts + part]);
}

/* Online softmax (arXiv 1805.02867) over a run of keys: scores become weights, what was summed before is rescaled. */
INLINE void weigh_row(float *scores, int first_key, int n_keys, int from, int to, float *max, float *total,
                      float *result, size_t row)
{
    const float before = *max;
    const int begin = from - first_key, end = to - first_key < n_keys ? to - first_key : n_keys;
    vec largest = splat(before), sums = {0};
    veci key = {0};
    for (int lane = 0; lane < LANES; lane++)
        key[lane] = lane;
    for (int i = 0; i < ATTEND_KEYS; i += LANES, key += LANES) {
        vec score = select_vec((key >= begin) & (key < end), load(scores + i), splat(-INFINITY));
        largest = select_vec(score > largest, score, largest);
        store(scores + i, score);
    }
    *max = max_lane(largest);
    if (*max == -INFINITY) { /* nothing visible yet */
        memset(scores, 0, ATTEND_KEYS * sizeof *scores);
        return;
    }
    for (int i = 0; i < ATTEND_KEYS; i += LANES) {
        vec score = load(scores + i);
        vec weight = select_vec(score == splat(-INFINITY), (vec){0}, exp_vec(score - *max));
        store(scores + i, weight);
        sums += weight;
    }
    float rescale = before == -INFINITY ? 0.0f : expf(before - *max);
    *total = *total * rescale + sum_lanes(sums);
    if (rescale != 1.0f)
        for (size_t i = 0; i < row; i += LANES)
            store(result + i, load(result + i) * rescale);
}

/* Of a run of n_keys keys: all rows' scores. */
INLINE void score_run(const float *q, const uint8_t *keys, int head_dim, int int8, int n_rows, int n_keys,
                      float *scores)
{
    const size_t row = head_stride(head_dim), block_bytes = cache_block_bytes(head_dim, int8);
    const int blocks = ceil_div(n_keys, KEY_BLOCK);
    int r = 0;
    for (; r + ROWS_TOGETHER <= n_rows; r += ROWS_TOGETHER)
        for (int block = 0; block < blocks; block++)
            score_rows(q + (size_t)r * row, keys + (size_t)block * block_bytes, head_dim, int8, ROWS_TOGETHER, 1,
                       scores + r * ATTEND_KEYS + block * KEY_BLOCK);
    for (; r < n_rows; r++) {
        int block = 0;
        for (; block + 4 <= blocks; block += 4)
            score_rows(q + (size_t)r * row, keys + (size_t)block * block_bytes, head_dim, int8, 1, 4,
                       scores + r * ATTEND_KEYS + block * KEY_BLOCK);
        for (; block < blocks; block++)
            score_rows(q + (size_t)r * row, keys + (size_t)block * block_bytes, head_dim, int8, 1, 1,
                       scores + r * ATTEND_KEYS + block * KEY_BLOCK);
    }
}

/* Of the same run: all rows' weighted values. */
INLINE void mix_run(const float *weights, const uint8_t *values, float *scales, int head_dim, int int8, int n_rows,
                    int n_keys, float *result)
{
    const size_t row = head_stride(head_dim), block_bytes = cache_block_bytes(head_dim, int8);
    for (int key = 0; int8 && key < n_keys; key += LANES) {
        const uint8_t *block = values + (size_t)(key / KEY_BLOCK) * block_bytes + KEY_BLOCK * row;
        for (size_t group = 0; group < cache_groups(head_dim); group++)
            store(scales + group * ATTEND_KEYS + key, load_f16(halves_at(block) + group * KEY_BLOCK + key % KEY_BLOCK));
    }
    int r = 0;
    for (; r + ROWS_TOGETHER <= n_rows; r += ROWS_TOGETHER)
        for (size_t i = 0; i < row; i += LANES)
            mix_rows(weights + r * ATTEND_KEYS, values, scales, head_dim, int8, i, n_keys, ROWS_TOGETHER, 1,
                     result + (size_t)r * row);
    for (; r < n_rows; r++) {
        size_t i = 0;
        for (; i + 4 * LANES <= row; i += 4 * LANES)
            mix_rows(weights + r * ATTEND_KEYS, values, scales, head_dim, int8, i, n_keys, 1, 4,
                     result + (size_t)r * row);
        for (; i < row; i += LANES)
            mix_rows(weights + r * ATTEND_KEYS, values, scales, head_dim, int8, i, n_keys, 1, 1,
                     result + (size_t)r * row);
    }
}

INLINE void attend_cache(const struct attend_job *job, float *scratch, int int8)
{
    const int head_dim = job->cache.head_dim;
    const size_t row = head_stride(head_dim), block_bytes = cache_block_bytes(head_dim, int8);
    float *q = scratch, *result = q + ATTEND_ROWS * row, *scores = result + ATTEND_ROWS * row;
    float *scales = scores + ATTEND_ROWS * ATTEND_KEYS, max[ATTEND_ROWS], total[ATTEND_ROWS];
    int from[ATTEND_ROWS] = {0}, to[ATTEND_ROWS] = {0};
    memset(result, 0, ATTEND_ROWS * row * sizeof *result);
    for (int r = 0; r < job->n_rows; r++) {
        int token = (job->first_row + r) / job->heads, head = (job->first_row + r) % job->heads;
        memcpy(q + (size_t)r * row, job->queries + token * job->query_stride + head * head_dim,
               (size_t)head_dim * sizeof *q);
        max[r] = -INFINITY, total[r] = 0;
        to[r] = job->start + token + 1;
        from[r] = job->window && to[r] > job->window ? to[r] - job->window : 0;
    }
    for (int key = from[0] / KEY_BLOCK * KEY_BLOCK; key < to[job->n_rows - 1]; key += ATTEND_KEYS) {
        const size_t at = (size_t)(key / KEY_BLOCK) * block_bytes;
        int n_keys = to[job->n_rows - 1] - key;
        n_keys = n_keys < ATTEND_KEYS ? n_keys : ATTEND_KEYS;
        score_run(q, job->cache.keys + at, head_dim, int8, job->n_rows, n_keys, scores);
        for (int r = 0; r < job->n_rows; r++)
            weigh_row(scores + r * ATTEND_KEYS, key, n_keys, from[r], to[r], max + r, total + r,
                      result + (size_t)r * row, row);
        mix_run(scores, job->cache.values + at, scales, head_dim, int8, job->n_rows, n_keys, result);
    }
    for (int r = 0; r < job->n_rows; r++) {
        int token = (job->first_row + r) / job->heads, head = (job->first_row + r) % job->heads;
        float *out = job->out + token * job->out_stride + head * head_dim;
        for (int i = 0; i < head_dim; i++)
            out[i] = result[(size_t)r * row + (size_t)i] / total[r];
    }
}

static void attend(const struct attend_job *job, float *scratch)
{
    if (job->cache.int8)
        attend_cache(job, scratch, 1);
    else
        attend_cache(job, scratch, 0);
}
