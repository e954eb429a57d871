/* The FFN half of a layer, for the units of a share. */
#include "backend.h"

#define TILE_BANDS (TILE_COLUMNS / TILE_ROWS)
#define JOBS_PER_THREAD 8 /* so that no thread waits long for the last job */

struct ffn {
    struct backend *backend;
    const struct block *block;
    int run_tiles, unit_runs; /* tiles of a job; jobs of a unit and a chunk of tokens */
};

/* Some columns of gate or up for a chunk of tokens: out [n][columns]. */
static void half_product(const struct ffn *f, int m, int unit, int tile, int columns, int token, int n, float *out)
{
    const struct backend *backend = f->backend;
    const struct block *block = f->block;
    const struct matrix *matrix = &block->matrices[m];
    const uint8_t *input = is_int8(matrix) ? backend->input_int8 : backend->input_fp32;
    multiply(backend->cores, matrix, block->units + unit * block->stride, tile * TILE_BANDS, columns / TILE_ROWS,
             input + (size_t)token * token_bytes(backend->cores, matrix), n, out, columns, 0, 1);
    const float *bias = block->biases[m];
    if (!bias)
        return;
    bias += unit * matrix->rows + tile * TILE_COLUMNS;
    for (int t = 0; t < n; t++)
        for (int i = 0; i < columns; i++)
            out[t * columns + i] += bias[i];
}

/* A run of gate's and up's columns for a chunk of tokens, their product, and that as tiles of down's activations. */
static void gate_job(void *context, int job, int thread)
{
    const struct ffn *f = context;
    const struct backend *backend = f->backend;
    const struct kernels *kernels = backend->cores->kernels;
    const struct matrix *down = &f->block->matrices[2];
    const int per_chunk = f->block->n_units * f->unit_runs, token = job / per_chunk * CHUNK_TOKENS;
    const int unit = job % per_chunk / f->unit_runs, tile = job % f->unit_runs * f->run_tiles;
    const int left = backend->n_tokens - token, n = left < CHUNK_TOKENS ? left : CHUNK_TOKENS;
    const int tiles_left = tiles_of(down) - tile, tiles = tiles_left < f->run_tiles ? tiles_left : f->run_tiles;
    const int columns = tiles * TILE_COLUMNS;
    float *gate = backend->scratch + (size_t)thread * backend->scratch_floats, *up = gate + n * columns;
    half_product(f, 0, unit, tile, columns, token, n, gate);
    half_product(f, 1, unit, tile, columns, token, n, up);
    (f->block->gate == GELU ? kernels->gelu_product : kernels->silu_product)(gate, up, n * columns);
    const int planes = planes_of(backend->cores, down);
    const size_t bytes = token_bytes(backend->cores, down);
    const size_t first = (size_t)unit * (size_t)backend->n_tokens + (size_t)token;
    for (int t = 0, g; t < n; t += g / planes) {
        g = group_rows((n - t) * planes);
        const size_t at = (first + (size_t)t) * bytes, row = (size_t)tile * (size_t)g;
        if (is_int8(down))
            kernels->pack_int8(gate + t * columns, columns, columns, g, planes,
                               backend->inner_int8 + at + row * INT8_BYTES);
        else
            kernels->pack_fp32(gate + t * columns, columns, columns, g, backend->inner_fp32 + at + row * FP32_BYTES);
    }
}

API void tpid_ffn(struct backend *backend, const struct block *block, const float *x, float *out)
{
    const struct matrix *down = &block->matrices[2];
    const int chunks = ceil_div(backend->n_tokens, CHUNK_TOKENS), threads = pool_threads(backend->cores->pool);
    struct ffn f = {backend, block, tiles_of(down) < RUN_TILES ? tiles_of(down) : RUN_TILES, 0};
    if (threads > 1 && chunks * block->n_units < JOBS_PER_THREAD * threads)
        f.run_tiles = 1;
    f.unit_runs = ceil_div(tiles_of(down), f.run_tiles);
    block_input(backend, block, 2, x);
    run_jobs(backend->cores->pool, gate_job, &f, chunks * block->n_units * f.unit_runs);
    multiply_columns(backend->cores, block, down, is_int8(down) ? backend->inner_int8 : backend->inner_fp32,
                     backend->n_tokens, out);
}
