// SPDX-License-Identifier: ISC
/*
 * watch.c: a thread that waits for descriptors while the vCPU runs, and kicks it.
 *
 * A VM process has one JavaScript thread, and that one is inside the guest. This
 * thread only says that something came: it sets a word, and kicks. It reads nothing.
 */
#define _GNU_SOURCE
#include "watch.h"
#include "vmm.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define EVENTS 16
#define STACK (64u << 10)

static struct {
	pthread_mutex_t lock; /* over target: no kick may meet a closed engine */
	void (*kick)(struct vmm *);
	void (*nudge)(struct vmm *);
	struct vmm *target;
	int epoll;
	int timer;
	int32_t attention;
} watch = { .lock = PTHREAD_MUTEX_INITIALIZER, .epoll = -1, .timer = -1 };

void watch_nudge(void)
{
	pthread_mutex_lock(&watch.lock);
	if (watch.target)
		watch.nudge(watch.target);
	pthread_mutex_unlock(&watch.lock);
}

// Whatever its thread waits for: a reader, the end of a pause.
static void kick(void)
{
	pthread_mutex_lock(&watch.lock);
	if (watch.target)
		watch.kick(watch.target);
	pthread_mutex_unlock(&watch.lock);
}

static void *watch_thread(void *unused)
{
	struct epoll_event events[EVENTS];

	(void)unused;
	for (;;) {
		if (epoll_wait(watch.epoll, events, EVENTS, -1) < 0 && errno != EINTR)
			return NULL;
		__atomic_store_n(&watch.attention, 1, __ATOMIC_SEQ_CST);
		kick();
	}
}

int watch_start_thread(void *(*run)(void *), void *argument)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	pthread_t thread;
	int error;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK > PTHREAD_STACK_MIN ? STACK : PTHREAD_STACK_MIN);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	// Signals are for the others. Not all: the sandbox reaches every thread by one.
	sigfillset(&all);
	sigdelset(&all, SIGSYS);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	error = pthread_create(&thread, &attributes, run, argument);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return error;
}

int vmm_alone(void)
{
	cpu_set_t processors;

	return sched_getaffinity(0, sizeof processors, &processors) == 0 &&
	       CPU_COUNT(&processors) == 1;
}

int32_t *vmm_watch_open(void)
{
	if (watch.epoll >= 0)
		return &watch.attention;
	watch.epoll = epoll_create1(EPOLL_CLOEXEC);
	if (watch.epoll < 0)
		return NULL;
	watch.timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (watch.timer < 0 || vmm_watch(watch.timer, VMM_WATCH_INPUT) < 0 ||
	    watch_start_thread(watch_thread, NULL)) {
		if (watch.timer >= 0)
			close(watch.timer);
		close(watch.epoll);
		watch.epoll = -1;
		return NULL;
	}
	return &watch.attention;
}

int vmm_watch_later(uint32_t us)
{
	// Setting it anew makes it one that has not come: nobody has to read it.
	const struct itimerspec when = { .it_value = { .tv_sec = us / 1000000,
						       .tv_nsec = us % 1000000 * 1000 + 1 } };

	return timerfd_settime(watch.timer, 0, &when, NULL) < 0 ? -errno : 0;
}

int vmm_watch(int32_t fd, int32_t what)
{
	// Each arrival once: whoever is kicked reads until there is no more.
	struct epoll_event event = { .events = EPOLLET };

	if (what == 0)
		return epoll_ctl(watch.epoll, EPOLL_CTL_DEL, fd, NULL) < 0 ? -errno : 0;
	if (what & VMM_WATCH_INPUT)
		event.events |= EPOLLIN | EPOLLRDHUP;
	if (what & VMM_WATCH_ROOM)
		event.events |= EPOLLOUT;
	if (epoll_ctl(watch.epoll, EPOLL_CTL_ADD, fd, &event) == 0)
		return 0;
	if (errno != EEXIST || epoll_ctl(watch.epoll, EPOLL_CTL_MOD, fd, &event) < 0)
		return -errno;
	return 0;
}

int vmm_watch_target(const char *library, struct vmm *vmm)
{
	void (*kick)(struct vmm *) = NULL;
	void (*nudge)(struct vmm *) = NULL;

	if (vmm) {
		void *handle = dlopen(library, RTLD_NOW | RTLD_NOLOAD);

		if (!handle)
			return -ENOENT;
		*(void **)&kick = dlsym(handle, "vmm_kick");
		*(void **)&nudge = dlsym(handle, "vmm_nudge");
		dlclose(handle);
		if (!kick || !nudge)
			return -ENOENT;
	}
	pthread_mutex_lock(&watch.lock);
	watch.kick = kick;
	watch.nudge = nudge;
	watch.target = vmm;
	pthread_mutex_unlock(&watch.lock);
	return 0;
}
