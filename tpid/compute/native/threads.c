#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

/* Between two steps of a block lie microseconds, so a thread looks for work for some 50 us before it sleeps;
   between two blocks lies an allreduce over the network, and it should not burn the core meanwhile. */
#define SPINS 4000
#define SPINS_BEFORE_YIELD 20000

struct pool {
    int n_threads;
    pthread_t *threads;
    job_fn *fn;
    void *context;
    int n_jobs;
    atomic_int next_job, running;
    atomic_uint generation; /* grows with each run */
    atomic_int sleepers, stopping;
    pthread_mutex_t mutex;
    pthread_cond_t work;
};

struct worker {
    struct pool *pool;
    int thread;
};

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void work(struct pool *pool, int thread)
{
    for (int job; (job = atomic_fetch_add(&pool->next_job, 1)) < pool->n_jobs;)
        pool->fn(pool->context, job, thread);
}

static void await_generation(struct pool *pool, unsigned seen)
{
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load_explicit(&pool->generation, memory_order_acquire) != seen)
            return;
        relax();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->generation) == seen)
        pthread_cond_wait(&pool->work, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static void wake(struct pool *pool)
{
    atomic_fetch_add(&pool->generation, 1);
    if (atomic_load(&pool->sleepers) == 0)
        return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->mutex);
}

static void *worker_main(void *argument)
{
    struct worker worker = *(struct worker *)argument;
    struct pool *pool = worker.pool;
    free(argument);
    for (unsigned seen = 0;; seen++) { /* no run is missed: each waits for all threads */
        await_generation(pool, seen);
        if (atomic_load(&pool->stopping))
            return NULL;
        work(pool, worker.thread);
        atomic_fetch_sub(&pool->running, 1);
    }
}

struct pool *pool_create(int n_threads)
{
    struct pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pool->threads = calloc((size_t)n_threads, sizeof *pool->threads);
    if (!pool->threads) {
        free(pool);
        return NULL;
    }
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->work, NULL);
    for (pool->n_threads = 1; pool->n_threads < n_threads; pool->n_threads++) {
        struct worker *worker = malloc(sizeof *worker);
        if (!worker)
            break;
        *worker = (struct worker){pool, pool->n_threads};
        if (pthread_create(&pool->threads[pool->n_threads], NULL, worker_main, worker)) {
            free(worker);
            break;
        }
    }
    return pool;
}

void pool_free(struct pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->stopping, 1);
    wake(pool);
    for (int i = 1; i < pool->n_threads; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->threads);
    free(pool);
}

int pool_threads(const struct pool *pool)
{
    return pool->n_threads;
}

void run_jobs(struct pool *pool, job_fn *fn, void *context, int n_jobs)
{
    if (pool->n_threads == 1 || n_jobs <= 1) {
        for (int job = 0; job < n_jobs; job++)
            fn(context, job, 0);
        return;
    }
    pool->fn = fn, pool->context = context, pool->n_jobs = n_jobs;
    atomic_store(&pool->next_job, 0);
    atomic_store(&pool->running, pool->n_threads - 1);
    wake(pool);
    work(pool, 0);
    for (int spin = 0; atomic_load_explicit(&pool->running, memory_order_acquire) > 0; spin++) {
        relax();
        if (spin > SPINS_BEFORE_YIELD) /* a thread was put aside: let it have this core */
            sched_yield();
    }
}
