// SPDX-License-Identifier: ISC
/*
 * switch.c: an Ethernet switch between VMs, for users that can't make a bridge. Its ports
 * are sockets, each with a VM process at its other end. It waits for nobody: a receiver
 * that is full loses packets, as on any wire.
 */
#define _GNU_SOURCE
#include "net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 32u
#define EVENTS 64
#define CONTROL UINT32_MAX
#define GROUP 0x010000000000ull
/* 01:80:c2:00:00:0x: for this switch alone, not to be forwarded (802.1D §7.12.6). */
#define RESERVED 0x0180c2000000ull

struct port {
	int fd; /* -1: no such port */
	bool ended, locked;
	uint32_t offloads;
	struct vmm_port_counts counts;
};

struct vmm_switch {
	int epoll;
	uint32_t mtu, top; /* no port is above `top` */
	bool ended;
	struct stations *stations;
	struct port ports[NET_PORTS];
	struct mmsghdr messages[BATCH];
	struct iovec vectors[BATCH];
	uint8_t packets[BATCH][NET_LONGEST + 1];
	uint8_t space[NET_LONGEST];
};

/* Packets of a batch behind each other that go to one port. */
struct run {
	uint32_t first, count;
	int port;
};

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int wait_for(struct vmm_switch *sw, int fd, uint32_t number)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = number };

	return epoll_ctl(sw->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

struct vmm_switch *vmm_switch_open(int32_t control, uint32_t mtu, uint32_t ageing)
{
	struct vmm_switch *sw = calloc(1, sizeof(*sw));

	if (!sw)
		return NULL;
	sw->mtu = mtu;
	sw->stations = stations_make(ageing);
	sw->epoll = epoll_create1(EPOLL_CLOEXEC);
	for (uint32_t i = 0; i < NET_PORTS; i++)
		sw->ports[i].fd = -1;
	for (uint32_t i = 0; i < BATCH; i++) {
		sw->messages[i].msg_hdr.msg_iov = &sw->vectors[i];
		sw->messages[i].msg_hdr.msg_iovlen = 1;
	}
	if (sw->epoll < 0 || !sw->stations || (control >= 0 && wait_for(sw, control, CONTROL) < 0)) {
		vmm_switch_close(sw);
		return NULL;
	}
	return sw;
}

void vmm_switch_close(struct vmm_switch *sw)
{
	for (uint32_t i = 0; i < NET_PORTS; i++) {
		if (sw->ports[i].fd >= 0)
			close(sw->ports[i].fd);
	}
	if (sw->epoll >= 0)
		close(sw->epoll);
	stations_free(sw->stations);
	free(sw);
}

static uint64_t address(const uint8_t *bytes)
{
	uint64_t mac = 0;

	for (int i = 0; i < 6; i++)
		mac = mac << 8 | bytes[i];
	return mac;
}

int vmm_switch_add(struct vmm_switch *sw, int32_t fd, const uint8_t *locked)
{
	uint32_t number = 0;
	int error;

	while (number < NET_PORTS && sw->ports[number].fd >= 0)
		number++;
	if (number == NET_PORTS)
		return -ENOSPC;
	if (locked) {
		error = stations_lock(sw->stations, address(locked), number);
		if (error)
			return error;
	}
	error = wait_for(sw, fd, number);
	if (error) {
		stations_forget(sw->stations, number);
		return error;
	}
	sw->ports[number] = (struct port){ .fd = fd, .locked = locked != NULL };
	if (number >= sw->top)
		sw->top = number + 1;
	return (int)number;
}

static struct port *port_at(struct vmm_switch *sw, uint32_t number)
{
	return number < NET_PORTS && sw->ports[number].fd >= 0 ? &sw->ports[number] : NULL;
}

int vmm_switch_remove(struct vmm_switch *sw, uint32_t number)
{
	struct port *port = port_at(sw, number);

	if (!port)
		return -ENOENT;
	close(port->fd);
	port->fd = -1;
	stations_forget(sw->stations, number);
	while (sw->top > 0 && sw->ports[sw->top - 1].fd < 0)
		sw->top--;
	return 0;
}

int vmm_switch_ended(struct vmm_switch *sw)
{
	for (uint32_t i = 0; i < sw->top; i++) {
		if (sw->ports[i].fd >= 0 && sw->ports[i].ended)
			return (int)i;
	}
	sw->ended = false;
	return -1;
}

int vmm_switch_counts(struct vmm_switch *sw, uint32_t number, struct vmm_port_counts *counts)
{
	struct port *port = port_at(sw, number);

	if (!port)
		return -ENOENT;
	*counts = port->counts;
	return 0;
}

static void end(struct vmm_switch *sw, struct port *port)
{
	// Else a socket that has ended would be reported for ever.
	epoll_ctl(sw->epoll, EPOLL_CTL_DEL, port->fd, NULL);
	port->ended = true;
	sw->ended = true;
}

/* ------------------------------------------------------------------------ out */

static void transmit(struct vmm_switch *sw, struct port *port, struct mmsghdr *messages,
		     uint32_t count)
{
	while (count > 0 && !port->ended) {
		int sent = sendmmsg(port->fd, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent > 0) {
			for (int i = 0; i < sent; i++)
				port->counts.sent_bytes += messages[i].msg_hdr.msg_iov->iov_len - NET_HEADER;
			port->counts.sent += (uint32_t)sent;
			messages += sent;
			count -= (uint32_t)sent;
		} else if (sent < 0 && errno == EINTR) {
			continue;
		} else if (sent < 0 && errno == EMSGSIZE) {
			port->counts.dropped++;
			messages++;
			count--;
		} else if (sent < 0 && (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN)) {
			end(sw, port);
		} else {
			port->counts.dropped += count;
			return;
		}
	}
}

struct outlet {
	struct vmm_switch *sw;
	struct port *port;
};

static void transmit_one(void *context, uint8_t *packet, uint32_t length)
{
	struct outlet *outlet = context;
	struct iovec vector = { .iov_base = packet, .iov_len = length };
	struct mmsghdr message = { .msg_hdr = { .msg_iov = &vector, .msg_iovlen = 1 } };

	transmit(outlet->sw, outlet->port, &message, 1);
}

static void deliver(struct vmm_switch *sw, struct port *port, uint32_t first, uint32_t count)
{
	for (uint32_t i = first; i < first + count;) {
		uint32_t whole = i;

		// Those that the port takes as they are, at once.
		while (whole < first + count &&
		       (net_needs(sw->packets[whole]) & ~port->offloads) == 0)
			whole++;
		transmit(sw, port, &sw->messages[i], whole - i);
		i = whole;
		if (i < first + count) {
			struct outlet outlet = { .sw = sw, .port = port };

			net_complete(sw->packets[i], (uint32_t)sw->vectors[i].iov_len, sw->space,
				     transmit_one, &outlet);
			i++;
		}
	}
}

static void flush(struct vmm_switch *sw, struct run *run)
{
	if (run->count > 0)
		deliver(sw, &sw->ports[run->port], run->first, run->count);
	run->count = 0;
}

static void flood(struct vmm_switch *sw, uint32_t from, uint32_t packet)
{
	uint32_t segments = net_needs(sw->packets[packet]) & (NET_TSO4 | NET_TSO6);

	for (uint32_t i = 0; i < sw->top; i++) {
		struct port *port = &sw->ports[i];

		if (i == from || port->fd < 0 || port->ended)
			continue;
		// One packet cut for every port would be work for a guest to make others wait
		// with. TCP's next try is one segment.
		if (segments & ~port->offloads)
			port->counts.dropped++;
		else
			deliver(sw, port, packet, 1);
	}
}

/* ------------------------------------------------------------------------- in */

// False: the packet is none, or not this port's to send.
static bool admit(struct vmm_switch *sw, uint32_t from, uint32_t packet, uint32_t length,
		  uint64_t now)
{
	uint8_t *bytes = sw->packets[packet];

	if (vmm_net_check(bytes, length, sw->mtu) != 0)
		return false;

	uint64_t source = address(bytes + NET_HEADER + 6);

	if (source == 0 || (source & GROUP) != 0)
		return false;
	if (sw->ports[from].locked)
		return stations_find(sw->stations, source, now) == (int)from;
	return stations_learn(sw->stations, source, from, now);
}

static void forward(struct vmm_switch *sw, uint32_t from, uint32_t packet, struct run *run,
		    uint64_t now)
{
	uint64_t to = address(sw->packets[packet] + NET_HEADER);
	int port = -1;

	if ((to & ~0xfull) == RESERVED)
		return;
	if ((to & GROUP) == 0)
		port = stations_find(sw->stations, to, now);
	if (port == (int)from)
		return;
	if (port < 0) {
		flush(sw, run);
		flood(sw, from, packet);
		return;
	}
	if (run->count == 0 || run->port != port || run->first + run->count != packet) {
		flush(sw, run);
		*run = (struct run){ .first = packet, .port = port };
	}
	run->count++;
}

static uint32_t get_offloads(const uint8_t *bytes)
{
	uint32_t offloads = bytes[0] & (NET_CSUM | NET_TSO4 | NET_TSO6);

	// Nobody can take segments without completing their checksums.
	return offloads & NET_CSUM ? offloads : 0;
}

// At most one batch: then the others have their turn.
static void serve(struct vmm_switch *sw, uint32_t number)
{
	struct port *port = port_at(sw, number);
	struct run run = { 0 };
	uint64_t now = now_ms();
	int got;

	if (!port || port->ended)
		return;
	for (uint32_t i = 0; i < BATCH; i++)
		sw->vectors[i] = (struct iovec){ sw->packets[i], sizeof(sw->packets[i]) };
	got = recvmmsg(port->fd, sw->messages, BATCH, MSG_DONTWAIT, NULL);
	if (got < 0) {
		if (errno != EAGAIN && errno != EINTR)
			end(sw, port);
		return;
	}
	for (uint32_t i = 0; i < (uint32_t)got; i++) {
		uint32_t length = sw->messages[i].msg_len;

		if (length == 0) {
			end(sw, port);
			break;
		}
		sw->vectors[i].iov_len = length;
		if (length == 4) {
			port->offloads = get_offloads(sw->packets[i]);
			continue;
		}
		if (!admit(sw, number, i, length, now)) {
			port->counts.refused++;
			continue;
		}
		port->counts.received++;
		port->counts.received_bytes += length - NET_HEADER;
		forward(sw, number, i, &run, now);
	}
	flush(sw, &run);
}

int vmm_switch_run(struct vmm_switch *sw, int32_t timeout)
{
	struct epoll_event events[EVENTS];

	for (;;) {
		int ready = epoll_wait(sw->epoll, events, EVENTS, timeout);
		int result = 0;

		if (ready < 0 && errno != EINTR)
			return -errno;
		for (int i = 0; i < ready; i++) {
			if (events[i].data.u32 == CONTROL)
				result |= VMM_SWITCH_CONTROL;
			else
				serve(sw, events[i].data.u32);
		}
		if (sw->ended)
			result |= VMM_SWITCH_ENDED;
		if (result || ready == 0)
			return result;
	}
}
