// SPDX-License-Identifier: ISC
/*
 * pairs.c: sockets between a VM and what is at the other end of its network interface.
 */
#define _GNU_SOURCE
#include "net.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER (1 << 20)

static int make_pair(int type, int32_t fds[2])
{
	int size = BUFFER;

	if (socketpair(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
		return -errno;
	for (int i = 0; i < 2; i++) {
		// Beyond the host's limit for those who may; else as far as it goes.
		if (setsockopt(fds[i], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
			setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	}
	return 0;
}

int vmm_switch_pair(int32_t fds[2])
{
	return make_pair(SOCK_SEQPACKET, fds);
}

int vmm_passt_pair(int32_t fds[2])
{
	int error = make_pair(SOCK_STREAM, fds);

	if (error)
		return error;
	// passt waits for room for the rest of a frame; it would lose it, and all after it.
	if (fcntl(fds[1], F_SETFL, 0) < 0) {
		error = -errno;
		close(fds[0]);
		close(fds[1]);
	}
	return error;
}
