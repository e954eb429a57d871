/* Runs the native kernels without Python, for processors and compilers that Python does not run with here: built by
   tests/native/conftest.py for ARM, and with sanitizers.

   check_kernels CASES [REPETITIONS]: a file of cases in the order of the readers below, little-endian int32 and fp32
   as cases.py writes them. Each case is computed by every set of kernels that the processor has, and must be as near
   to what is expected as the case allows. Prints one line a set: its name, how many numbers it was judged by, and the
   largest error as a part of what was allowed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"

const char *tpid_kernels_name(int32_t index);
int32_t tpid_kernels_usable(int32_t index);
struct cores *tpid_cores_create(int32_t kernels, int32_t n_threads, int32_t planes);
void tpid_cores_free(struct cores *cores);
int64_t tpid_rows_work_bytes(const struct cores *cores, int32_t columns, int32_t n_tokens);
void tpid_rows(struct cores *cores, const struct matrix *matrix, const uint8_t *units, int64_t stride, int32_t n_rows,
               const float *norm, float eps, const float *x, int32_t n_tokens, void *work, float *out);
struct backend *tpid_backend_create(struct cores *cores, const struct shape *shape, const float *key_frequencies);
void tpid_backend_free(struct backend *backend);
void tpid_begin(struct backend *backend, const struct segment *segments, int32_t n_segments, const float *cos,
                const float *sin);
void tpid_attention(struct backend *backend, const struct block *block, const float *x, float *out);
void tpid_ffn(struct backend *backend, const struct block *block, const float *x, float *out);

#define MAX_SETS 8
enum { ROWS, ATTENTION, FFN };

struct verdict {
    long n_judged;
    double worst;
};

static FILE *cases;
static int n_failures;

/* Every array has an allocation of its own, of its very size, so that a sanitizer sees the first byte beyond it. */
static void *take(size_t bytes)
{
    void *memory = malloc(bytes);
    if (bytes && !memory)
        abort();
    return memory;
}

static void *read_bytes(size_t bytes)
{
    void *memory = take(bytes);
    if (fread(memory, 1, bytes, cases) != bytes) {
        fprintf(stderr, "the file of cases ends too early\n");
        exit(2);
    }
    return memory;
}

static float *read_floats(size_t n)
{
    return read_bytes(n * sizeof(float));
}

static void read_numbers(int32_t *numbers, size_t n)
{
    int32_t *read = read_bytes(n * sizeof *read);
    memcpy(numbers, read, n * sizeof *read);
    free(read);
}

static void judge(int index, int set, const float *out, const float *expected, const float *allowed, size_t n,
                  struct verdict *verdict)
{
    for (size_t i = 0; i < n; i++) {
        const double error = fabs((double)out[i] - (double)expected[i]);
        const double part = error > 0 ? error / (double)allowed[i] : 0;
        verdict->n_judged++;
        if (isfinite(expected[i]) ? part <= 1.0 : !isfinite(out[i])) {
            verdict->worst = part > verdict->worst ? part : verdict->worst;
            continue;
        }
        if (n_failures++ < 20)
            fprintf(stderr, "case %d, %s: number %zu of %zu is %g instead of %g, which is off by more than %g\n", index,
                    tpid_kernels_name(set), i, n, (double)out[i], (double)expected[i], (double)allowed[i]);
    }
}

static struct cores *cores_of(int set, int n_threads, int planes)
{
    struct cores *cores = tpid_cores_create(set, n_threads, planes);
    if (!cores)
        abort();
    return cores;
}

static void rows_case(int index, int n_sets, int repetitions, struct verdict *verdicts)
{
    enum { FORMAT, N_ROWS, N_COLUMNS, UNITS, WANTED, STRIDE, TOKENS, PLANES, THREADS, NORMED, N_NUMBERS };
    int32_t numbers[N_NUMBERS];
    read_numbers(numbers, N_NUMBERS);
    const size_t n_tokens = (size_t)numbers[TOKENS], columns = (size_t)numbers[N_COLUMNS];
    const size_t n_out = n_tokens * (size_t)numbers[WANTED];
    const struct matrix matrix = {numbers[FORMAT], numbers[N_ROWS], numbers[N_COLUMNS], 0};
    uint8_t *units = read_bytes((size_t)numbers[UNITS] * (size_t)numbers[STRIDE]);
    float *norm = numbers[NORMED] ? read_floats(columns) : NULL, *x = read_floats(n_tokens * columns);
    float *expected = read_floats(n_out), *allowed = read_floats(n_out), *out = take(n_out * sizeof *out);
    for (int set = 0; set < n_sets; set++) {
        if (!tpid_kernels_usable(set))
            continue;
        struct cores *cores = cores_of(set, numbers[THREADS], numbers[PLANES]);
        void *work = take((size_t)tpid_rows_work_bytes(cores, numbers[N_COLUMNS], numbers[TOKENS]));
        for (int repetition = 0; repetition < repetitions; repetition++) {
            memset(out, 0xff, n_out * sizeof *out); /* NaN: what is not written is noticed */
            tpid_rows(cores, &matrix, units, numbers[STRIDE], numbers[WANTED], norm, 1e-5f, x, numbers[TOKENS], work,
                      out);
            judge(index, set, out, expected, allowed, n_out, &verdicts[set]);
        }
        free(work);
        tpid_cores_free(cores);
    }
    free(units), free(norm), free(x), free(expected), free(allowed), free(out);
}

struct pass {
    int32_t n_segments;
    size_t n_tokens;
    struct segment *segments;
    float *cos, *sin, *x, *expected, *allowed;
};

