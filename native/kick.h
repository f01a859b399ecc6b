/* SPDX-License-Identifier: ISC */
/*
 * kick.h: how a running vCPU is called back: by another thread, or by its own
 * deadline. Guest time is read here too, since deadlines are guest times.
 *
 * Both end in a signal to the vCPU's thread, whose handler tells the engine to
 * leave. A kick also wakes vmm_wait, through an eventfd.
 */
#ifndef KICK_H
#define KICK_H

#include "vmm.h"

#include <stdbool.h>
#include <time.h>

struct kick {
	struct vmm_clock *clock;
	/* Makes vmm_run leave; called in a signal handler and in any thread. */
	void (*leave)(void *engine);
	void *engine;
	int thread;	 /* Linux thread id of the vCPU */
	int slot;	 /* in the table that the signal handler looks into */
	int eventfd;	 /* wakes kick_wait */
	timer_t timer;	 /* CLOCK_MONOTONIC, signals the vCPU's thread */
	double deadline; /* guest ns, INFINITY = none */
	double armed;	 /* guest ns that the timer is set for */
	volatile int fired; /* the timer went off since it was armed */
};

/* 0 or -errno. The calling thread becomes the vCPU's. */
int kick_open(struct kick *, struct vmm_clock *, void (*leave)(void *), void *engine);
void kick_close(struct kick *);

double kick_now(const struct kick *);
int kick_deadline(struct kick *, double guest_ns);
/* The engine left its guest, perhaps for a timer that was set before the
 * deadline moved: sets it again. */
void kick_left(struct kick *);
int kick_wait(struct kick *, double until, const int32_t *fds, uint32_t count);

/* From any thread. */
void kick_thread(struct kick *);

#endif
