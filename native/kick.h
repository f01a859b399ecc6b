/* SPDX-License-Identifier: ISC */
/*
 * kick.h: how a vCPU that runs or sleeps is called back: by another thread, or
 * by its own deadline. Guest time is read here too, since deadlines are guest
 * times. Both engines use it, each library with a copy of its own.
 *
 * Real time: a POSIX timer signals the vCPU's thread, whose handler tells the
 * engine to leave its guest. Setting it costs a system call, so a later deadline
 * waits for the timer to go off, and kick_due sets it again.
 *
 * Virtual time: no timer; the engine compares kick.deadline itself.
 */
#ifndef KICK_H
#define KICK_H

#include "vmm.h"

#include <signal.h>
#include <stdbool.h>
#include <time.h>

/* One for each library, as each has a handler of its own. */
#define KICK_SIGNAL_KVM (SIGRTMIN + 6)
#define KICK_SIGNAL_UNICORN (SIGRTMIN + 3)

struct kick {
	/* Looked at by the engine: a kick came, the timer went off. */
	volatile uint32_t kicked;
	volatile uint32_t fired;
	volatile uint32_t waiting; /* in kick_wait */
	int eventfd;		   /* ends kick_wait */
	double deadline;	   /* guest ns, INFINITY = none */
	double armed;		   /* host ns that the timer is set for, INFINITY = idle */
	struct vmm_clock *clock;   /* NULL = not open */
	/* Makes vmm_run leave; called in a signal handler and in any thread. */
	void (*leave)(struct vmm *);
	struct vmm *engine;
	int signal;
	int thread; /* Linux thread id of the vCPU */
	int slot;   /* in the table that the signal handler looks into, -1 = none */
	timer_t timer;
	bool has_timer;
};

#pragma GCC visibility push(hidden)

/* 0 or -errno. The calling thread becomes the vCPU's. */
int kick_open(struct kick *, struct vmm_clock *, int signal, void (*leave)(struct vmm *),
	      struct vmm *engine);
/* What isn't open is left alone. */
void kick_close(struct kick *);

/* Guest time, ns. */
int64_t kick_now(const struct kick *);
/* As vmm_set_deadline. */
void kick_deadline(struct kick *, double guest_ns);
/* To be called when the engine has left its guest: has the timer gone off, and for
 * the deadline, not for an earlier one? The deadline is spent then. */
bool kick_due(struct kick *);
/* As vmm_wait. With virtual time the clock jumps (clock->warp) instead. */
int kick_wait(struct kick *, double until, const int32_t *fds, uint32_t count);

/* From any thread: makes the engine leave, and ends kick_wait. */
void kick_thread(struct kick *);
/* From any thread: interrupts a system call of the vCPU's. */
void kick_interrupt(const struct kick *);

#pragma GCC visibility pop

#endif
