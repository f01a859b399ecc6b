// SPDX-License-Identifier: ISC
/*
 * prompt.c: who runs first.
 *
 * A process that answers others, and computes little, is woken at once.
 *
 * Where every processor is busy with a guest, one that wakes waits until the
 * guest's slice is over: some milliseconds, at each step of an answer. With a
 * shorter slice it goes first (Linux 6.12, PREEMPT_SHORT), and gets no more of the
 * processor for that. Older hosts take no notice.
 */
#define _GNU_SOURCE
#include "vmm.h"

#include <errno.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The shortest that there is. */
#define SLICE 100000

/* linux/sched.h, which can't be included beside sched.h */
#define RESET_ON_FORK 1

int vmm_idle(int32_t thread, int32_t idle)
{
	const struct sched_param none = { 0 };

	return sched_setscheduler(thread, idle ? SCHED_IDLE : SCHED_OTHER, &none) < 0 ? -errno : 0;
}

int vmm_prompt(void)
{
	/* sched_setattr(2); glibc has no struct for it. */
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attributes = {
		.size = sizeof(attributes),
		.policy = SCHED_OTHER,
		/* What it starts is no such process. */
		.flags = RESET_ON_FORK,
		.runtime = SLICE,
	};

	return syscall(SYS_sched_setattr, 0, &attributes, 0) < 0 ? -errno : 0;
}
