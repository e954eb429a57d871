/* Any ARMv8 processor: Raspberry Pi 3 and 4. */
#include "kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#include <string.h>

static int usable(void)
{
    return 1; /* part of the architecture */
}

#define DOT_PRODUCT 0
#include "kernels_neon.h"

DEFINE_KERNELS(kernels_neon, "neon", usable);
#endif
