/* The library's interface, as tpid/compute/native/library.py mirrors it, and the state behind it.

   The caller has checked all numbers and lengths. One call at a time for all that share a `cores`. */
#ifndef TPID_NATIVE_H
#define TPID_NATIVE_H

#include "kernels.h"
#include "threads.h"

#define API __attribute__((visibility("default")))

struct cores {
    const struct kernels *kernels;
    struct pool *pool;
    int planes; /* of int8 activations */
};

struct matrix {
    int32_t format, rows, columns;
    int64_t offset; /* in its unit */
};

struct block {
    const uint8_t *units;
    int64_t stride;
    int32_t n_units, layer, window; /* window in tokens, 0: none */
    int32_t rope, gate;             /* which cosines and sines, -1: heads do not turn; enum gate */
    float scale, softcap;           /* of scores; 0: no cap */
    struct matrix matrices[4]; /* q k v o, or gate up down */
    const float *norm;
    const float *biases[3];        /* [n_units * rows] of q k v or gate up, or NULL */
    const float *q_norm, *k_norm; /* [head_dim] or NULL */
};

struct shape {
    int32_t hidden, head_dim, heads; /* heads: queries of a KV head */
    int32_t n_layers, n_slots, context_tokens, max_tokens;
    int32_t attn_units, ffn_units, ffn_columns; /* of the share; columns of one unit */
    int32_t int8_cache, n_ropes;
    float norm_eps;
};

struct segment {
    int32_t slot, start, n_tokens;
};

struct backend {
    struct cores *cores;
    struct shape shape;
    uint8_t *keys, *values;                   /* [layer][slot][unit][cache_bytes] */
    size_t cache_bytes;
    uint8_t *input_int8, *input_fp32;         /* what q k v gate up read */
    uint8_t *inner_int8, *inner_fp32;         /* what o and down read, unit after unit */
    float *qkv, *mixed;                       /* [token][unit][q k v], [token][unit][heads * head_dim] */
    float *scratch;                           /* of each thread */
    size_t scratch_floats;
    struct segment *segments;                 /* of the pass */
    int n_segments, n_tokens;
    float *cos, *sin;                         /* [rope][token][head_dim / 2] */
    float *turns_memory;                      /* NULL: keys have no bias, or lie in the cache with it */
    struct turns turns;
};

/* Matrix products of one unit. */

static inline int tiles_of(const struct matrix *matrix)
{
    return ceil_div(matrix->columns, TILE_COLUMNS);
}

static inline int bands_of(const struct matrix *matrix)
{
    return ceil_div(matrix->rows, TILE_ROWS);
}

static inline int is_int8(const struct matrix *matrix)
{
    return !is_half(matrix->format);
}

/* Rows of activations that a token is for `matrix`. */
static inline int planes_of(const struct cores *cores, const struct matrix *matrix)
{
    return is_int8(matrix) ? cores->planes : 1;
}

static inline size_t token_bytes(const struct cores *cores, const struct matrix *matrix)
{
    const size_t row_bytes = is_int8(matrix) ? INT8_BYTES : FP32_BYTES;
    return (size_t)tiles_of(matrix) * (size_t)planes_of(cores, matrix) * row_bytes;
}

/* Group `index` of n tokens: its first token; `g` gets its size. */
int group_start(int n, int index, int *g);
int n_groups(int n);

/* out[token * stride + row - band * 8] for the rows of `n_bands` bands from `band` on; nothing beyond the matrix's
   rows is written unless `padded`. `activations` are those of the first token. */
void multiply(const struct cores *cores, const struct matrix *matrix, const uint8_t *unit, int band, int n_bands,
              const uint8_t *activations, int n_tokens, float *out, ptrdiff_t stride, int accumulate, int padded);

/* g tokens of x, a group as `group_start` gives it, as activations for int8 or fp32 products. */
void pack_tokens(const struct cores *cores, int int8, const float *x, ptrdiff_t stride, int columns, int g,
                 uint8_t *out);

/* The products of all units of a block with their own inputs, added up: out [n_tokens][rows]. */
void multiply_columns(struct cores *cores, const struct block *block, const struct matrix *matrix,
                      const uint8_t *activations, int n_tokens, float *out);

/* x [n_tokens][hidden], normed, as activations; either output may be NULL. */
void normed_input(struct cores *cores, const float *x, const float *norm, float eps, int hidden, int n_tokens,
                  float *scratch, size_t scratch_floats, uint8_t *int8, uint8_t *fp32);

#endif
