/* A wrong clock for one process, by LD_PRELOAD: the time of day is HOMELAB_CLOCK_OFFSET_S off. What counts seconds since
 * the start (CLOCK_MONOTONIC) stays right, as on a device without a clock battery. (A time namespace of Linux moves
 * only the latter.) */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t offset_s(void)
{
    const char *text = getenv("HOMELAB_CLOCK_OFFSET_S");
    return text ? atoll(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *when)
{
    int failed = syscall(SYS_clock_gettime, clock, when);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) when->tv_sec += offset_s();
    return failed;
}

int gettimeofday(struct timeval *restrict when, void *restrict zone)
{
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    when->tv_sec = exact.tv_sec;
    when->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *when)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (when) *when = exact.tv_sec;
    return exact.tv_sec;
}
