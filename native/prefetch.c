// SPDX-License-Identifier: ISC
/*
 * prefetch.c: pages of a snapshot's file, before the guest touches them.
 *
 * A thread does it beside the guest. First all of it is asked of the file, so that a
 * disk has much to do at once, with what lies between; then it is mapped, which waits for what isn't there yet.
 * Nothing of that can fail for the guest: what is missing comes when it is touched.
 */
#define _GNU_SOURCE
#include "vmm.h"
#include "watch.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Bytes of a call: whoever ends it waits for one. */
#define PIECE (1ull << 20)
/* Bytes between pieces that are read too: it takes no longer, and the guest may be there soon. */
#define GAP (64ull << 10)

struct vmm_prefetch {
	pthread_mutex_t lock;
	pthread_cond_t change;
	bool stop, done;
	uint32_t count;
	uint64_t pieces[];
};

static bool stopped(struct vmm_prefetch *prefetch)
{
	pthread_mutex_lock(&prefetch->lock);
	bool stop = prefetch->stop;

	pthread_mutex_unlock(&prefetch->lock);
	return stop;
}

/* between: pieces that lie close are one. Where a call fails, its rest is left out. */
static void advise(struct vmm_prefetch *prefetch, int advice, bool between)
{
	for (uint32_t i = 0; i < prefetch->count; i++) {
		uint64_t at = prefetch->pieces[2 * i], end = at + prefetch->pieces[2 * i + 1];

		for (; between && i + 1 < prefetch->count && prefetch->pieces[2 * i + 2] - end <= GAP;
		     i++)
			end = prefetch->pieces[2 * i + 2] + prefetch->pieces[2 * i + 3];
		for (; at < end; at += PIECE) {
			if (stopped(prefetch))
				return;
			madvise((void *)(uintptr_t)at, end - at < PIECE ? end - at : PIECE, advice);
		}
	}
}

static void *run(void *argument)
{
	struct vmm_prefetch *prefetch = argument;

	advise(prefetch, MADV_WILLNEED, true);
	advise(prefetch, MADV_POPULATE_READ, false);
	pthread_mutex_lock(&prefetch->lock);
	prefetch->done = true;
	pthread_cond_signal(&prefetch->change);
	pthread_mutex_unlock(&prefetch->lock);
	return NULL;
}

struct vmm_prefetch *vmm_prefetch(const uint64_t *pieces, uint32_t count)
{
	size_t size = 2 * sizeof(*pieces) * count;
	struct vmm_prefetch *prefetch = calloc(1, sizeof(*prefetch) + size);

	if (!prefetch)
		return NULL;
	pthread_mutex_init(&prefetch->lock, NULL);
	pthread_cond_init(&prefetch->change, NULL);
	prefetch->count = count;
	memcpy(prefetch->pieces, pieces, size);
	if (watch_start_thread(run, prefetch) != 0) {
		free(prefetch);
		return NULL;
	}
	return prefetch;
}

int vmm_prefetch_ended(struct vmm_prefetch *prefetch)
{
	pthread_mutex_lock(&prefetch->lock);
	bool done = prefetch->done;

	pthread_mutex_unlock(&prefetch->lock);
	return done;
}

void vmm_prefetch_end(struct vmm_prefetch *prefetch)
{
	pthread_mutex_lock(&prefetch->lock);
	prefetch->stop = true;
	while (!prefetch->done)
		pthread_cond_wait(&prefetch->change, &prefetch->lock);
	pthread_mutex_unlock(&prefetch->lock);
	free(prefetch);
}
