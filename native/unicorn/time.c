/* SPDX-License-Identifier: ISC */
/*
 * time.c: the guest's clock, deadlines, kicks and waiting.
 *
 * Real time: a POSIX timer signals the thread that opened the engine, whose
 * handler breaks the chain of translated blocks. Arming costs a system call,
 * so a later deadline waits for the armed one to pass.
 *
 * Virtual time: each block counts. The block hook runs before the block tests
 * whether to leave; a block that is about to leave isn't counted, as it comes
 * again. Kicks are looked at there, so that another thread's doesn't disturb
 * the count.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define TIMER_SIGNAL (SIGRTMIN + 3)
#define MAX_ENGINES 1024
#define MAX_WAIT_FDS 64
#define NS 1000000000ll
/* A deadline this little before the armed one isn't worth a system call. */
#define SLACK_NS 20000.0

/* For the signal handler, which may find that its engine has closed. */
static struct vmm *registry[MAX_ENGINES];

static s64 host_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NS + now.tv_nsec;
}

static s64 guest_ns(struct vmm *vm)
{
	struct vmm_clock *clock = vm->clock;

	if (clock->mode == VMM_CLOCK_VIRTUAL)
		return clock->blocks * clock->ns_per_block + clock->warp;
	return host_ns() - clock->origin + clock->warp;
}

double vmm_now(struct vmm *vm)
{
	return guest_ns(vm);
}

u64 time_tsc(struct vmm *vm)
{
	return guest_ns(vm) + vm->tsc_offset;
}

/* ----------------------------------------------------------------------- timer */

static void on_timer(int signal, siginfo_t *info, void *context)
{
	u32 index = info->si_value.sival_int;
	struct vmm *vm = index < MAX_ENGINES ? registry[index] : NULL;

	(void)signal, (void)context;
	if (!vm)
		return;
	vm->timer_fired = 1;
	engine_attend(vm);
}

static void arm(struct vmm *vm, double host)
{
	struct itimerspec when = { 0 };
	s64 ns = host < 1 ? 1 : (s64)host;

	when.it_value.tv_sec = ns / NS;
	when.it_value.tv_nsec = ns % NS;
	timer_settime(vm->timer, TIMER_ABSTIME, &when, NULL);
	vm->armed = host;
}

/* Host time of the deadline. */
static double host_deadline(struct vmm *vm)
{
	return vm->deadline - vm->clock->warp + vm->clock->origin;
}

int vmm_set_deadline(struct vmm *vm, double guest)
{
	vm->deadline = guest;
	if (vm->virtual_time)
		return 0; /* time_prepare turns it into a block's number */
	if (guest < INFINITY && host_deadline(vm) < vm->armed - SLACK_NS)
		arm(vm, host_deadline(vm));
	return 0;
}

/* At an instruction boundary: has the deadline passed? */
bool time_due(struct vmm *vm)
{
	if (vm->virtual_time) {
		if (vm->clock->blocks < vm->deadline_block)
			return false;
		vm->deadline_block = ~0ull; /* until vmm_run prepares again */
	} else {
		if (!vm->timer_fired)
			return false;
		vm->timer_fired = 0;
		vm->armed = INFINITY;
		if (!(vm->deadline < INFINITY))
			return false;
		if (guest_ns(vm) < vm->deadline) {
			arm(vm, host_deadline(vm));
			return false;
		}
	}
	vm->deadline = INFINITY;
	return true;
}

/* ---------------------------------------------------------------- virtual time */

static void on_block(uc_engine *uc, uint64_t address, uint32_t size, void *data)
{
	struct vmm *vm = data;

	(void)uc, (void)address, (void)size;
	if (unlikely(vm->leave || vm->clock->blocks >= vm->deadline_block)) {
		/* This block leaves at once and comes again. */
		vm->attention = 1;
		FIELD(vm->cs, CS_ICOUNT_HIGH, u16) = 0xffff;
		return;
	}
	vm->clock->blocks++;
}

/* The deadline as a number of blocks; the caller may have warped the clock. */
void time_prepare(struct vmm *vm)
{
	double blocks = (vm->deadline - vm->clock->warp) / vm->clock->ns_per_block;

	if (blocks <= 0)
		vm->deadline_block = 0;
	else if (blocks >= 0x1p62)
		vm->deadline_block = ~0ull;
	else
		vm->deadline_block = (u64)blocks + (blocks > (u64)blocks);
}

/* ----------------------------------------------------------------- kick and wait */

void vmm_kick(struct vmm *vm)
{
	u64 one = 1;

	__atomic_store_n(&vm->kicked, 1, __ATOMIC_SEQ_CST);
	engine_attend(vm);
	if (__atomic_load_n(&vm->waiting, __ATOMIC_SEQ_CST) &&
	    write(vm->event, &one, sizeof(one)) < 0)
		return; /* full: it is readable */
}

