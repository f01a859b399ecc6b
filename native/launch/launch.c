// SPDX-License-Identifier: ISC
/*
 * vmd-launch PROGRAM ARGUMENT...: runs a program in namespaces of its own.
 *
 * Network, IPC, UTS, cgroup and mount namespaces; without root a user namespace
 * first, in which the user keeps its number. Only a process with a single thread can
 * do that, so it is done here, before the program starts. VMD_NAMESPACES in the
 * program's environment is "own", or says why there are none.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#define COMMON (CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | CLONE_NEWNS)

static bool put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return done;
}

static bool own_namespaces(void)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	char map[64];

	if (uid == 0)
		return unshare(COMMON) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
	if (unshare(CLONE_NEWUSER | COMMON) < 0)
		return false;
	put("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "%u %u 1", uid, uid);
	if (!put("/proc/self/uid_map", map))
		return false;
	snprintf(map, sizeof(map), "%u %u 1", gid, gid);
	return put("/proc/self/gid_map", map);
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: vmd-launch program [argument ...]\n");
		return 2;
	}
	setenv("VMD_NAMESPACES", own_namespaces() ? "own" : strerror(errno), 1);
	execvp(argv[1], argv + 1);
	fprintf(stderr, "vmd-launch: %s: %s\n", argv[1], strerror(errno));
	return 127;
}
