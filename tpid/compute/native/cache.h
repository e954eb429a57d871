/* What lies in the KV cache and how it is read, included by lanes.h. */

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

INLINE const uint16_t *scales_at(const uint8_t *block, size_t row)
{
    return halves_at(block + KEY_BLOCK * row);
}

/* int8 keys of block number `index` as floats [head_stride][KEY_BLOCK], with the bias rotated to each position. scales:
   [cache_groups][KEY_BLOCK] of scratch. */
INLINE void open_block(const uint8_t *block, const float *bias, const struct turns *turns, size_t index, int head_dim,
                       float *scales, float *keys)
{
    const size_t row = head_stride(head_dim), half = (size_t)head_dim / 2;
    const float *cos = turns->blocks + index * 2 * half, *sin = cos + half;
    for (size_t i = 0; i < cache_groups(head_dim) * KEY_BLOCK; i += LANES)
        store(scales + i, load_f16(scales_at(block, row) + i));
    for (size_t i = 0; i < half; i++) {
        const size_t low = i * KEY_BLOCK, high = low + half * KEY_BLOCK;
        const float low_bias = bias[i] * cos[i] - bias[i + half] * sin[i];
        const float high_bias = bias[i + half] * cos[i] + bias[i] * sin[i];
        const float *low_scales = scales + i / CACHE_GROUP * KEY_BLOCK;
        const float *high_scales = scales + (i + half) / CACHE_GROUP * KEY_BLOCK;
        const float *place_cos = turns->places + 2 * low, *place_sin = place_cos + KEY_BLOCK;
        for (size_t part = 0; part < KEY_BLOCK; part += LANES) {
            vec c = load(place_cos + part), s = load(place_sin + part);
            store(keys + low + part,
                  load_int8(block + low + part) * load(low_scales + part) + (c * low_bias - s * high_bias));
            store(keys + high + part,
                  load_int8(block + high + part) * load(high_scales + part) + (c * high_bias + s * low_bias));
        }
    }
}

/* A run of n_keys int8 keys from block `first` on, once for all rows: [block][head_stride][KEY_BLOCK]. */
INLINE void open_keys(const struct attend_job *job, size_t first, int n_keys, float *scales, float *keys)
{
    const int head_dim = job->cache.head_dim, blocks = ceil_div(n_keys, KEY_BLOCK);
    for (size_t i = 0; i < (size_t)blocks; i++)
        open_block(job->cache.keys + (first + i) * cache_block_bytes(head_dim, 1), job->key_bias, job->turns, first + i,
                   head_dim, scales, keys + i * KEY_BLOCK * head_stride(head_dim));
}