static int poll_until(struct vmm *vm, double until, const int32_t *fds, u32 count)
{
	struct pollfd polled[MAX_WAIT_FDS + 1];
	struct timespec timeout = { 0 }, *limit = &timeout;
	s64 ns;

	polled[0] = (struct pollfd){ .fd = vm->event, .events = POLLIN };
	for (u32 i = 0; i < count; i++)
		polled[i + 1] = (struct pollfd){ .fd = fds[i], .events = POLLIN };
	if (!(until < INFINITY)) {
		limit = NULL;
	} else if (!vm->virtual_time && until > guest_ns(vm)) {
		ns = (s64)(until - guest_ns(vm));
		timeout.tv_sec = ns / NS;
		timeout.tv_nsec = ns < 0 ? 0 : ns % NS;
	}
	return ppoll(polled, count + 1, limit, NULL);
}

/*
 * With virtual time nothing sleeps until a finite time: if no kick and no input
 * is there, the clock jumps (clock->warp).
 */
int vmm_wait(struct vmm *vm, double until, const int32_t *fds, uint32_t count)
{
	u64 drained;
	int ready = 0, kicked;

	if (count > MAX_WAIT_FDS)
		return -EINVAL;
	__atomic_store_n(&vm->waiting, 1, __ATOMIC_SEQ_CST);
	if (!__atomic_load_n(&vm->kicked, __ATOMIC_SEQ_CST)) {
		do
			ready = poll_until(vm, until, fds, count);
		while (ready < 0 && errno == EINTR &&
		       !__atomic_load_n(&vm->kicked, __ATOMIC_SEQ_CST));
	}
	__atomic_store_n(&vm->waiting, 0, __ATOMIC_SEQ_CST);
	while (read(vm->event, &drained, sizeof(drained)) > 0)
		;
	kicked = __atomic_exchange_n(&vm->kicked, 0, __ATOMIC_SEQ_CST);
	if (!kicked && ready == 0 && vm->virtual_time && until > guest_ns(vm))
		vm->clock->warp += (s64)(until - guest_ns(vm)) + 1;
	return kicked;
}

/* ------------------------------------------------------------- opening, closing */

static int enter_registry(struct vmm *vm)
{
	struct vmm *free_place;

	for (u32 i = 0; i < MAX_ENGINES; i++) {
		free_place = NULL;
		if (__atomic_compare_exchange_n(&registry[i], &free_place, vm, false,
						__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
			vm->registry = i;
			return 0;
		}
	}
	return -EAGAIN;
}

static int timer_open(struct vmm *vm)
{
	struct sigaction action = { .sa_sigaction = on_timer,
				    .sa_flags = SA_SIGINFO | SA_RESTART };
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID,
				  .sigev_signo = TIMER_SIGNAL };
	sigset_t set;

	sigfillset(&action.sa_mask);
	sigaction(TIMER_SIGNAL, &action, NULL);
	sigemptyset(&set);
	sigaddset(&set, TIMER_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	event.sigev_value.sival_int = vm->registry;
	event.sigev_notify_thread_id = syscall(SYS_gettid);
	if (timer_create(CLOCK_MONOTONIC, &event, &vm->timer) < 0)
		return -errno;
	vm->has_timer = true;
	return 0;
}

int time_open(struct vmm *vm, char *why, size_t size)
{
	uc_hook hook;
	int result;

	vm->deadline = INFINITY;
	vm->armed = INFINITY;
	vm->deadline_block = ~0ull;
	vm->registry = MAX_ENGINES;
	vm->virtual_time = vm->clock->mode == VMM_CLOCK_VIRTUAL;
	vm->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vm->event < 0) {
		snprintf(why, size, "No eventfd: %s.", strerror(errno));
		return -errno;
	}
	if (vm->virtual_time) {
		if (!vm->clock->ns_per_block) {
			snprintf(why, size, "A virtual clock needs ns_per_block.");
			return -EINVAL;
		}
		uc_hook_add(vm->uc, &hook, UC_HOOK_BLOCK, (void *)on_block, vm, 1, 0);
		return 0;
	}
	result = enter_registry(vm);
	if (result == 0)
		result = timer_open(vm);
	if (result < 0)
		snprintf(why, size, "No timer: %s.", strerror(-result));
	return result;
}

void time_close(struct vmm *vm)
{
	if (vm->has_timer)
		timer_delete(vm->timer);
	if (vm->registry < MAX_ENGINES && registry[vm->registry] == vm)
		__atomic_store_n(&registry[vm->registry], NULL, __ATOMIC_SEQ_CST);
	if (vm->event >= 0)
		close(vm->event);
}
