/* ARMv8.2 with the dot product of int8: Raspberry Pi 5, and most ARM processors from 2018. */
#include "kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#include <string.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#include "target.h"

static int usable(void)
{
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & 1ul << 20) != 0; /* HWCAP_ASIMDDP, by its number for the oldest headers */
#else
    return 0;
#endif
}

#if defined(__clang__)
TARGET_BEGIN("dotprod")
#else
TARGET_BEGIN("arch=armv8.2-a+dotprod")
#endif
#define DOT_PRODUCT 1
#include "kernels_neon.h"
TARGET_END

DEFINE_KERNELS(kernels_neondot, "neondot", usable);
#endif
