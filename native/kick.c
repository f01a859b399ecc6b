// SPDX-License-Identifier: ISC
#define _GNU_SOURCE
#include "kick.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KICK_SIGNAL (SIGRTMIN + 6)
#define MAX_KICKS 256
#define MAX_WAIT_FDS 16

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

// A timer's signal may arrive after its VM is gone, so it carries an index into
// this table instead of a pointer.
static struct kick *_Atomic kicks[MAX_KICKS];

static void on_signal(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	if (info->si_code != SI_TIMER)
		return; // kick_thread has told the engine already

	int slot = info->si_value.sival_int;
	struct kick *kick = slot >= 0 && slot < MAX_KICKS ? kicks[slot] : NULL;

	if (kick) {
		kick->fired = 1;
		kick->leave(kick->engine);
	}
}

static int install_handler(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static bool installed;
	int error = 0;

	pthread_mutex_lock(&lock);
	if (!installed) {
		// No SA_RESTART: KVM_RUN and ppoll must return.
		struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };

		sigemptyset(&action.sa_mask);
		error = sigaction(KICK_SIGNAL, &action, NULL) < 0 ? -errno : 0;
		installed = !error;
	}
	pthread_mutex_unlock(&lock);
	return error;
}

static int claim_slot(struct kick *kick)
{
	for (int i = 0; i < MAX_KICKS; i++) {
		struct kick *none = NULL;

		if (__atomic_compare_exchange_n((struct kick **)&kicks[i], &none, kick, false,
						__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			return i;
	}
	return -EMFILE;
}

int kick_open(struct kick *kick, struct vmm_clock *clock, void (*leave)(void *), void *engine)
{
	sigset_t set;
	int error = install_handler();

	if (error)
		return error;
	kick->clock = clock;
	kick->leave = leave;
	kick->engine = engine;
	kick->thread = (int)syscall(SYS_gettid);
	kick->deadline = INFINITY;
	kick->armed = INFINITY;
	kick->fired = 0;
	kick->slot = claim_slot(kick);
	if (kick->slot < 0)
		return kick->slot;

	sigemptyset(&set);
	sigaddset(&set, KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	prctl(PR_SET_TIMERSLACK, 1UL);

	struct sigevent event = {
		.sigev_notify = SIGEV_THREAD_ID,
		.sigev_signo = KICK_SIGNAL,
		.sigev_value.sival_int = kick->slot,
	};
	event.sigev_notify_thread_id = kick->thread;
	kick->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (kick->eventfd < 0)
		goto fail;
	if (timer_create(CLOCK_MONOTONIC, &event, &kick->timer) < 0) {
		error = -errno;
		close(kick->eventfd);
		kicks[kick->slot] = NULL;
		return error;
	}
	return 0;
fail:
	error = -errno;
	kicks[kick->slot] = NULL;
	return error;
}

void kick_close(struct kick *kick)
{
	timer_delete(kick->timer);
	kicks[kick->slot] = NULL;
	close(kick->eventfd);
}

static int64_t monotonic(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

double kick_now(const struct kick *kick)
{
	const struct vmm_clock *clock = kick->clock;

	if (clock->mode == VMM_CLOCK_VIRTUAL)
		return (double)(clock->blocks * clock->ns_per_block) + (double)clock->warp;
	return (double)(monotonic() - clock->origin + clock->warp);
}

// The timer as the deadline wants it.
static int arm(struct kick *kick)
{
	if (kick->fired) {
		kick->fired = 0;
		kick->armed = INFINITY;
	}
	// Later than what is armed: let that one go off, it costs one early exit and
	// saves a system call at most changes.
	if (kick->deadline >= kick->armed || isinf(kick->deadline))
		return 0;

	double ahead = kick->deadline - kick_now(kick);

	if (ahead <= 0) {
		kick->leave(kick->engine);
		return 0;
	}

	int64_t at = monotonic() + (int64_t)ahead + 1;
	struct itimerspec when = {
		.it_value = { .tv_sec = at / 1000000000, .tv_nsec = at % 1000000000 },
	};

	kick->armed = kick->deadline;
	return timer_settime(kick->timer, TIMER_ABSTIME, &when, NULL) < 0 ? -errno : 0;
}

int kick_deadline(struct kick *kick, double guest_ns)
{
	kick->deadline = guest_ns;
	return arm(kick);
}

void kick_left(struct kick *kick)
{
	if (kick_now(kick) >= kick->deadline)
		kick->deadline = INFINITY;
	if (kick->fired)
		arm(kick);
}

int kick_wait(struct kick *kick, double until, const int32_t *fds, uint32_t count)
{
	struct pollfd poll[MAX_WAIT_FDS + 1] = { { .fd = kick->eventfd, .events = POLLIN } };
	struct timespec timeout, *limit = NULL;
	uint64_t kicked;

	if (count > MAX_WAIT_FDS)
		return -EINVAL;
	for (uint32_t i = 0; i < count; i++)
		poll[i + 1] = (struct pollfd){ .fd = fds[i], .events = POLLIN };
	if (!isinf(until)) {
		double ahead = until - kick_now(kick);

		// Longer than a day: the caller looks again then.
		if (ahead > 86400e9)
			ahead = 86400e9;
		if (ahead < 0)
			ahead = 0;
		timeout.tv_sec = (time_t)(ahead / 1e9);
		timeout.tv_nsec = (long)(ahead - (double)timeout.tv_sec * 1e9);
		limit = &timeout;
	}
	ppoll(poll, count + 1, limit, NULL);
	return read(kick->eventfd, &kicked, sizeof(kicked)) == sizeof(kicked);
}

void kick_thread(struct kick *kick)
{
	uint64_t one = 1;

	kick->leave(kick->engine);
	if (write(kick->eventfd, &one, sizeof(one)) < 0) {
		// Full: it is readable already, which is all a kick wants.
	}
	syscall(SYS_tgkill, getpid(), kick->thread, KICK_SIGNAL);
}
