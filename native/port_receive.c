// SPDX-License-Identifier: ISC
/* port_receive.c: frames from a descriptor into the buffers that a guest has given. */
#define _GNU_SOURCE
#include "port.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

// Frames that one turn receives before it looks at what is to be sent.
#define BURST 64

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

bool port_receive_all(struct port *port)
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

bool port_has_room(struct port *port)
{
	struct room room;

	if (completions_full(&port->shared))
		return false;
	gather(port, &room);
	return room.buffers > port->too_few;
}
