// SPDX-License-Identifier: ISC
/*
 * vsock.c: unix sockets behind a guest's sockets, made with the rights of whoever
 * the VM belongs to.
 */
#define _GNU_SOURCE
#include "vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

int vmm_shutdown(int32_t fd, int32_t what)
{
	static const int how[] = { 0, SHUT_RD, SHUT_WR, SHUT_RDWR };

	if (what < 1 || what > 3)
		return -EINVAL;
	return shutdown(fd, how[what]) < 0 ? -errno : 0;
}

int vmm_duplicate(int32_t fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	return copy < 0 ? -errno : copy;
}

int vmm_connect_now(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd, error;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	error = -errno;
	close(fd);
	return error;
}

int vmm_socket_as(const char *path, int32_t mode, uint32_t uid, uint32_t gid, const uint32_t *groups,
		  uint32_t count)
{
	// The calling thread alone. Its effective ids, not only those for files: whoever is
	// connected to asks who connects, and must not hear root.
	gid_t before[1024];
	uid_t root = geteuid();
	gid_t wheel = getegid();
	int had = getgroups(1024, before);
	int result = -EPERM;

	if (had < 0)
		return -errno;
	if (syscall(SYS_setgroups, (size_t)count, groups) < 0)
		return -errno;
	if (syscall(SYS_setresgid, -1, gid, -1) == 0 && syscall(SYS_setresuid, -1, uid, -1) == 0) {
		if (mode == VMM_SOCKET_REMOVE)
			result = unlink(path) < 0 ? -errno : 0;
		else if (mode == VMM_SOCKET_CONNECT)
			result = vmm_connect_now(path);
		else
			result = vmm_listen(path, (uint32_t)mode);
	}
	// Going on with a user's rights in part would be worse than not at all.
	if (syscall(SYS_setresuid, -1, root, -1) < 0 || syscall(SYS_setresgid, -1, wheel, -1) < 0 ||
	    syscall(SYS_setgroups, (size_t)had, before) < 0)
		abort();
	return result;
}
