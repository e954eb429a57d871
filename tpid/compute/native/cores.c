/* Which kernels this processor runs, and a plain matrix product for head, benchmarks and tests. */
#include <stdlib.h>
#include <string.h>

#include "native.h"

static const struct kernels *const all_kernels[] = { /* best first */
#if defined(__x86_64__)
    &kernels_avx512vnni, &kernels_avxvnni, &kernels_avx2,
#elif defined(__aarch64__)
    &kernels_neondot,    &kernels_neon,
#endif
    &kernels_portable,
};
#define N_KERNELS ((int)(sizeof all_kernels / sizeof *all_kernels))

/* NULL beyond the last. */
API const char *tpid_kernels_name(int32_t index)
{
    return index < N_KERNELS ? all_kernels[index]->name : NULL;
}

API int32_t tpid_kernels_usable(int32_t index)
{
    return all_kernels[index]->usable();
}

API void tpid_cores_free(struct cores *cores)
{
    if (cores)
        pool_free(cores->pool);
    free(cores);
}

/* planes: 1 for int8 activations, 2 for those of twice the bits. */
API struct cores *tpid_cores_create(int32_t kernels, int32_t n_threads, int32_t planes)
{
    struct cores *cores = calloc(1, sizeof *cores);
    if (!cores)
        return NULL;
    cores->kernels = all_kernels[kernels];
    cores->planes = planes;
    cores->pool = pool_create(n_threads);
    if (cores->pool)
        return cores;
    free(cores);
    return NULL;
}

API int32_t tpid_cores_threads(const struct cores *cores)
{
    return pool_threads(cores->pool);
}

struct rows {
    const struct cores *cores;
    const struct matrix *matrix;
    const uint8_t *units, *activations;
    int64_t stride;
    int n_tokens, unit_runs, n_rows, n_units;
    float *out;
};

#define RUN_BANDS 16

static void rows_job(void *context, int job, int thread)
{
    const struct rows *r = context;
    const int per_chunk = r->n_units * r->unit_runs, token = job / per_chunk * CHUNK_TOKENS;
    const int unit = job % per_chunk / r->unit_runs, band = job % r->unit_runs * RUN_BANDS;
    const int left = r->n_tokens - token, row = unit * r->matrix->rows + band * TILE_ROWS;
    struct matrix matrix = *r->matrix;
    (void)thread;
    if (r->n_rows - unit * matrix.rows < matrix.rows) /* the last unit's rows beyond the whole are not wanted */
        matrix.rows = r->n_rows - unit * matrix.rows;
    const int bands_left = bands_of(&matrix) - band;
    if (bands_left <= 0)
        return;
    multiply(r->cores, &matrix, r->units + unit * r->stride, band, bands_left < RUN_BANDS ? bands_left : RUN_BANDS,
             r->activations + (size_t)token * token_bytes(r->cores, &matrix), left < CHUNK_TOKENS ? left : CHUNK_TOKENS,
             r->out + (size_t)token * (size_t)r->n_rows + row, r->n_rows, 0, 0);
}

/* Bytes that `tpid_rows` needs at `work`, for `n_tokens` rows of `columns` numbers. */
API int64_t tpid_rows_work_bytes(const struct cores *cores, int32_t columns, int32_t n_tokens)
{
    const int64_t tiles = ceil_div(columns, TILE_COLUMNS);
    return n_tokens * tiles * FP32_BYTES + (int64_t)pool_threads(cores->pool) * MAX_GROUP * columns * 4;
}

/* out [n_tokens][n_rows] = the first n_rows rows of all units x x [n_tokens][columns], normed if `norm`. */
API void tpid_rows(struct cores *cores, const struct matrix *matrix, const uint8_t *units, int64_t stride,
                   int32_t n_rows, const float *norm, float eps, const float *x, int32_t n_tokens, void *work,
                   float *out)
{
    uint8_t *activations = work;
    float *scratch = (float *)(activations + (size_t)n_tokens * (size_t)tiles_of(matrix) * FP32_BYTES);
    if (norm)
        normed_input(cores, x, norm, eps, matrix->columns, n_tokens, scratch, (size_t)matrix->columns * MAX_GROUP,
                     is_int8(matrix) ? activations : NULL, is_int8(matrix) ? NULL : activations);
    else
        for (int t = 0, g; t < n_tokens; t += g) {
            g = group_rows(n_tokens - t);
            pack_tokens(cores, is_int8(matrix), x + (size_t)t * (size_t)matrix->columns, matrix->columns,
                        matrix->columns, g, activations + (size_t)t * token_bytes(cores, matrix));
        }
    struct rows rows = {cores,  matrix, units, activations, stride, n_tokens, ceil_div(bands_of(matrix), RUN_BANDS),
                        n_rows, ceil_div(n_rows, matrix->rows), out};
    run_jobs(cores->pool, rows_job, &rows, ceil_div(n_tokens, CHUNK_TOKENS) * rows.n_units * rows.unit_runs);
}
