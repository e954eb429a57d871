/* The FFN half of a layer, for the units of a share. */
#include "backend.h"

#define TILE_BANDS (TILE_COLUMNS / TILE_ROWS)

struct ffn {
    struct backend *backend;
    const struct block *block;
    int unit_tiles;
};

/* 32 columns of gate and up for a chunk of tokens, their product, and that as one tile of down's activations. */
static void gate_job(void *context, int job, int thread)
{
    const struct ffn *f = context;
    const struct backend *backend = f->backend;
    const struct block *block = f->block;
    const struct kernels *kernels = backend->cores->kernels;
    const struct matrix *down = &block->matrices[2];
    const int per_chunk = block->n_units * f->unit_tiles, token = job / per_chunk * CHUNK_TOKENS;
    const int unit = job % per_chunk / f->unit_tiles, tile = job % f->unit_tiles;
    const int left = backend->n_tokens - token, n = left < CHUNK_TOKENS ? left : CHUNK_TOKENS;
    float *products[2];
    products[0] = backend->scratch + (size_t)thread * backend->scratch_floats;
    products[1] = products[0] + CHUNK_TOKENS * TILE_COLUMNS;
    for (int m = 0; m < 2; m++) {
        const struct matrix *matrix = &block->matrices[m];
        const uint8_t *input = is_int8(matrix) ? backend->input_int8 : backend->input_fp32;
        multiply(backend->cores, matrix, block->units + unit * block->stride, tile * TILE_BANDS, TILE_BANDS,
                 input + (size_t)token * token_bytes(backend->cores, matrix), n, products[m], TILE_COLUMNS, 0, 1);
        const float *bias = block->biases[m];
        if (bias)
            for (int t = 0; t < n; t++)
                for (int i = 0; i < TILE_COLUMNS; i++)
                    products[m][t * TILE_COLUMNS + i] += bias[unit * matrix->rows + tile * TILE_COLUMNS + i];
    }
    kernels->silu_product(products[0], products[1], n * TILE_COLUMNS);
    const int planes = planes_of(backend->cores, down);
    const size_t bytes = token_bytes(backend->cores, down);
    const size_t first = (size_t)unit * (size_t)backend->n_tokens + (size_t)token;
    for (int t = 0, g; t < n; t += g / planes) {
        g = group_rows((n - t) * planes);
        const float *from = products[0] + t * TILE_COLUMNS;
        const size_t at = (first + (size_t)t) * bytes, row = (size_t)tile * (size_t)g;
        if (is_int8(down))
            kernels->pack_int8(from, TILE_COLUMNS, TILE_COLUMNS, g, planes, backend->inner_int8 + at + row * INT8_BYTES);
        else
            kernels->pack_fp32(from, TILE_COLUMNS, TILE_COLUMNS, g, backend->inner_fp32 + at + row * FP32_BYTES);
    }
}

API void tpid_ffn(struct backend *backend, const struct block *block, const float *x, float *out)
{
    const struct matrix *down = &block->matrices[2];
    struct ffn f = {backend, block, tiles_of(down)};
    block_input(backend, block, 2, x);
    run_jobs(backend->cores->pool, gate_job, &f,
             ceil_div(backend->n_tokens, CHUNK_TOKENS) * block->n_units * f.unit_tiles);
    multiply_columns(backend->cores, block, down, is_int8(down) ? backend->inner_int8 : backend->inner_fp32,
                     backend->n_tokens, out);
}
