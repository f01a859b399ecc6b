/* SPDX-License-Identifier: ISC */
/* port.h: what port.c, port_send.c and port_receive.c share. */
#ifndef PORT_H
#define PORT_H

#include "vmm.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#define HEADER VMM_NET_HEADER
// The largest frame with its header: 64 KiB of IP behind an Ethernet header.
#define FRAME_MAX (HEADER + 14u + 65535u + 4u)
#define STREAM_BUFFER (256u << 10)

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

#pragma GCC visibility push(hidden)

/* Sends a frame. 0: it is gone; -EAGAIN: not now; another error: it is lost, as frames are. */
int port_send_frame(struct port *, const struct vmm_net_frame *);
/* Sends what is there; true when the descriptor takes no more now. */
bool port_send_all(struct port *);
/* Receives what is there; true when the guest has no room for more. */
bool port_receive_all(struct port *);
/* The guest had no room before; whether it has given more since. */
bool port_has_room(struct port *);

#pragma GCC visibility pop

static inline uint32_t load(const uint32_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_SEQ_CST);
}

static inline void store(uint32_t *counter, uint32_t value)
{
	__atomic_store_n(counter, value, __ATOMIC_SEQ_CST);
}

/* Leaves out the first bytes of a vector. */
static inline void skip(struct iovec **vector, uint32_t *count, size_t bytes)
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

#endif
