// SPDX-License-Identifier: ISC
/*
 * descriptors.c: what passes between vmd's processes: messages with descriptors
 * on unix sockets, pseudo terminals, files opened with a user's rights.
 */
#define _GNU_SOURCE
#include "vmm.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#define MAX_DESCRIPTORS 64
#define MAX_POLLED 256

int vmm_socketpair(int32_t stream, int32_t fds[2])
{
	int type = (stream ? SOCK_STREAM : SOCK_SEQPACKET) | SOCK_CLOEXEC | SOCK_NONBLOCK;

	return socketpair(AF_UNIX, type, 0, fds) < 0 ? -errno : 0;
}

int64_t vmm_send(int32_t fd, const void *data, uint64_t length, const int32_t *fds, uint32_t count)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(MAX_DESCRIPTORS * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = length };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (count > MAX_DESCRIPTORS)
		return -EINVAL;
	if (count > 0) {
		memset(&control, 0, sizeof(control));
		message.msg_control = control.space;
		message.msg_controllen = CMSG_SPACE(count * sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
	}

	ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);

	return sent < 0 ? -errno : sent;
}

int64_t vmm_receive(int32_t fd, void *data, uint64_t size, int32_t *fds, uint32_t max)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(MAX_DESCRIPTORS * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = data, .iov_len = size };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
	uint32_t got = 0;

	if (max > MAX_DESCRIPTORS)
		return -EINVAL;
	if (max > 0) {
		message.msg_control = control.space;
		message.msg_controllen = CMSG_SPACE(max * sizeof(int));
		memset(fds, 0xff, max * sizeof(int32_t));
	}

	ssize_t length = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);

	if (length < 0)
		return -errno;
	if (max == 0)
		return length;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;

		uint32_t count = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));

		for (uint32_t i = 0; i < count; i++) {
			int one;

			memcpy(&one, CMSG_DATA(c) + i * sizeof(int), sizeof(one));
			if (got < max)
				fds[got++] = one;
			else
				close(one);
		}
	}
	// A message that was cut is none.
	if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		for (uint32_t i = 0; i < got; i++)
			close(fds[i]);
		memset(fds, 0xff, max * sizeof(int32_t));
		return -EMSGSIZE;
	}
	return length;
}

int64_t vmm_read(int32_t fd, void *data, uint64_t size)
{
	ssize_t length = read(fd, data, size);

	return length < 0 ? -errno : length;
}

int64_t vmm_write(int32_t fd, const void *data, uint64_t length)
{
	ssize_t written = write(fd, data, length);

	return written < 0 ? -errno : written;
}

int vmm_poll(const int32_t *fds, int32_t *events, uint32_t count, int32_t timeout)
{
	struct pollfd polled[MAX_POLLED];
	int ready;

	if (count > MAX_POLLED)
		return -EINVAL;
	for (uint32_t i = 0; i < count; i++) {
		polled[i] = (struct pollfd){ .fd = fds[i] };
		if (events[i] & VMM_WATCH_INPUT)
			polled[i].events |= POLLIN;
		if (events[i] & VMM_WATCH_ROOM)
			polled[i].events |= POLLOUT;
	}
	ready = poll(polled, count, timeout);
	if (ready < 0)
		return -errno;
	for (uint32_t i = 0; i < count; i++) {
		events[i] = 0;
		if (polled[i].revents & (POLLIN | POLLHUP | POLLERR | POLLNVAL))
			events[i] |= VMM_WATCH_INPUT;
		if (polled[i].revents & POLLOUT)
			events[i] |= VMM_WATCH_ROOM;
	}
	return ready;
}

int vmm_listen_tcp(const char *text, uint32_t port)
{
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	bool is_four = inet_pton(AF_INET, text, &four.sin_addr) == 1;
	int fd, error, one = 1;

	if (!is_four && inet_pton(AF_INET6, text, &six.sin6_addr) != 1)
		return -EINVAL;
	fd = socket(is_four ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	// Those that are accepted have it from here: packets are short, and waited for.
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, is_four ? (struct sockaddr *)&four : (struct sockaddr *)&six,
		 is_four ? sizeof(four) : sizeof(six)) == 0 &&
	    listen(fd, 4) == 0)
		return fd;
	error = -errno;
	close(fd);
	return error;
}

