/* x86-64 with AVX-VNNI but without AVX-512: Intel's small and hybrid processors from 2021. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "target.h"

static int usable(void)
{
    return __builtin_cpu_supports("avxvnni") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

TARGET_BEGIN("avx2,fma,f16c,avxvnni")
#define DOT_PRODUCT _mm256_dpbusd_avx_epi32
#include "kernels_256.h"
TARGET_END

DEFINE_KERNELS(kernels_avxvnni, "avxvnni", usable);
#endif
