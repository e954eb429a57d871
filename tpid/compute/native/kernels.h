/* What each instruction set provides. */
#ifndef TPID_KERNELS_H
#define TPID_KERNELS_H

#include "tiles.h"

/* out[token * stride + row] = (or +=) weights x activations, for all rows of `n_bands` bands. A token has `planes` rows
   of activations. */
typedef void gemm_fn(const uint8_t *weights, int n_tiles, int n_bands, const uint8_t *activations, int n_tokens,
                     int planes, float *out, ptrdiff_t stride, int accumulate);

/* The cache of one KV head of one sequence, in blocks of KEY_BLOCK positions. Keys lie transposed, so that lanes are
   positions: [head_stride][KEY_BLOCK] numbers; values as they are: [KEY_BLOCK][head_stride]. Numbers are fp16, or int8
   by groups of CACHE_GROUP of a head; then [cache_groups][KEY_BLOCK] fp16 scales follow in each block.
   head_stride is head_dim rounded up to HEAD_ALIGN.

   Values lie without their bias: weights of a softmax add up to 1, so it is added to what they give. int8 keys lie
   without their rotated bias where there are `turns` to rotate it by: it may be a hundred times what a token adds to
   it, and would take the steps of int8 for itself. */
#define KEY_BLOCK 16
#define HEAD_ALIGN 16
#define CACHE_GROUP 32

struct cache {
    uint8_t *keys, *values;
    int head_dim, int8;
};

static inline size_t head_stride(int head_dim)
{
    return (size_t)ceil_div(head_dim, HEAD_ALIGN) * HEAD_ALIGN;
}

static inline size_t cache_groups(int head_dim)
{
    return (head_stride(head_dim) + CACHE_GROUP - 1) / CACHE_GROUP;
}

/* Of a block of keys, or of values. */
static inline size_t cache_block_bytes(int head_dim, int int8)
{
    return KEY_BLOCK * (int8 ? head_stride(head_dim) + 2 * cache_groups(head_dim) : 2 * head_stride(head_dim));
}

/* cos and sin of the angles by which heads are rotated. Those of a position come from its block's first position and
   its own place in the block, which takes 1 / KEY_BLOCK of the memory of a table of all positions. */
struct turns {
    const float *blocks; /* [block][cos, sin][head_dim / 2] */
    const float *places; /* [head_dim / 2][cos, sin][KEY_BLOCK] */
};

#define ATTEND_ROWS 16 /* rows of queries that walk the cache together */
#define ATTEND_KEYS 64

struct attend_job {
    struct cache cache;
    const float *queries; /* of the first token's first head, already scaled */
    float *out;           /* laid out as the queries are */
    ptrdiff_t query_stride, out_stride; /* from token to token */
    int heads;            /* query heads of this KV head; a row is one head of one token */
    int first_row, n_rows; /* row = token * heads + head; at most ATTEND_ROWS of them */
    int start;            /* position of token 0 */
    int window;           /* 0: sees everything */
    float softcap;        /* c: scores s become c tanh(s / c); 0: they do not */
    const float *key_bias;      /* [head_dim] before rotation, what the keys lie without; NULL: nothing */
    const float *value_bias;    /* [head_dim] or NULL */
    const struct turns *turns;  /* of key_bias */
};

enum gate { SILU, GELU };

struct kernels {
    const char *name;
    int (*usable)(void);
    gemm_fn *gemm[N_FORMATS];
    void (*norm)(const float *x, const float *weight, float eps, int n, float *out);
    /* Tokens of x, `stride` apart, to one group of g rows; the columns up to a multiple of 32 become zeros. */
    void (*pack_int8)(const float *x, ptrdiff_t stride, int columns, int g, int planes, uint8_t *out);
    void (*pack_fp32)(const float *x, ptrdiff_t stride, int columns, int g, uint8_t *out);
    void (*silu_product)(float *gate, const float *up, int n); /* gate = silu(gate) * up; n a multiple of 8 */
    void (*gelu_product)(float *gate, const float *up, int n); /* by its approximation with tanh */
    void (*store)(const struct cache *cache, int position, const float *key, const float *value);
    void (*attend)(const struct attend_job *job, float *scratch);
};

/* Floats of scratch that `attend` needs: queries, results, scores, scales of the values, keys of int8 as floats. */
static inline size_t attend_scratch(int head_dim)
{
    return ATTEND_ROWS * (2 * head_stride(head_dim) + ATTEND_KEYS) +
           (cache_groups(head_dim) + head_stride(head_dim)) * ATTEND_KEYS;
}

extern const struct kernels kernels_portable;
#if defined(__x86_64__)
extern const struct kernels kernels_avx2, kernels_avxvnni, kernels_avx512vnni;
#elif defined(__aarch64__)
extern const struct kernels kernels_neon, kernels_neondot;
#endif

#endif
