/* x86-64 with AVX2, FMA and F16C: Intel from 2013, AMD from 2015. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "target.h"

static int usable(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

TARGET_BEGIN("avx2,fma,f16c")
#include "kernels_256.h"
TARGET_END

DEFINE_KERNELS(kernels_avx2, "avx2", usable);
#endif
