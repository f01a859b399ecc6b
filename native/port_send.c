// SPDX-License-Identifier: ISC
/* port_send.c: frames of a guest's to a descriptor. */
#define _GNU_SOURCE
#include "port.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

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

int port_send_frame(struct port *port, const struct vmm_net_frame *frame)
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

bool port_send_all(struct port *port)
{
	struct vmm_net_shared *shared = &port->shared;
	uint32_t done = shared->tx_done;
	bool full = false;

	while (done != load(&shared->tx_tail)) {
		const int result = port_send_frame(port, &shared->tx[done % VMM_NET_SLOTS]);

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
