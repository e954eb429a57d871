/* How weights and activations lie in memory. Weights: docs/pack-format.md. */
#ifndef TPID_TILES_H
#define TPID_TILES_H

#include <stddef.h>
#include <stdint.h>

#define TILE_ROWS 8
#define TILE_COLUMNS 32
#define SUPER_TILES 8 /* of a super-block of 256 inputs */
#define HALF_BYTES 512

/* The order of tpid.model.weights.Format. */
enum format { W4, W4S, W8, F16, BF16, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q5_0, Q5_1, IQ4_NL, IQ4_XS, MXFP4, N_FORMATS };

/* How the scales of a tile are written: tpid.model.weights.Scales. */
enum scale_kind { HALVES, SIXES, NIBBLES, BYTES, EXPONENTS };

enum codebook { NO_CODEBOOK, IQ4_CODES, E2M1_CODES };

/* Weights are scale * (code - zero) + minimum, of codes that may stand for the numbers of a codebook. What a tile of
   F16 and BF16 holds, no coding describes. */
struct coding {
    uint8_t low_bits, high_bits; /* of a code; 8: int8 */
    uint8_t scales;
    uint8_t per_tile; /* scales of 32 inputs: 1 or 2 */
    uint8_t zero;
    uint8_t minimum;
    uint8_t factors; /* fp16 of a super-block: of its scales, then of its minimums */
    uint8_t codebook;
};

static const struct coding codings[N_FORMATS] = {
    [W4] = {4, 0, HALVES, 1, 0, 1, 0, NO_CODEBOOK},     [W4S] = {4, 0, HALVES, 1, 8, 0, 0, NO_CODEBOOK},
    [W8] = {8, 0, HALVES, 1, 0, 0, 0, NO_CODEBOOK},     [Q2_K] = {2, 0, NIBBLES, 2, 0, 1, 2, NO_CODEBOOK},
    [Q3_K] = {2, 1, SIXES, 2, 4, 0, 1, NO_CODEBOOK},    [Q4_K] = {4, 0, SIXES, 1, 0, 1, 2, NO_CODEBOOK},
    [Q5_K] = {4, 1, SIXES, 1, 0, 1, 2, NO_CODEBOOK},    [Q6_K] = {4, 2, BYTES, 2, 32, 0, 1, NO_CODEBOOK},
    [Q5_0] = {4, 1, HALVES, 1, 16, 0, 0, NO_CODEBOOK},  [Q5_1] = {4, 1, HALVES, 1, 0, 1, 0, NO_CODEBOOK},
    [IQ4_NL] = {4, 0, HALVES, 1, 0, 0, 0, IQ4_CODES},   [IQ4_XS] = {4, 0, BYTES, 1, 0, 0, 1, IQ4_CODES},
    [MXFP4] = {4, 0, EXPONENTS, 1, 16, 0, 0, E2M1_CODES}, /* its codebook is written plus 16 */
};

static const int8_t iq4_codes[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t e2m1_codes[16] = {16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4}; /* plus 16 */

static inline int is_half(int format)
{
    return format == F16 || format == BF16;
}

/* Are codes numbers of either sign, which may need all of int8? Others are 0 to 63. */
static inline int has_signs(int format)
{
    return format == W8 || codings[format].codebook == IQ4_CODES;
}

/* The largest code in bits, where it has no sign. */
static inline int code_bits(int format)
{
    return format == MXFP4 ? 5 : codings[format].low_bits + codings[format].high_bits;
}

/* Does a product need the sums of activations times a minimum? Where a tile has two scales, also for its zero. */
static inline int takes_sums(int format)
{
    return codings[format].minimum || (codings[format].per_tile == 2 && codings[format].zero);
}

/* Where the quants begin: behind the scales. */
static inline int quants_at(int format)
{
    const struct coding *coding = &codings[format];
    switch (coding->scales) {
    case HALVES:
        return 16 * (1 + coding->minimum);
    case SIXES:
        return 12;
    case NIBBLES:
        return 16;
    case BYTES:
        return 8 * coding->per_tile;
    default:
        return 8;
    }
}

static inline int high_at(int format)
{
    return quants_at(format) + 32 * codings[format].low_bits;
}

static inline int tile_bytes(int format)
{
    return is_half(format) ? HALF_BYTES : high_at(format) + 32 * codings[format].high_bits;
}

static inline int factor_bytes(int format)
{
    return 16 * codings[format].factors;
}

/* Tiles that share their factors, of a band of n: what divides both n and a super-block. */
static inline int run_tiles(int format, int n)
{
    if (!codings[format].factors)
        return n;
    const int lowest = n & -n; /* the largest power of 2 that divides n */
    return lowest < SUPER_TILES ? lowest : SUPER_TILES;
}

static inline size_t band_bytes(int format, int n_tiles)
{
    return (size_t)n_tiles * (size_t)tile_bytes(format) +
           (size_t)(n_tiles / run_tiles(format, n_tiles)) * (size_t)factor_bytes(format);
}

/* Bits of codes are planes of b = 1, 2, 4 bits of each: b vectors of 32 bytes whose 32-bit lanes are rows. The inputs
   4k to 4k + 3 are in one vector, in the bits of its bytes from a shift on. */
static inline int plane_vector(int bits, int k)
{
    return bits == 8 ? k : bits == 4 ? k / 2 : bits == 2 ? k / 2 % 2 : 0;
}

static inline int plane_shift(int bits, int k)
{
    return bits == 8 ? 0 : bits == 4 ? k % 2 * 4 : bits == 2 ? (k % 2 + k / 4 * 2) * 2 : k;
}

/* What a product of codes plus a zero of 2^n has too much is the activations' `offset` shifted to the right by this. */
static inline int zero_shift(int zero)
{
    return zero == 8 ? 4 : zero == 16 ? 3 : 0;
}

/* Activations are rows of numbers. A token is one row, but of int8 it may be two that follow each other, its planes: the
   number is then 128 times that of the first row plus that of the second, which holds what rounding took from the first;
   scale, sum and offset of the token are where the second row's would be.

   Rows are cut into groups of 8, and the rest into 4, 2 and 1. All that belongs to a group and 32 inputs lies together,
   so that a kernel reads along one pointer with constant offsets:

   int8   q[g][32] int8, scale[g] fp32, sum[g] fp32 = scale * sum of the numbers, offset[g] int32 = -128 * their sum,
          low_sum[g] fp32 = scale * sum of the first 16
   fp32   x[g][32] fp32

   A group starts at (rows before it) * tiles * (bytes of one row and 32 inputs). */
#define MAX_PLANES 2
#define PLANE_BITS 7
#define MAX_GROUP 8
#define INT8_BYTES 48
#define FP32_BYTES 128
#define INT8_SCALE(g) ((g) * 32)
#define INT8_SUM(g) ((g) * 36)
#define INT8_OFFSET(g) ((g) * 40)
#define INT8_LOW_SUM(g) ((g) * 44)

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
