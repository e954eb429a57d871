/* What the two halves of a layer share. */
#ifndef TPID_BACKEND_H
#define TPID_BACKEND_H

#include "native.h"

#define RUN_TILES 4 /* of 32 columns of gate and up in a job: some 80 KB of w4 at 2048 inputs */

/* x [n_tokens][hidden], normed, in the forms that the first `n_matrices` of the block read. */
void block_input(struct backend *backend, const struct block *block, int n_matrices, const float *x);

#endif
