/* Attention over the KV cache, included by lanes.h. What reads the cache is compiled twice, for fp16 and for int8, by
   the constant `int8`. */

#define ROWS_TOGETHER (LANES == 8 ? 4 : 8) /* what the registers hold: 16 of 8 lanes, 32 of 4 or 16 */

/* What keys are read from: the cache, or scratch where they are floats. */
enum key_kind { KEYS_F16, KEYS_INT8, KEYS_F32 };

INLINE size_t key_block_bytes(int head_dim, const enum key_kind kind)
{
    return kind == KEYS_F32 ? 4 * KEY_BLOCK * head_stride(head_dim) : cache_block_bytes(head_dim, kind == KEYS_INT8);
}

INLINE vec load_key(const uint8_t *block, size_t at, vec scale, const enum key_kind kind)
{
    return kind == KEYS_F32 ? load((const float *)(const void *)block + at)
                            : load_cached(block, at, kind == KEYS_INT8, scale);
}

/* Scores of `n` rows against `blocks` of keys: lanes are positions. Each score is summed up in the same order however
   many rows and blocks go together: that only fills the pipeline. */
INLINE void score_rows(const float *q, const uint8_t *keys, int head_dim, const enum key_kind kind, const int n,
                       const int blocks, float *scores)
{
    const size_t row = head_stride(head_dim), block_bytes = key_block_bytes(head_dim, kind);
    for (int part = 0; part < KEY_BLOCK; part += LANES) {
        vec sum[8] = {{0}};
        for (int first = 0; first < head_dim; first += CACHE_GROUP) {
            const int end = head_dim - first < CACHE_GROUP ? head_dim : first + CACHE_GROUP;
            vec scale[4] = {{0}};
            for (int block = 0; kind == KEYS_INT8 && block < blocks; block++)
                scale[block] = load_f16(scales_at(keys + (size_t)block * block_bytes, row) +
                                        first / CACHE_GROUP * KEY_BLOCK + part);
            for (int i = first; i < end; i++)
                for (int block = 0; block < blocks; block++) {
                    vec k = load_key(keys + (size_t)block * block_bytes, (size_t)(i * KEY_BLOCK + part), scale[block],
                                     kind);
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

/* Scores s become c * tanh(s / c). */
INLINE void cap_scores(float *scores, float softcap)
{
    for (int i = 0; i < ATTEND_KEYS; i += LANES) {
        vec doubled = load(scores + i) * (2.0f / softcap);
        store(scores + i, softcap - 2.0f * softcap / (1.0f + exp_vec(doubled)));
    }
}

/* The same from row `r` on, as long as there are n rows; gives the first row that is left. */
INLINE int score_groups(const float *q, const uint8_t *keys, int head_dim, const enum key_kind kind, int r, int n_rows,
                        int n_blocks, const int n, const int together, float *scores)
{
    const size_t row = head_stride(head_dim), block_bytes = key_block_bytes(head_dim, kind);
    for (; r + n <= n_rows; r += n) {
        int block = 0;
        for (; block + together <= n_blocks; block += together)
            score_rows(q + (size_t)r * row, keys + (size_t)block * block_bytes, head_dim, kind, n, together,
                       scores + r * ATTEND_KEYS + block * KEY_BLOCK);
        for (; together > 1 && block < n_blocks; block++)
            score_rows(q + (size_t)r * row, keys + (size_t)block * block_bytes, head_dim, kind, n, 1,
                       scores + r * ATTEND_KEYS + block * KEY_BLOCK);
    }
    return r;
}

/* Of a run of n_keys keys: all rows' scores. */
INLINE void score_run(const float *q, const uint8_t *keys, int head_dim, const enum key_kind kind, int n_rows,
                      int n_keys, float *scores)
{
    const int blocks = ceil_div(n_keys, KEY_BLOCK);
    int r = score_groups(q, keys, head_dim, kind, 0, n_rows, blocks, ROWS_TOGETHER, 1, scores);
    if (ROWS_TOGETHER > 4)
        r = score_groups(q, keys, head_dim, kind, r, n_rows, blocks, 4, 2, scores);
    score_groups(q, keys, head_dim, kind, r, n_rows, blocks, 1, 4, scores);
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
    float *scales = scores + ATTEND_ROWS * ATTEND_KEYS, *keys = scales + cache_groups(head_dim) * ATTEND_KEYS;
    float max[ATTEND_ROWS], total[ATTEND_ROWS];
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
        if (int8 && job->key_bias) {
            open_keys(job, (size_t)(key / KEY_BLOCK), n_keys, scales, keys);
            score_run(q, (const uint8_t *)keys, head_dim, KEYS_F32, job->n_rows, n_keys, scores);
        } else {
            score_run(q, job->cache.keys + at, head_dim, int8 ? KEYS_INT8 : KEYS_F16, job->n_rows, n_keys, scores);
        }
        for (int r = 0; job->softcap > 0 && r < job->n_rows; r++)
            cap_scores(scores + r * ATTEND_KEYS, job->softcap);
        for (int r = 0; r < job->n_rows; r++)
            weigh_row(scores + r * ATTEND_KEYS, key, n_keys, from[r], to[r], max + r, total + r,
                      result + (size_t)r * row, row);
        mix_run(scores, job->cache.values + at, scales, head_dim, int8, job->n_rows, n_keys, result);
    }
    for (int r = 0; r < job->n_rows; r++) {
        int token = (job->first_row + r) / job->heads, head = (job->first_row + r) % job->heads;
        float *out = job->out + token * job->out_stride + head * head_dim;
        for (int i = 0; i < head_dim; i++)
            out[i] = result[(size_t)r * row + (size_t)i] / total[r] + (job->value_bias ? job->value_bias[i] : 0.0f);
    }
}

static void attend(const struct attend_job *job, float *scratch)
{
    if (job->cache.int8)
        attend_cache(job, scratch, 1);
    else
        attend_cache(job, scratch, 0);
}