static struct pass read_pass(const struct shape *shape)
{
    struct pass pass = {0};
    read_numbers(&pass.n_segments, 1);
    pass.segments = read_bytes((size_t)pass.n_segments * sizeof *pass.segments);
    for (int i = 0; i < pass.n_segments; i++)
        pass.n_tokens += (size_t)pass.segments[i].n_tokens;
    const size_t angles = (size_t)shape->n_ropes * pass.n_tokens * (size_t)(shape->head_dim / 2);
    pass.cos = read_floats(angles);
    pass.sin = read_floats(angles);
    pass.x = read_floats(pass.n_tokens * (size_t)shape->hidden);
    pass.expected = read_floats(pass.n_tokens * (size_t)shape->hidden);
    pass.allowed = read_floats(pass.n_tokens * (size_t)shape->hidden);
    return pass;
}

static void free_pass(struct pass *pass)
{
    free(pass->segments), free(pass->cos), free(pass->sin), free(pass->x), free(pass->expected), free(pass->allowed);
}

/* 0 floats stand for NULL. */
static float *read_vector(void)
{
    int32_t n_floats;
    read_numbers(&n_floats, 1);
    return n_floats ? read_floats((size_t)n_floats) : NULL;
}

/* What the block points to, in the order of struct block. */
static void read_block(struct block *block, const float **vectors, size_t n_vectors)
{
    int32_t stride, numbers[5], matrix[4];
    read_numbers(numbers, 5);
    float *scales = read_floats(2);
    read_numbers(&stride, 1);
    block->n_units = numbers[0], block->layer = numbers[1], block->window = numbers[2], block->stride = stride;
    block->rope = numbers[3], block->gate = numbers[4], block->scale = scales[0], block->softcap = scales[1];
    free(scales);
    for (int m = 0; m < 4; m++) {
        read_numbers(matrix, 4);
        block->matrices[m] = (struct matrix){matrix[0], matrix[1], matrix[2], matrix[3]};
    }
    block->units = read_bytes((size_t)block->n_units * (size_t)stride);
    for (size_t v = 0; v < n_vectors; v++)
        vectors[v] = read_vector();
    block->norm = vectors[0], block->q_norm = vectors[4], block->k_norm = vectors[5];
    memcpy(block->biases, vectors + 1, sizeof block->biases);
}

static void run_passes(int index, int set, int kind, struct backend *backend, const struct block *block,
                       const struct pass *passes, int n_passes, struct verdict *verdict)
{
    for (int p = 0; p < n_passes; p++) {
        const struct pass *pass = &passes[p];
        const size_t n = pass->n_tokens * (size_t)backend->shape.hidden;
        float *out = take(n * sizeof *out);
        memset(out, 0xff, n * sizeof *out);
        tpid_begin(backend, pass->segments, pass->n_segments, pass->cos, pass->sin);
        (kind == ATTENTION ? tpid_attention : tpid_ffn)(backend, block, pass->x, out);
        judge(index, set, out, pass->expected, pass->allowed, n, verdict);
        free(out);
    }
}

static void block_case(int index, int kind, int n_sets, int repetitions, struct verdict *verdicts)
{
    int32_t numbers[2], n_passes;
    const float *vectors[6];
    struct block block;
    read_numbers(numbers, 2); /* planes, threads */
    struct shape *shape = read_bytes(sizeof *shape);
    float *key_frequencies = read_vector();
    read_block(&block, vectors, 6);
    read_numbers(&n_passes, 1);
    struct pass *passes = take((size_t)n_passes * sizeof *passes);
    for (int p = 0; p < n_passes; p++)
        passes[p] = read_pass(shape);
    for (int set = 0; set < n_sets; set++) {
        if (!tpid_kernels_usable(set))
            continue;
        struct cores *cores = cores_of(set, numbers[1], numbers[0]);
        struct backend *backend = tpid_backend_create(cores, shape, key_frequencies);
        if (!backend)
            abort();
        for (int repetition = 0; repetition < repetitions; repetition++)
            run_passes(index, set, kind, backend, &block, passes, n_passes, &verdicts[set]);
        tpid_backend_free(backend);
        tpid_cores_free(cores);
    }
    for (int p = 0; p < n_passes; p++)
        free_pass(&passes[p]);
    for (int v = 0; v < 6; v++)
        free((void *)(uintptr_t)vectors[v]);
    free(passes), free(shape), free(key_frequencies), free((void *)(uintptr_t)block.units);
}

int main(int n_arguments, char **arguments)
{
    struct verdict verdicts[MAX_SETS] = {{0}};
    const int repetitions = n_arguments > 2 ? atoi(arguments[2]) : 1;
    int32_t n_cases, kind;
    int n_sets = 0;
    cases = n_arguments > 1 ? fopen(arguments[1], "rb") : NULL;
    if (!cases) {
        fprintf(stderr, "usage: check_kernels CASES [REPETITIONS]\n");
        return 2;
    }
    while (tpid_kernels_name(n_sets))
        n_sets++;
    read_numbers(&n_cases, 1);
    for (int index = 0; index < n_cases; index++) {
        read_numbers(&kind, 1);
        if (kind == ROWS)
            rows_case(index, n_sets, repetitions, verdicts);
        else
            block_case(index, kind, n_sets, repetitions, verdicts);
    }
    fclose(cases);
    for (int set = 0; set < n_sets; set++)
        if (tpid_kernels_usable(set))
            printf("%s %ld %.3f\n", tpid_kernels_name(set), verdicts[set].n_judged, verdicts[set].worst);
    return n_failures > 0;
}
