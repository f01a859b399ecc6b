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
#include "vmm.h"
#include "watch.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>


#define SETTLE_STEPS 500 /* of 0.2 ms */
#define HEADER VMM_NET_HEADER
// The largest frame with its header: 64 KiB of IP behind an Ethernet header.
#define FRAME_MAX (HEADER + 14u + 65535u + 4u)
// Frames that one turn receives before it looks at what is to be sent.
#define BURST 64
#define STREAM_BUFFER (256u << 10)
// A frame waits for more buffers so long, ms; then it is cut, as is one that can't get more.
#define SHORTAGE 100

struct port {
	struct vmm_net_shared shared; /* first: JavaScript has its address */
	int fd;
	int wake;
	uint32_t kind;
	/* of a stream: what was read and not taken, what is left of a frame that is being sent */
	uint8_t *stream;
	size_t stream_start, stream_end;
	size_t sent;
	/* a frame of `length` bytes of which the last `rest_length` found no buffer */
	uint8_t *rest;
	size_t length, rest_length;
	uint32_t too_few; /* buffers that were there for a frame that needs more; 0: none waits */
	bool cut;	  /* it has waited long enough */
	/* frames of the host's own for the guest */
	pthread_mutex_t lock;
	uint8_t *injected[VMM_NET_INJECTED];
	uint32_t injected_length[VMM_NET_INJECTED];
	uint32_t injected_count;
};

static uint32_t load(const uint32_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_SEQ_CST);
}

static void store(uint32_t *counter, uint32_t value)
{
	__atomic_store_n(counter, value, __ATOMIC_SEQ_CST);
}

static void tell(struct port *port)
{
	if (!__atomic_exchange_n(&port->shared.told, 1, __ATOMIC_SEQ_CST))
		watch_nudge();
}

/* -------------------------------------------------------------------- sending */

static size_t fill_vector(const struct vmm_net_frame *frame, struct iovec *vector, uint32_t *count)
{
	size_t total = 0;
	uint32_t n = 0;

	if (frame->header_length > 0) {
		vector[n].iov_base = (void *)frame->header;
		vector[n].iov_len = (size_t)frame->header_length;
		total += vector[n++].iov_len;
	}
	for (uint32_t i = 0; i < (uint32_t)frame->count && i < VMM_NET_SEGMENTS; i++) {
		vector[n].iov_base = (void *)(uintptr_t)frame->segment[i].address;
		vector[n].iov_len = (size_t)frame->segment[i].length;
		total += vector[n++].iov_len;
	}
	*count = n;
	return total;
}

static void skip(struct iovec **vector, uint32_t *count, size_t bytes)
{
	while (*count > 0 && bytes >= (*vector)->iov_len) {
		bytes -= (*vector)->iov_len;
		(*vector)++;
		(*count)--;
	}
	if (*count > 0) {
		(*vector)->iov_base = (uint8_t *)(*vector)->iov_base + bytes;
		(*vector)->iov_len -= bytes;
	}
}

