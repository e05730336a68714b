"""Threads in C that share the jobs of a step. The calling thread is one of them.

A job steps some copies of one task. Threads take jobs one by one, so that slow jobs balance out. A thread first takes
the jobs that it had in the last step, whose data may still be in its core's cache. No thread needs the global
interpreter lock. Between two steps the threads sleep, unless the next step follows at once.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

SOURCE = r"""
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#define PAUSE __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE __asm__ volatile("yield")
#else
#define PAUSE
#endif

typedef long (*Step)(const MuJoCo *mujoco, const Task *task, long worker, long first, long last);
typedef struct { Step step; const Task *task; long first, last, found; double cost; atomic_long owner, taken; } Job;

/* `ticket` holds the number of the round (upper 32 bits) and the number of its jobs that are not yet taken (lower 32
   bits). Storing it begins a round. A thread that comes late sees the number of another round and takes no job. */
typedef struct {
  const MuJoCo *mujoco;
  Job *jobs;
  long number;
  atomic_long left;
  _Atomic uint64_t ticket;
  pthread_mutex_t lock;
  pthread_cond_t wake, done;
  int closing;
  long threads;
  pid_t process;
  pthread_t ids[];
} Pool;
typedef struct { Pool *pool; long worker; } Member;

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

/* Take the longest remaining job that this thread did in the last round, since its data may still be in the core's
   cache; if there is none, the longest remaining job. A job remains, since the caller has counted the ticket down. */
static Job *take(Pool *pool, long worker) {
  for (;;)  /* others may take jobs meanwhile */
    for (int any = 0; any < 2; any++)
      for (Job *job = pool->jobs + pool->number; job-- > pool->jobs;)
        if (!atomic_load(&job->taken) && (any || atomic_load(&job->owner) == worker) &&
            !atomic_exchange(&job->taken, 1)) {
          atomic_store(&job->owner, worker);
          return job;
        }
}

static void work(Pool *pool, uint32_t round, long worker) {
  uint64_t ticket = atomic_load(&pool->ticket);
  for (;;) {
    if (ticket >> 32 != round || !(ticket & UINT32_MAX)) return;
    if (!atomic_compare_exchange_weak(&pool->ticket, &ticket, ticket - 1)) continue;
    Job *job = take(pool, worker);
    const double begin = seconds();
    job->found = job->step(pool->mujoco, job->task, worker, job->first, job->last);
    job->cost += 0.1 * (seconds() - begin - job->cost);
    if (atomic_fetch_sub(&pool->left, 1) == 1 && worker) {
      pthread_mutex_lock(&pool->lock);
      pthread_cond_signal(&pool->done);
      pthread_mutex_unlock(&pool->lock);
    }
    ticket = atomic_load(&pool->ticket);
  }
}

static void *serve(void *argument) {
  Member member = *(Member *)argument;
  Pool *pool = member.pool;
  uint32_t seen = 0;
  free(argument);
  for (;;) {
    for (int looks = 0; atomic_load(&pool->ticket) >> 32 == seen && looks < LOOKS; looks++) PAUSE;
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->ticket) >> 32 == seen && !pool->closing) pthread_cond_wait(&pool->wake, &pool->lock);
    seen = atomic_load(&pool->ticket) >> 32;
    const int closing = pool->closing;
    pthread_mutex_unlock(&pool->lock);
    if (closing) return NULL;
    work(pool, seen, member.worker);
  }
}

/* A pool of `threads` threads including the caller's, or fewer if the system cannot start as many. NULL: no memory. */
Pool *pool_open(const MuJoCo *mujoco, long threads) {
  Pool *pool = calloc(1, sizeof(Pool) + threads * sizeof(pthread_t));
  if (!pool) return NULL;
  pool->mujoco = mujoco;
  pool->process = getpid();
  pool->threads = 1;
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->wake, NULL);
  pthread_cond_init(&pool->done, NULL);
  const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
  sigset_t all, before;
  sigfillset(&all);  /* Python's threads handle signals; a pool thread gets only those of its own faults */
  for (int n = 0; n < 6; n++) sigdelset(&all, faults[n]);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (pool->threads < threads) {
    Member *member = malloc(sizeof(Member));
    if (!member) break;
    *member = (Member){pool, pool->threads};
    if (pthread_create(&pool->ids[pool->threads], NULL, serve, member)) { free(member); break; }
    pool->threads++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return pool;
}

