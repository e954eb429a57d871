/* How weights and activations lie in memory. Weights: docs/pack-format.md. */
#ifndef TPID_TILES_H
#define TPID_TILES_H

#include <stddef.h>
#include <stdint.h>

#define TILE_ROWS 8
#define TILE_COLUMNS 32
#define W4_BYTES 160
#define W4S_BYTES 144
#define W8_BYTES 272
#define HALF_BYTES 512

enum format { W4, W4S, W8, F16, BF16, N_FORMATS }; /* the order of tpid.model.weights.Format */

static inline int tile_bytes(int format)
{
    return format == W4 ? W4_BYTES : format == W4S ? W4S_BYTES : format == W8 ? W8_BYTES : HALF_BYTES;
}

/* Where the quants begin: behind 8 scales, in W4 behind 8 minimums too. */
static inline int quants_at(int format)
{
    return format == W4 ? 32 : 16;
}

/* Activations are rows of numbers. A token is one row, but of int8 it may be two that follow each other, its planes: the
   number is then 128 times that of the first row plus that of the second, which holds what rounding took from the first;
   scale, sum and offset of the token are where the second row's would be.

   Rows are cut into groups of 8, and the rest into 4, 2 and 1. All that belongs to a group and 32 inputs lies together,
   so that a kernel reads along one pointer with constant offsets:

   int8   q[g][32] int8, scale[g] fp32, sum[g] fp32 = scale * sum of the numbers, offset[g] int32 = -128 * their sum
   fp32   x[g][32] fp32

   A group starts at (rows before it) * tiles * (bytes of one row and 32 inputs). */
#define MAX_PLANES 2
#define PLANE_BITS 7
#define MAX_GROUP 8
#define INT8_BYTES 44
#define FP32_BYTES 128
#define INT8_SCALE(g) ((g) * 32)
#define INT8_SUM(g) ((g) * 36)
#define INT8_OFFSET(g) ((g) * 40)

/* Tokens that go through a matrix together: their activations should stay in the second-level cache. A multiple of
   MAX_GROUP, so that a chunk is cut into the same groups as the whole pass. */
#define CHUNK_TOKENS 64

static inline int group_rows(int n_left)
{
    return n_left >= 8 ? 8 : n_left >= 4 ? 4 : n_left >= 2 ? 2 : 1;
}

static inline int ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

#endif