// A length of 32 bits before each frame, and no virtio header.
static int send_stream(struct port *port, struct iovec *guest, uint32_t count, size_t total)
{
	struct iovec room[VMM_NET_SEGMENTS + 2];
	struct iovec *vector = room + 1;
	const uint32_t length = (uint32_t)(total > HEADER ? total - HEADER : 0);
	const uint8_t prefix[4] = { (uint8_t)(length >> 24), (uint8_t)(length >> 16),
				    (uint8_t)(length >> 8), (uint8_t)length };

	memcpy(room + 1, guest, count * sizeof *guest);
	skip(&vector, &count, HEADER);
	vector--;
	count++;
	vector->iov_base = (void *)prefix;
	vector->iov_len = sizeof prefix;
	while (port->sent < sizeof prefix + length) {
		struct iovec left[VMM_NET_SEGMENTS + 2];
		struct iovec *at = left;
		uint32_t n = count;
		ssize_t moved;

		memcpy(left, vector, n * sizeof *vector);
		skip(&at, &n, port->sent);

		struct msghdr message = { .msg_iov = at, .msg_iovlen = n };

		moved = sendmsg(port->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (moved < 0 && errno == EINTR)
			continue;
		if (moved < 0)
			return -errno;
		port->sent += (size_t)moved;
	}
	port->sent = 0;
	return 0;
}

// 0: gone; -EAGAIN: not now; another error: the frame is lost, as frames are.
static int send_frame(struct port *port, const struct vmm_net_frame *frame)
{
	struct iovec vector[VMM_NET_SEGMENTS + 1];
	uint32_t count;
	size_t total = fill_vector(frame, vector, &count);
	ssize_t moved;

	if (port->kind == VMM_NET_STREAM)
		return send_stream(port, vector, count, total);
	do {
		if (port->kind == VMM_NET_TAP) {
			moved = writev(port->fd, vector, (int)count);
		} else {
			struct msghdr message = { .msg_iov = vector, .msg_iovlen = count };

			moved = sendmsg(port->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
		}
	} while (moved < 0 && errno == EINTR);
	return moved < 0 ? -errno : 0;
}

// Sends what is there; true when the descriptor takes no more now.
static bool send_all(struct port *port)
{
	struct vmm_net_shared *shared = &port->shared;
	uint32_t done = shared->tx_done;
	bool full = false;

	while (done != load(&shared->tx_tail)) {
		const int result = send_frame(port, &shared->tx[done % VMM_NET_SLOTS]);

		if (result == -EAGAIN) {
			full = true;
			break;
		}
		if (result < 0)
			shared->tx_lost++;
		done++;
		store(&shared->tx_done, done);
	}
	return full;
}

/* ------------------------------------------------------------------ receiving */

// Guest memory for the next frame.
struct room {
	struct iovec vector[VMM_NET_VECTOR + 1]; /* one more: what finds no buffer */
	uint32_t count, buffers;
	size_t bytes;
	bool grows; /* when the guest gives more buffers */
};

static void gather(struct port *port, struct room *room)
{
	struct vmm_net_shared *shared = &port->shared;
	const uint32_t tail = load(&shared->rx_tail);
	const uint32_t most = load(&shared->rx_merge) ? VMM_NET_MERGE : 1;
	uint32_t taken = shared->rx_taken;

	room->count = room->buffers = 0;
	room->bytes = 0;
	while (taken != tail && room->buffers < most && room->bytes < FRAME_MAX) {
		const struct vmm_net_frame *frame = &shared->rx[taken % VMM_NET_SLOTS];
		const uint32_t count = (uint32_t)frame->count;

		if (room->count + count > VMM_NET_VECTOR)
			break;
		for (uint32_t i = 0; i < count; i++) {
			struct iovec *vector = &room->vector[room->count++];

			vector->iov_base = (void *)(uintptr_t)frame->segment[i].address;
			vector->iov_len = (size_t)frame->segment[i].length;
			room->bytes += vector->iov_len;
		}
		taken++;
		room->buffers++;
	}
	room->grows = taken == tail && room->buffers < most && room->bytes < FRAME_MAX && !port->cut;
}

// `length` bytes have come: they fill so many of the buffers.
static void received(struct port *port, size_t length, uint32_t buffers)
{
	struct vmm_net_shared *shared = &port->shared;
	const uint32_t done = shared->rx_done;
	struct vmm_net_received *slot = &shared->received[done % VMM_NET_SLOTS];
	size_t room = 0;
	uint32_t used = 0;

	while (used < buffers && (used == 0 || room < length)) {
		const struct vmm_net_frame *frame = &shared->rx[(shared->rx_taken + used) % VMM_NET_SLOTS];

		for (uint32_t i = 0; i < (uint32_t)frame->count; i++)
			room += (size_t)frame->segment[i].length;
		used++;
	}
	slot->length = (uint32_t)(length < room ? length : room);
	slot->buffers = used;
	shared->rx_taken += used;
	store(&shared->rx_done, done + 1);
}

// JavaScript has looked at all but so many: no more fit.
static bool completions_full(const struct vmm_net_shared *shared)
{
	return shared->rx_done - load(&shared->rx_seen) >= VMM_NET_SLOTS;
}

static size_t scatter(struct iovec *vector, uint32_t count, const uint8_t *bytes, size_t length)
{
	size_t done = 0;

	for (uint32_t i = 0; i < count && done < length; i++) {
		size_t part = length - done < vector[i].iov_len ? length - done : vector[i].iov_len;

		memcpy(vector[i].iov_base, bytes + done, part);
		done += part;
	}
	return done;
}

static const uint8_t no_header[HEADER];

static void deliver(struct port *port, struct room *room, const uint8_t *frame, size_t length)
{
	struct iovec *vector = room->vector;
	uint32_t count = room->count;
	size_t header = scatter(vector, count, no_header, HEADER);

	skip(&vector, &count, header);
	received(port, header + scatter(vector, count, frame, length), room->buffers);
	port->cut = false;
}

// -EAGAIN: nothing is there; -ENOBUFS: a frame is, and no room; 0: it was received.
static int receive_stream(struct port *port, struct room *room)
{
	for (;;) {
		const size_t there = port->stream_end - port->stream_start;
		const uint8_t *at = port->stream + port->stream_start;
		ssize_t moved;

		if (there >= 4) {
			const size_t length = (size_t)at[0] << 24 | (size_t)at[1] << 16 |
					      (size_t)at[2] << 8 | at[3];

			if (length > FRAME_MAX)
				return -EPROTO;
			if (there >= 4 + length && HEADER + length > room->bytes && room->grows)
				return -ENOBUFS;
			if (there >= 4 + length) {
				deliver(port, room, at + 4, length);
				port->stream_start += 4 + length;
				return 0;
			}
		}
		if (port->stream_start > 0) {
			memmove(port->stream, at, there);
			port->stream_start = 0;
			port->stream_end = there;
		}
		moved = recv(port->fd, port->stream + there, STREAM_BUFFER - there, MSG_DONTWAIT);
		if (moved < 0 && errno == EINTR)
			continue;
		if (moved <= 0)
			return moved < 0 ? -errno : -EPIPE;
		port->stream_end += (size_t)moved;
	}
}

static bool take_injected(struct port *port, struct room *room)
{
	uint8_t *frame = NULL;
	uint32_t length = 0;

	pthread_mutex_lock(&port->lock);
	if (port->injected_count > 0) {
		frame = port->injected[0];
		length = port->injected_length[0];
		port->injected_count--;
		memmove(port->injected, port->injected + 1, port->injected_count * sizeof *port->injected);
		memmove(port->injected_length, port->injected_length + 1,
			port->injected_count * sizeof *port->injected_length);
	}
	pthread_mutex_unlock(&port->lock);
	if (!frame)
		return false;
	deliver(port, room, frame, length);
	free(frame);
	return true;
}

// As readv(2). What finds no buffer, but may yet, is kept in `rest`.
static ssize_t receive_packet(struct port *port, struct room *room)
{
	const uint32_t count = room->count;
	ssize_t moved;

	room->vector[count].iov_base = port->rest;
	room->vector[count].iov_len = FRAME_MAX;
	moved = readv(port->fd, room->vector, (int)(count + room->grows));
	if (moved <= 0)
		return moved;
	if ((size_t)moved > room->bytes && room->grows) {
		port->length = (size_t)moved;
		port->rest_length = (size_t)moved - room->bytes;
	} else {
		received(port, (size_t)moved, room->buffers);
	}
	return moved;
}

// The buffers that are there now begin with those that were. False: they are still too few.
static bool finish_packet(struct port *port, struct room *room)
{
	struct iovec *vector = room->vector;
	uint32_t count = room->count;

	if (room->bytes < port->length && room->grows)
		return false;
	skip(&vector, &count, port->length - port->rest_length);
	scatter(vector, count, port->rest, port->rest_length);
	received(port, port->length, room->buffers);
	port->rest_length = 0;
	port->cut = false;
	return true;
}

// Receives what is there; true when the guest has no room for more.
static bool receive_all(struct port *port)
{
	struct room room;

	port->too_few = 0;
	for (int i = 0; i < BURST; i++) {
		ssize_t moved;

		gather(port, &room);
		if (room.buffers == 0 || completions_full(&port->shared))
			return true;
		if (port->rest_length > 0) {
			if (finish_packet(port, &room))
				continue;
			port->too_few = room.buffers;
			return true;
		}
		if (take_injected(port, &room))
			continue;
		if (port->shared.ended)
			return false;
		if (port->kind == VMM_NET_STREAM) {
			moved = receive_stream(port, &room);
			if (moved == -ENOBUFS) {
				port->too_few = room.buffers;
				return true;
			}
			if (moved < 0 && moved != -EAGAIN)
				store(&port->shared.ended, (uint32_t)-moved);
			if (moved < 0)
				return false;
			continue;
		}
		moved = receive_packet(port, &room);
		if (moved > 0 || (moved < 0 && errno == EINTR))
			continue;
		if (moved == 0 || errno != EAGAIN)
			store(&port->shared.ended, moved == 0 ? EPIPE : (uint32_t)errno);
		return false;
	}
	return false;
}

// Starved before; whether the guest has given more since.
static bool has_more_room(struct port *port)
{
	struct room room;

	if (completions_full(&port->shared))
		return false;
	gather(port, &room);
	return room.buffers > port->too_few;
}

/* ----------------------------------------------------------------- the thread */

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
			out = send_all(port);
			starved = receive_all(port);
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
			if (starved && has_more_room(port)) {
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
	return send_frame(port, &shared->tx[slot % VMM_NET_SLOTS]);
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