int vmm_listen(const char *path, uint32_t mode)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd, error;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;

	// Nobody may connect before its owner and mode are what they are to be.
	mode_t before = umask(0777);
	int bound = bind(fd, (struct sockaddr *)&address, sizeof(address));

	error = -errno;
	umask(before);
	if (bound < 0)
		goto fail;
	if (chmod(path, mode) < 0 || listen(fd, 1024) < 0) {
		error = -errno;
		unlink(path);
		goto fail;
	}
	return fd;
fail:
	close(fd);
	return error;
}

int vmm_accept(int32_t fd)
{
	int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	return client < 0 ? -errno : client;
}

int vmm_lock(int32_t fd, int32_t how)
{
	int operation = how < 0 ? LOCK_UN : how > 0 ? LOCK_EX : LOCK_SH;

	return flock(fd, operation | LOCK_NB) < 0 ? -errno : 0;
}

int vmm_abstract(const char *name, int32_t listening)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t length = strlen(name);
	int fd, failed;

	if (length + 1 > sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path + 1, name, length);
	length += offsetof(struct sockaddr_un, sun_path) + 1;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (listening ? SOCK_NONBLOCK : 0), 0);
	if (fd < 0)
		return -errno;
	if (listening)
		failed = bind(fd, (struct sockaddr *)&address, (socklen_t)length) || listen(fd, 16);
	else
		failed = connect(fd, (struct sockaddr *)&address, (socklen_t)length);
	if (!failed)
		return fd;
	failed = -errno;
	close(fd);
	return failed;
}

int vmm_connect(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd, error;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	error = -errno;
	close(fd);
	return error;
}

int vmm_peer(int32_t fd, int32_t ids[3])
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
		return -errno;
	ids[0] = (int32_t)peer.uid;
	ids[1] = (int32_t)peer.gid;
	ids[2] = peer.pid;
	return 0;
}

int vmm_pty(int32_t fds[2], char *name, uint64_t size)
{
	struct termios raw;
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	int error;

	if (master < 0)
		return -errno;
	if (grantpt(master) < 0 || unlockpt(master) < 0)
		goto fail;
	error = ptsname_r(master, name, size);
	if (error) {
		close(master);
		return -error;
	}

	int slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);

	if (slave < 0)
		goto fail;
	// The guest's own terminal line discipline is the only one.
	if (tcgetattr(slave, &raw) == 0) {
		cfmakeraw(&raw);
		tcsetattr(slave, TCSANOW, &raw);
	}
	fds[0] = master;
	fds[1] = slave;
	return 0;
fail:
	error = -errno;
	close(master);
	return error;
}

int vmm_open_as(const char *path, int32_t flags, uint32_t uid, uint32_t gid, const uint32_t *groups,
		uint32_t count)
{
	// These three change the calling thread alone; glibc's setgroups would change all.
	gid_t before[1024];
	int had = getgroups(1024, before);
	int fd;

	if (had < 0)
		return -errno;
	if (syscall(SYS_setgroups, (size_t)count, groups) < 0)
		return -errno;
	setfsgid(gid);
	setfsuid(uid);
	if (setfsuid((uid_t)-1) != (int)uid || setfsgid((gid_t)-1) != (int)gid)
		fd = -EPERM;
	else {
		// Not to wait for the other end of a pipe, which nobody wants here.
		fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
		if (fd < 0)
			fd = -errno;
	}
	setfsuid(geteuid());
	setfsgid(getegid());
	// Going on with a user's groups would be worse than not at all.
	if (syscall(SYS_setgroups, (size_t)had, before) < 0)
		abort();
	return fd;
}

int64_t vmm_file_size(int32_t fd)
{
	struct stat status;

	// fstat(2) itself: glibc's takes a call that could name other files.
	return syscall(SYS_fstat, fd, &status) < 0 ? -errno : status.st_size;
}

int64_t vmm_file_map(int32_t fd, uint64_t size)
{
	void *file = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);

	return file == MAP_FAILED ? -errno : (int64_t)(uintptr_t)file;
}

int vmm_silence(void)
{
	int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (nothing < 0)
		return -errno;
	for (int fd = 0; fd <= 2; fd++) {
		if (dup2(nothing, fd) < 0)
			return -errno;
	}
	close(nothing);
	return 0;
}
