/* A disk with bad sectors, by LD_PRELOAD: while the file FAULTY_WHILE exists, reads of the file FAULTY_PATH, or of files
   below it, that begin at byte FAULTY_FROM of their file or beyond end as those of a broken disk do. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int broken(int descriptor, off_t offset)
{
    const char *faulty = getenv("FAULTY_PATH"), *from = getenv("FAULTY_FROM"), *switched = getenv("FAULTY_WHILE");
    char link[64], path[4096];
    if (!faulty || !from || !switched || offset < atoll(from) || access(switched, F_OK) != 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    const ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0)
        return 0;
    path[n] = 0;
    return strncmp(path, faulty, strlen(faulty)) == 0;
}

/* What os.preadv calls, by the C library that Python was built with. */

ssize_t preadv2(int descriptor, const struct iovec *parts, int n_parts, off_t offset, int flags)
{
    if (broken(descriptor, offset)) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_preadv2, descriptor, parts, n_parts, offset, 0, flags);
}

ssize_t preadv64v2(int descriptor, const struct iovec *parts, int n_parts, off64_t offset, int flags)
{
    return preadv2(descriptor, parts, n_parts, offset, flags);
}

ssize_t preadv(int descriptor, const struct iovec *parts, int n_parts, off_t offset)
{
    return preadv2(descriptor, parts, n_parts, offset, 0);
}

ssize_t preadv64(int descriptor, const struct iovec *parts, int n_parts, off64_t offset)
{
    return preadv2(descriptor, parts, n_parts, offset, 0);
}
