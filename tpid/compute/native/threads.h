/* A few threads that wait for work: `run_jobs` shares out jobs 0 … n - 1 and returns when all are done. */
#ifndef TPID_THREADS_H
#define TPID_THREADS_H

struct pool;
typedef void job_fn(void *context, int job, int thread);

struct pool *pool_create(int n_threads); /* the caller is one of them; NULL if there is no memory */
void pool_free(struct pool *pool);
int pool_threads(const struct pool *pool); /* fewer than were asked for if the system gave fewer */
void run_jobs(struct pool *pool, job_fn *fn, void *context, int n_jobs);

#endif
