// SPDX-License-Identifier: ISC
#define _GNU_SOURCE
#include "kick.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_KICKS 1024
#define MAX_WAIT_FDS 64
#define NS 1000000000ll
// A deadline this little before what the timer is set for isn't worth a system call.
#define SLACK_NS 20000.0

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

// A timer's signal may arrive after its VM is gone, so it carries an index into
// this table instead of a pointer.
static struct kick *kicks[MAX_KICKS];

static void on_signal(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	if (info->si_code != SI_TIMER)
		return; // kick_thread has told the engine already

	int slot = info->si_value.sival_int;

	if (slot < 0 || slot >= MAX_KICKS)
		return;

	struct kick *kick = __atomic_load_n(&kicks[slot], __ATOMIC_SEQ_CST);

	if (!kick)
		return;
	kick->fired = 1;
	kick->leave(kick->engine);
}

static int claim_slot(struct kick *kick)
{
	for (int i = 0; i < MAX_KICKS; i++) {
		struct kick *none = NULL;

		if (__atomic_compare_exchange_n(&kicks[i], &none, kick, false, __ATOMIC_SEQ_CST,
						__ATOMIC_SEQ_CST))
			return i;
	}
	return -EAGAIN;
}

static int open_timer(struct kick *kick)
{
	// SA_RESTART: neither KVM_RUN nor ppoll is restarted, whatever it says.
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigset_t set;

	sigfillset(&action.sa_mask);
	if (sigaction(kick->signal, &action, NULL) < 0)
		return -errno;
	sigemptyset(&set);
	sigaddset(&set, kick->signal);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	prctl(PR_SET_TIMERSLACK, 1UL);
	kick->slot = claim_slot(kick);
	if (kick->slot < 0)
		return kick->slot;

	struct sigevent event = {
		.sigev_notify = SIGEV_THREAD_ID,
		.sigev_signo = kick->signal,
		.sigev_value.sival_int = kick->slot,
	};
	event.sigev_notify_thread_id = kick->thread;
	if (timer_create(CLOCK_MONOTONIC, &event, &kick->timer) < 0)
		return -errno;
	kick->has_timer = true;
	return 0;
}

int kick_open(struct kick *kick, struct vmm_clock *clock, int signal,
	      void (*leave)(struct vmm *), struct vmm *engine)
{
	int error;

	*kick = (struct kick){
		.eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
		.deadline = INFINITY,
		.armed = INFINITY,
		.clock = clock,
		.leave = leave,
		.engine = engine,
		.signal = signal,
		.thread = (int)syscall(SYS_gettid),
		.slot = -1,
	};
	error = kick->eventfd < 0 ? -errno : 0;
	if (!error && clock->mode == VMM_CLOCK_REAL)
		error = open_timer(kick);
	if (error)
		kick_close(kick);
	return error;
}

void kick_close(struct kick *kick)
{
	if (!kick->clock)
		return;
	if (kick->has_timer)
		timer_delete(kick->timer);
	if (kick->slot >= 0)
		__atomic_store_n(&kicks[kick->slot], NULL, __ATOMIC_SEQ_CST);
	if (kick->eventfd >= 0)
		close(kick->eventfd);
	kick->clock = NULL;
}

int64_t kick_now(const struct kick *kick)
{
	const struct vmm_clock *clock = kick->clock;
	struct timespec now;

	if (clock->mode == VMM_CLOCK_VIRTUAL)
		return (int64_t)(clock->blocks * clock->ns_per_block) + clock->warp;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NS + now.tv_nsec - clock->origin + clock->warp;
}

static void arm(struct kick *kick, double host)
{
	int64_t at = host < 1 ? 1 : (int64_t)host;
	struct itimerspec when = { .it_value = { .tv_sec = at / NS, .tv_nsec = at % NS } };

	timer_settime(kick->timer, TIMER_ABSTIME, &when, NULL);
	kick->armed = host;
}

// Host time of the deadline.
static double host_deadline(const struct kick *kick)
{
	return kick->deadline - (double)kick->clock->warp + (double)kick->clock->origin;
}

void kick_deadline(struct kick *kick, double guest_ns)
{
	kick->deadline = guest_ns;
	if (kick->has_timer && guest_ns < INFINITY && host_deadline(kick) < kick->armed - SLACK_NS)
		arm(kick, host_deadline(kick));
}

bool kick_due(struct kick *kick)
{
	if (!kick->fired)
		return false;
	kick->fired = 0;
	kick->armed = INFINITY;
	if (!(kick->deadline < INFINITY))
		return false;
	if ((double)kick_now(kick) < kick->deadline) {
		arm(kick, host_deadline(kick));
		return false;
	}
	kick->deadline = INFINITY;
	return true;
}

static int poll_until(struct kick *kick, double until, const int32_t *fds, uint32_t count)
{
	struct pollfd polled[MAX_WAIT_FDS + 1] = { { .fd = kick->eventfd, .events = POLLIN } };
	struct timespec timeout = { 0 };
	bool forever = !(until < INFINITY);

	for (uint32_t i = 0; i < count; i++)
		polled[i + 1] = (struct pollfd){ .fd = fds[i], .events = POLLIN };
	if (kick->clock->mode == VMM_CLOCK_REAL && !forever) {
		double ahead = until - (double)kick_now(kick);

		// Longer than a day: the caller looks again then.
		if (ahead > 86400e9)
			ahead = 86400e9;
		if (ahead > 0) {
			timeout.tv_sec = (int64_t)ahead / NS;
			timeout.tv_nsec = (int64_t)ahead % NS;
		}
	}
	return ppoll(polled, count + 1, forever ? NULL : &timeout, NULL);
}

int kick_wait(struct kick *kick, double until, const int32_t *fds, uint32_t count)
{
	uint64_t drained;
	int ready = 0, kicked;

	if (count > MAX_WAIT_FDS)
		return -EINVAL;
	__atomic_store_n(&kick->waiting, 1, __ATOMIC_SEQ_CST);
	if (!__atomic_load_n(&kick->kicked, __ATOMIC_SEQ_CST)) {
		do
			ready = poll_until(kick, until, fds, count);
		while (ready < 0 && errno == EINTR &&
		       !__atomic_load_n(&kick->kicked, __ATOMIC_SEQ_CST));
	}
	__atomic_store_n(&kick->waiting, 0, __ATOMIC_SEQ_CST);
	while (read(kick->eventfd, &drained, sizeof(drained)) > 0)
		;
	kicked = (int)__atomic_exchange_n(&kick->kicked, 0, __ATOMIC_SEQ_CST);
	if (!kicked && ready == 0 && kick->clock->mode == VMM_CLOCK_VIRTUAL &&
	    until > (double)kick_now(kick))
		kick->clock->warp += (int64_t)(until - (double)kick_now(kick)) + 1;
	return kicked;
}

void kick_thread(struct kick *kick)
{
	uint64_t one = 1;

	__atomic_store_n(&kick->kicked, 1, __ATOMIC_SEQ_CST);
	kick->leave(kick->engine);
	if (__atomic_load_n(&kick->waiting, __ATOMIC_SEQ_CST) &&
	    write(kick->eventfd, &one, sizeof(one)) < 0)
		return; // full: it is readable already
}

void kick_interrupt(const struct kick *kick)
{
	syscall(SYS_tgkill, getpid(), kick->thread, kick->signal);
}
