#include "backend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t up_to(size_t value, size_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

API void tpid_backend_free(struct backend *backend)
{
    if (!backend)
        return;
    void *all[] = {backend->keys,       backend->values,     backend->input_int8, backend->input_fp32,
                   backend->inner_int8, backend->inner_fp32, backend->qkv,        backend->mixed,
                   backend->scratch,    backend->segments,   backend->cos,        backend->sin,
                   backend->turns_memory};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    free(backend);
}

/* In double: rounded to fp32 once, a product of two of them stays as exact as the angles that keys are rotated by. */
static void write_turns(float *cos_at, float *sin_at, size_t stride, const float *frequencies, const float *sizes,
                        int half, int position)
{
    for (int i = 0; i < half; i++) {
        const double angle = (double)position * (double)frequencies[i];
        const double size = sizes ? (double)sizes[i] : 1.0;
        cos_at[(size_t)i * stride] = (float)(size * cos(angle));
        sin_at[(size_t)i * stride] = (float)(size * sin(angle));
    }
}

/* 0 if there is not enough memory. */
static int make_turns(struct backend *backend, const float *frequencies)
{
    const int half = backend->shape.head_dim / 2, blocks = ceil_div(backend->shape.context_tokens, KEY_BLOCK);
    const size_t in_places = (size_t)half * 2 * KEY_BLOCK;
    backend->turns_memory = malloc((in_places + (size_t)blocks * 2 * (size_t)half) * sizeof(float));
    if (!backend->turns_memory)
        return 0;
    float *places = backend->turns_memory, *at = places + in_places;
    backend->turns = (struct turns){.blocks = at, .places = places};
    for (int place = 0; place < KEY_BLOCK; place++)
        write_turns(places + place, places + KEY_BLOCK + place, 2 * KEY_BLOCK, frequencies, NULL, half, place);
    for (int block = 0; block < blocks; block++, at += 2 * half)
        write_turns(at, at + half, 1, frequencies, frequencies + half, half, block * KEY_BLOCK);
    return 1;
}

/* Takes all memory that any pass will need; the system gives it page by page as it is written. NULL if there is not
   enough. With key_frequencies [2][head_dim / 2], the radians a position by which heads are rotated and what they are
   multiplied by, keys lie in an int8 cache without their biases; NULL: with them. */
API struct backend *tpid_backend_create(struct cores *cores, const struct shape *shape, const float *key_frequencies)
{
    struct backend *backend = calloc(1, sizeof *backend);
    if (!backend)
        return NULL;
    const size_t planes = (size_t)cores->planes, tokens = (size_t)shape->max_tokens, hidden = (size_t)shape->hidden;
    const size_t queries = (size_t)shape->heads * (size_t)shape->head_dim;
    const size_t attn_units = (size_t)shape->attn_units, ffn_units = (size_t)shape->ffn_units;
    const size_t input_tiles = up_to(hidden, TILE_COLUMNS) / TILE_COLUMNS;
    const size_t inner_tiles = max_size(attn_units * up_to(queries, TILE_COLUMNS) / TILE_COLUMNS,
                                        ffn_units * up_to((size_t)shape->ffn_columns, TILE_COLUMNS) / TILE_COLUMNS);
    const size_t qkv = up_to(queries, TILE_ROWS) + 2 * up_to((size_t)shape->head_dim, TILE_ROWS);
    const size_t caches = (size_t)shape->n_layers * (size_t)shape->n_slots * attn_units;
    backend->cores = cores;
    backend->shape = *shape;
    backend->cache_bytes = up_to((size_t)shape->context_tokens, KEY_BLOCK) / KEY_BLOCK *
                           cache_block_bytes(shape->head_dim, shape->int8_cache);
    backend->scratch_floats = max_size(max_size(MAX_GROUP * hidden, 2 * CHUNK_TOKENS * RUN_TILES * TILE_COLUMNS),
                                       attend_scratch(shape->head_dim));
    backend->scratch_floats = up_to(backend->scratch_floats, 64) + 64; /* no two threads write into one line */
    backend->keys = calloc(max_size(caches, 1), backend->cache_bytes);
    backend->values = calloc(max_size(caches, 1), backend->cache_bytes);
    backend->input_int8 = calloc(tokens * planes * input_tiles, INT8_BYTES);
    backend->input_fp32 = calloc(tokens * input_tiles, FP32_BYTES);
    backend->inner_int8 = calloc(tokens * planes * inner_tiles + 1, INT8_BYTES);
    backend->inner_fp32 = calloc(tokens * inner_tiles + 1, FP32_BYTES);
    backend->qkv = calloc(tokens * attn_units * qkv + 1, 4);
    backend->mixed = calloc(tokens * attn_units * queries + 1, 4);
    backend->scratch = calloc((size_t)pool_threads(cores->pool) * backend->scratch_floats, 4);
    backend->segments = calloc(tokens, sizeof *backend->segments);
    backend->cos = calloc((size_t)shape->n_ropes * tokens * (size_t)shape->head_dim / 2 + 1, 4);
    backend->sin = calloc((size_t)shape->n_ropes * tokens * (size_t)shape->head_dim / 2 + 1, 4);
    if (backend->keys && backend->values && backend->input_int8 && backend->input_fp32 && backend->inner_int8 &&
        backend->inner_fp32 && backend->qkv && backend->mixed && backend->scratch && backend->segments &&
        backend->cos && backend->sin && (!key_frequencies || make_turns(backend, key_frequencies)))
        return backend;
    tpid_backend_free(backend);
    return NULL;
}

/* cos and sin [n_ropes][n_tokens][head_dim / 2]; the segments have a token each at least. */
API void tpid_begin(struct backend *backend, const struct segment *segments, int32_t n_segments, const float *cos,
                    const float *sin)
{
    backend->n_segments = n_segments;
    backend->n_tokens = 0;
    for (int i = 0; i < n_segments; i++)
        backend->n_tokens += segments[i].n_tokens;
    memcpy(backend->segments, segments, (size_t)n_segments * sizeof *segments);
    const size_t angles =
        (size_t)backend->shape.n_ropes * (size_t)backend->n_tokens * (size_t)(backend->shape.head_dim / 2);
    memcpy(backend->cos, cos, angles * sizeof *cos);
    memcpy(backend->sin, sin, angles * sizeof *sin);
}

void block_input(struct backend *backend, const struct block *block, int n_matrices, const float *x)
{
    int int8 = 0, fp32 = 0;
    for (int m = 0; m < n_matrices; m++)
        is_int8(&block->matrices[m]) ? (int8 = 1) : (fp32 = 1);
    normed_input(backend->cores, x, block->norm, backend->shape.norm_eps, backend->shape.hidden, backend->n_tokens,
                 backend->scratch, backend->scratch_floats, int8 ? backend->input_int8 : NULL,
                 fp32 ? backend->input_fp32 : NULL);
}
