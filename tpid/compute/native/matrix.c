#include "native.h"

int n_groups(int n)
{
    return n / 8 + (n >> 2 & 1) + (n >> 1 & 1) + (n & 1);
}

int group_start(int n, int index, int *g)
{
    int start = 8 * (index < n / 8 ? index : n / 8);
    for (index -= n / 8;; index--) {
        *g = group_rows(n - start);
        if (index <= 0)
            return start;
        start += *g;
    }
}

void multiply(const struct cores *cores, const struct matrix *matrix, const uint8_t *unit, int band, int n_bands,
              const uint8_t *activations, int n_tokens, float *out, ptrdiff_t stride, int accumulate, int padded)
{
    const int tiles = tiles_of(matrix), rows_left = matrix->rows - band * TILE_ROWS;
    const size_t bytes = band_bytes(matrix->format, tiles);
    const uint8_t *weights = unit + matrix->offset + (size_t)band * bytes;
    gemm_fn *gemm = cores->kernels->gemm[matrix->format];
    const int planes = planes_of(cores, matrix);
    const int whole = padded || n_bands * TILE_ROWS <= rows_left ? n_bands : rows_left / TILE_ROWS;
    gemm(weights, tiles, whole, activations, n_tokens, planes, out, stride, accumulate);
    if (whole == n_bands)
        return;
    const int rest = rows_left - whole * TILE_ROWS;
    for (int token = 0, n; token < n_tokens; token += n) {
        float last[CHUNK_TOKENS][TILE_ROWS];
        n = n_tokens - token < CHUNK_TOKENS ? n_tokens - token : CHUNK_TOKENS;
        gemm(weights + (size_t)whole * bytes, tiles, 1,
             activations + (size_t)token * token_bytes(cores, matrix), n, planes, last[0], TILE_ROWS, 0);
        for (int t = 0; t < n; t++)
            for (int row = 0; row < rest; row++) {
                float *to = out + (token + t) * stride + whole * TILE_ROWS + row;
                *to = accumulate ? *to + last[t][row] : last[t][row];
            }
    }
}

void pack_tokens(const struct cores *cores, int int8, const float *x, ptrdiff_t stride, int columns, int g,
                 uint8_t *out)
{
    const int planes = cores->planes;
    const size_t row_bytes = (size_t)ceil_div(columns, TILE_COLUMNS) * INT8_BYTES;
    if (!int8) {
        cores->kernels->pack_fp32(x, stride, columns, g, out);
        return;
    }
    for (int row = 0, rows; row < g * planes; row += rows) {
        rows = group_rows(g * planes - row);
        cores->kernels->pack_int8(x + row / planes * stride, stride, columns, rows, planes,
                                  out + (size_t)row * row_bytes);
    }
}

struct columns {
    const struct cores *cores;
    const struct block *block;
    const struct matrix *matrix;
    const uint8_t *activations;
    int n_tokens, run_bands, n_runs;
    float *out;
};

static void columns_job(void *context, int job, int thread)
{
    const struct columns *c = context;
    const int token = job / c->n_runs * CHUNK_TOKENS, band = job % c->n_runs * c->run_bands;
    const int tokens_left = c->n_tokens - token, bands_left = bands_of(c->matrix) - band;
    const int n_tokens = tokens_left < CHUNK_TOKENS ? tokens_left : CHUNK_TOKENS;
    const int n_bands = bands_left < c->run_bands ? bands_left : c->run_bands;
    const size_t bytes = token_bytes(c->cores, c->matrix);
    float *out = c->out + (size_t)token * (size_t)c->matrix->rows + band * TILE_ROWS;
    (void)thread;
    for (int unit = 0; unit < c->block->n_units; unit++)
        multiply(c->cores, c->matrix, c->block->units + unit * c->block->stride, band, n_bands,
                 c->activations + ((size_t)unit * (size_t)c->n_tokens + (size_t)token) * bytes, n_tokens, out,
                 c->matrix->rows, unit > 0, 0);
}

void multiply_columns(struct cores *cores, const struct block *block, const struct matrix *matrix,
                      const uint8_t *activations, int n_tokens, float *out)
{
    /* One token: long runs, because a unit's bands are read one behind the other. Several: the sums of a run
       should stay in the cache from unit to unit. */
    const int bands = bands_of(matrix), threads = pool_threads(cores->pool);
    int run = threads == 1 ? bands : ceil_div(bands, 2 * threads);
    run = n_tokens > 8 && run > 64 ? 64 : run;
    run += run & 1;
    struct columns columns = {cores, block, matrix, activations, n_tokens, run, ceil_div(bands, run), out};
    run_jobs(cores->pool, columns_job, &columns, ceil_div(n_tokens, CHUNK_TOKENS) * columns.n_runs);
}

struct input {
    const struct cores *cores;
    const float *x, *norm;
    float eps, *scratch;
    size_t scratch_floats;
    int hidden, n_tokens;
    uint8_t *int8, *fp32;
};

static void input_job(void *context, int job, int thread)
{
    const struct input *in = context;
    int g, token = group_start(in->n_tokens, job, &g);
    const size_t hidden = (size_t)in->hidden;
    const size_t tiles = (size_t)ceil_div(in->hidden, TILE_COLUMNS) * (size_t)token;
    float *normed = in->scratch + (size_t)thread * in->scratch_floats;
    for (int t = 0; t < g; t++)
        in->cores->kernels->norm(in->x + (size_t)(token + t) * hidden, in->norm, in->eps, in->hidden,
                                 normed + (size_t)t * hidden);
    if (in->int8)
        pack_tokens(in->cores, 1, normed, in->hidden, in->hidden, g,
                    in->int8 + tiles * (size_t)in->cores->planes * INT8_BYTES);
    if (in->fp32)
        pack_tokens(in->cores, 0, normed, in->hidden, in->hidden, g, in->fp32 + tiles * FP32_BYTES);
}

void normed_input(struct cores *cores, const float *x, const float *norm, float eps, int hidden, int n_tokens,
                  float *scratch, size_t scratch_floats, uint8_t *int8, uint8_t *fp32)
{
    struct input input = {cores, x, norm, eps, scratch, scratch_floats, hidden, n_tokens, int8, fp32};
    run_jobs(cores->pool, input_job, &input, n_groups(n_tokens));
}