/* Put the longest jobs last, where `take` begins, so that all threads finish together. */
static void sort(Job *jobs, long number) {
  for (long n = 1; n < number; n++) {
    const Job job = jobs[n];
    long to = n;
    for (; to > 0 && jobs[to - 1].cost > job.cost; to--) jobs[to] = jobs[to - 1];
    jobs[to] = job;
  }
}

/* Do all jobs, and return the sum of what they return; -1 in a forked process, which has no threads. */
long pool_run(Pool *pool, Job *jobs, long number) {
  if (pool->threads > 1 && getpid() != pool->process) return -1;
  pool->jobs = jobs;
  pool->number = number;
  for (long n = 0; n < number; n++) atomic_store(&jobs[n].taken, 0);
  atomic_store(&pool->left, number);
  pthread_mutex_lock(&pool->lock);
  const uint32_t round = (atomic_load(&pool->ticket) >> 32) + 1;
  atomic_store(&pool->ticket, (uint64_t)round << 32 | number);
  pthread_mutex_unlock(&pool->lock);
  if (number > 1) pthread_cond_broadcast(&pool->wake);
  work(pool, round, 0);
  for (int looks = 0; atomic_load(&pool->left) && looks < LOOKS; looks++) PAUSE;
  if (atomic_load(&pool->left)) {
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->left)) pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
  }
  if (pool->threads > 1) sort(jobs, number);
  long found = 0;
  for (long n = 0; n < number; n++) found += jobs[n].found;
  return found;
}

void pool_close(Pool *pool) {
  if (getpid() != pool->process) return;
  pthread_mutex_lock(&pool->lock);
  pool->closing = 1;
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->lock);
  for (long n = 1; n < pool->threads; n++) pthread_join(pool->ids[n], NULL);
  free(pool);
}
""".replace("LOOKS", "2000")
"""C code that follows the definitions of `MuJoCo` and `Task` (see `native`). Since waking a thread takes long, a thread
polls for some tens of microseconds before it sleeps: the caller for the end of the last jobs, the others for the next
step."""


class Job(ctypes.Structure):
    """A job: to step copies ``first`` to ``last`` − 1 of a task.

    step: the address of the task's function; task: the address of its arrays; found: what the function returned last;
    cost: a running mean of the job's seconds; owner: the thread that did the job last; taken: whether a thread has
    taken it in this round.
    """

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("step", "task")],
        *[(name, ctypes.c_long) for name in ("first", "last", "found")],
        ("cost", ctypes.c_double),
        *[(name, ctypes.c_long) for name in ("owner", "taken")],
    ]


class Pool:
    """A pool of threads, including the caller's. `close` ends all but the caller's.

    Args:
        library: the library that contains `SOURCE`, compiled.
        mujoco: the address of the table of MuJoCo's functions.
        threads: their number; with 1, everything runs in the caller's thread.

    Raises:
        MemoryError: there is no memory for the pool.
    """

    def __init__(self, library: ctypes.CDLL, mujoco: int, threads: int) -> None:
        library.pool_open.restype = ctypes.c_void_p
        library.pool_open.argtypes = [ctypes.c_void_p, ctypes.c_long]
        self._run, self._close = library.pool_run, library.pool_close
        self._run.argtypes, self._close.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long], [ctypes.c_void_p]
        self._run.restype, self._close.restype = ctypes.c_long, None
        self._pool = library.pool_open(mujoco, threads)
        if self._pool is None:
            raise MemoryError("The engine's threads could not be started.")
        self._jobs = (Job * 0)()
        self._lock = threading.RLock()  # so that no other thread frees what a step still uses

    def plan(self, jobs: Sequence[Job]) -> None:
        """Set the jobs that each `run` does. At first, the caller counts as the thread that did each of them last."""
        self._jobs = (Job * len(jobs))(*jobs)

    def run(self) -> int:
        """Do all jobs. Returns the sum of what their functions return.

        Raises:
            RuntimeError: the pool is closed, or this is another process than the one that started its threads.
        """
        with self._lock:
            if self._pool is None:
                raise RuntimeError("These environments are closed.")
            found = self._run(self._pool, self._jobs, len(self._jobs))
        if found < 0:
            raise RuntimeError("Environments cannot be stepped in a forked process. Make them after the fork.")
        return found

    def close(self) -> None:
        """End the threads, after the step in progress if there is one. A second call does nothing."""
        with self._lock:
            if self._pool is not None:
                self._close(self._pool)
                self._pool = None
