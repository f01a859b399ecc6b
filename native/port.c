// SPDX-License-Identifier: ISC
/*
 * port.c: a thread for each network interface moves frames between a descriptor (a tap,
 * a socket) and guest memory, without a copy, while the vCPU goes on.
 *
 * JavaScript checks what the guest offers, and puts it into two rings: frames to send,
 * buffers to fill. The thread fills and empties them in order, and kicks the vCPU when
 * something is done, once until somebody has looked. Counters only count up; each has
 * one writer.
 */
#define _GNU_SOURCE
#include "port.h"
#include "watch.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SETTLE_STEPS 500 /* of 0.2 ms */
// A frame waits for more buffers so long, ms; then it is cut, as is one that can't get more.
#define SHORTAGE 100

static void tell(struct port *port)
{
	if (!__atomic_exchange_n(&port->shared.told, 1, __ATOMIC_SEQ_CST))
		watch_nudge();
}

static void *port_thread(void *argument)
{
	struct port *port = argument;
	struct vmm_net_shared *shared = &port->shared;

	for (;;) {
		const uint32_t sent = shared->tx_done;
		const uint32_t came = shared->rx_done;
		bool out = false;
		bool starved = true;

		if (!load(&shared->stopped)) {
			out = port_send_all(port);
			starved = port_receive_all(port);
		}
		if (shared->tx_done != sent || shared->rx_done != came)
			tell(port);

		struct pollfd fds[2] = { { .fd = port->wake, .events = POLLIN },
					 { .fd = port->fd, .events = 0 } };

		// JavaScript looks at this after it has put something into a ring. What the
		// descriptor says first needs nobody's call.
		store(&shared->asleep, (out ? 0 : VMM_NET_FRAMES) | (starved ? VMM_NET_BUFFERS : 0));
		if (!load(&shared->stopped)) {
			if (!out && shared->tx_done != load(&shared->tx_tail)) {
				store(&shared->asleep, 0);
				continue;
			}
			if (starved && port_has_room(port)) {
				store(&shared->asleep, 0);
				continue;
			}
			if (out)
				fds[1].events |= POLLOUT;
			if (!starved && !shared->ended)
				fds[1].events |= POLLIN;
		} else {
			store(&shared->resting, 1);
		}
		// Its hanging up would be told again and again.
		if (fds[1].events == 0)
			fds[1].fd = -1;
		if (poll(fds, 2, port->too_few > 0 ? SHORTAGE : -1) == 0)
			port->cut = true;
		store(&shared->asleep, 0);
		store(&shared->resting, 0);
		if (fds[0].revents) {
			uint64_t count;

			if (read(port->wake, &count, sizeof count) < 0 && errno != EAGAIN)
				return NULL;
		}
	}
}

struct vmm_net_shared *vmm_port_open(int32_t fd, uint32_t kind)
{
	struct port *port = mmap(NULL, sizeof *port, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (port == MAP_FAILED)
		return NULL;
	port->fd = fd;
	port->kind = kind;
	port->shared.stopped = 1;
	port->shared.alone = (uint32_t)vmm_alone();
	port->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&port->lock, NULL);
	if (kind == VMM_NET_STREAM)
		port->stream = malloc(STREAM_BUFFER);
	else
		port->rest = malloc(FRAME_MAX);
	if (port->wake < 0 || (!port->stream && !port->rest))
		goto fail;
	if (!watch_start_thread(port_thread, port))
		return &port->shared;
fail:
	if (port->wake >= 0)
		close(port->wake);
	free(port->stream);
	free(port->rest);
	munmap(port, sizeof *port);
	return NULL;
}

void vmm_port_wake(struct vmm_net_shared *shared)
{
	struct port *port = (struct port *)shared;
	const uint64_t one = 1;

	if (write(port->wake, &one, sizeof one) < 0)
		return; // it is awake
}

int vmm_port_now(struct vmm_net_shared *shared, uint32_t slot)
{
	struct port *port = (struct port *)shared;

	if (port->kind == VMM_NET_STREAM)
		return -EAGAIN;
	return port_send_frame(port, &shared->tx[slot % VMM_NET_SLOTS]);
}

int vmm_port_inject(struct vmm_net_shared *shared, const uint8_t *frame, uint32_t length)
{
	struct port *port = (struct port *)shared;
	uint8_t *copy = length <= FRAME_MAX ? malloc(length) : NULL;
	int result = -ENOBUFS;

	if (!copy)
		return -ENOMEM;
	memcpy(copy, frame, length);
	pthread_mutex_lock(&port->lock);
	if (port->injected_count < VMM_NET_INJECTED) {
		port->injected[port->injected_count] = copy;
		port->injected_length[port->injected_count++] = length;
		result = 0;
	}
	pthread_mutex_unlock(&port->lock);
	if (result < 0)
		free(copy);
	else
		vmm_port_wake(shared);
	return result;
}

static void halt(struct vmm_net_shared *shared)
{
	store(&shared->stopped, 1);
	do {
		vmm_port_wake(shared);
		sched_yield();
	} while (!load(&shared->resting));
}

void vmm_port_settle(struct vmm_net_shared *shared)
{
	const struct timespec step = { .tv_nsec = 200000 };

	for (int i = 0; i < SETTLE_STEPS && load(&shared->tx_done) != shared->tx_tail; i++)
		nanosleep(&step, NULL);
	halt(shared);
}

void vmm_port_stop(struct vmm_net_shared *shared)
{
	struct port *port = (struct port *)shared;

	halt(shared);
	port->rest_length = 0;
	port->too_few = 0;
	port->cut = false;
	shared->tx_tail = shared->tx_done = 0;
	shared->rx_tail = shared->rx_taken = shared->rx_done = shared->rx_seen = 0;
}
