// SPDX-License-Identifier: ISC
/*
 * share.c: a directory's files for a share, and no others. Every path is resolved from
 * the share's root, anew each time, by openat2(2): beneath it, on its file system, by
 * way of no symbolic link. What can't be done to a path in one call is done to a
 * name in its directory, whose descriptor was got in that way.
 *
 * Only regular files and directories are opened for more than to look at them.
 */
#define _GNU_SOURCE
#include "vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

#define STAY (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV)
// A rename somewhere in the system may disturb a resolution; it is then tried again.
#define TRIES 64
// What a guest may ask for: the rest is ours to say.
#define OPEN_FLAGS (O_ACCMODE | O_CREAT | O_EXCL | O_TRUNC | O_APPEND | O_DIRECTORY | O_DSYNC | O_SYNC)

static int beneath(int root, const char *path, int flags, uint32_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)(flags | O_CLOEXEC | O_NOFOLLOW),
		.mode = mode,
		.resolve = STAY,
	};

	for (int tries = 1;; tries++) {
		long fd = syscall(SYS_openat2, root, *path ? path : ".", &how, sizeof(how));

		if (fd >= 0)
			return (int)fd;
		if ((errno == EAGAIN || errno == EINTR) && tries < TRIES)
			continue;
		// A file system that is mounted in the share isn't part of it.
		return errno == EXDEV ? -EACCES : -errno;
	}
}

static int folder(int root, const char *path)
{
	return beneath(root, path, O_PATH | O_DIRECTORY, 0);
}

// A name in its directory, and not a way to elsewhere.
static bool plain(const char *name)
{
	return *name && strcmp(name, ".") && strcmp(name, "..") && !strchr(name, '/');
}

static int done(int result)
{
	return result < 0 ? -errno : 0;
}

int vmm_share_status(int32_t fd, int64_t status[VMM_SHARE_STATUS])
{
	struct stat s;

	// fstat(2) itself: glibc's takes a call that could name other files.
	if (syscall(SYS_fstat, fd, &s) < 0)
		return -errno;

	const int64_t words[VMM_SHARE_STATUS] = {
		(int64_t)s.st_mode,	   (int64_t)s.st_ino,	       (int64_t)s.st_size,
		(int64_t)s.st_nlink,	   (int64_t)s.st_uid,	       (int64_t)s.st_gid,
		(int64_t)s.st_rdev,	   (int64_t)s.st_blksize,      (int64_t)s.st_blocks,
		(int64_t)s.st_atim.tv_sec, (int64_t)s.st_atim.tv_nsec, (int64_t)s.st_mtim.tv_sec,
		(int64_t)s.st_mtim.tv_nsec, (int64_t)s.st_ctim.tv_sec, (int64_t)s.st_ctim.tv_nsec,
		(int64_t)s.st_dev,
	};

	memcpy(status, words, sizeof(words));
	return 0;
}

int vmm_share_look(int32_t root, const char *path, int64_t status[VMM_SHARE_STATUS])
{
	int fd = beneath(root, path, O_PATH, 0);

	if (fd < 0)
		return fd;

	int error = vmm_share_status(fd, status);

	if (error) {
		close(fd);
		return error;
	}
	return fd;
}

// 0, or what is wrong with opening a file of this kind.
static int may_open(int64_t mode)
{
	if (S_ISREG(mode) || S_ISDIR(mode))
		return 0;
	return S_ISLNK(mode) ? -ELOOP : -EACCES;
}

int vmm_share_open(int32_t root, const char *path, int32_t flags, uint32_t mode,
		   int64_t status[VMM_SHARE_STATUS])
{
	bool makes = (flags & O_CREAT) != 0;
	int fd = vmm_share_look(root, path, status);
	int error;

	// Looked at first: opening a device is something that happens to it.
	if (fd >= 0) {
		close(fd);
		error = may_open(status[0]);
		if (error)
			return error;
	} else if (fd != -ENOENT || !makes) {
		return fd;
	}
	fd = beneath(root, path, (flags & OPEN_FLAGS) | O_NONBLOCK | O_NOCTTY, makes ? mode & 0777 : 0);
	if (fd < 0)
		return fd;
	error = vmm_share_status(fd, status);
	if (!error)
		error = may_open(status[0]);
	if (error) {
		close(fd);
		return error;
	}
	return fd;
}

void vmm_share_close(int32_t fd)
{
	close(fd);
}

int64_t vmm_share_readlink(int32_t fd, void *target, uint64_t size)
{
	ssize_t length = readlinkat(fd, "", target, size);

	return length < 0 ? -errno : length;
}

int vmm_share_mkdir(int32_t root, const char *path, const char *name, uint32_t mode)
{
	int fd = plain(name) ? folder(root, path) : -EINVAL;

	if (fd < 0)
		return fd;

	int result = done(mkdirat(fd, name, mode & 01777));

	close(fd);
	return result;
}

int vmm_share_symlink(int32_t root, const char *path, const char *name, const char *target)
{
	int fd = plain(name) ? folder(root, path) : -EINVAL;

	if (fd < 0)
		return fd;

	int result = done(symlinkat(target, fd, name));

	close(fd);
	return result;
}

int vmm_share_unlink(int32_t root, const char *path, const char *name, int32_t directory)
{
	int fd = plain(name) ? folder(root, path) : -EINVAL;

	if (fd < 0)
		return fd;

	int result = done(unlinkat(fd, name, directory ? AT_REMOVEDIR : 0));

	close(fd);
	return result;
}

// Renames, or with `link` gives another name.
static int second_name(bool link, int root, const char *path, const char *name, const char *new_path,
		       const char *new_name)
{
	int from = plain(name) && plain(new_name) ? folder(root, path) : -EINVAL;
	int to, result;

	if (from < 0)
		return from;
	to = folder(root, new_path);
	result = to;
	if (to >= 0) {
		if (link)
			result = done(linkat(from, name, to, new_name, 0));
		else
			result = done((int)syscall(SYS_renameat2, from, name, to, new_name, 0));
		close(to);
	}
	close(from);
	return result;
}

int vmm_share_rename(int32_t root, const char *path, const char *name, const char *new_path,
		     const char *new_name)
{
	return second_name(false, root, path, name, new_path, new_name);
}

int vmm_share_link(int32_t root, const char *path, const char *name, const char *new_path,
		   const char *new_name)
{
	return second_name(true, root, path, name, new_path, new_name);
}

int vmm_share_chmod(int32_t fd, uint32_t mode)
{
	if (syscall(SYS_fchmodat2, fd, "", mode & 01777, AT_EMPTY_PATH) == 0)
		return 0;
	// Before Linux 6.6 there is no such call, and only for files that are open another.
	if (errno != ENOSYS)
		return -errno;
	return fchmod(fd, mode & 01777) == 0 ? 0 : errno == EBADF ? -EOPNOTSUPP : -errno;
}

int vmm_share_times(int32_t fd, const int64_t times[4])
{
	const struct timespec both[2] = {
		{ .tv_sec = times[0], .tv_nsec = times[1] },
		{ .tv_sec = times[2], .tv_nsec = times[3] },
	};

	return done((int)syscall(SYS_utimensat, fd, "", both, AT_EMPTY_PATH));
}

int vmm_share_truncate(int32_t fd, int64_t size)
{
	return done(ftruncate(fd, size));
}

int64_t vmm_share_read(int32_t fd, void *data, uint64_t size, int64_t offset)
{
	ssize_t length = pread(fd, data, size, offset);

	return length < 0 ? -errno : length;
}

int64_t vmm_share_write(int32_t fd, const void *data, uint64_t size, int64_t offset)
{
	ssize_t length = pwrite(fd, data, size, offset);

	return length < 0 ? -errno : length;
}

int vmm_share_sync(int32_t fd, int32_t only_data)
{
	return done(only_data ? fdatasync(fd) : fsync(fd));
}

int64_t vmm_share_list(int32_t fd, int64_t offset, void *entries, uint64_t size)
{
	if (lseek(fd, offset, SEEK_SET) < 0)
		return -errno;

	long length = syscall(SYS_getdents64, fd, entries, size);

	return length < 0 ? -errno : length;
}

int vmm_share_space(int32_t root, int64_t space[VMM_SHARE_SPACE])
{
	struct statfs s;

	// An O_PATH descriptor does, too.
	if (syscall(SYS_fstatfs, root, &s) < 0)
		return -errno;

	const int64_t words[VMM_SHARE_SPACE] = {
		(int64_t)s.f_type,   (int64_t)s.f_bsize, (int64_t)s.f_blocks, (int64_t)s.f_bfree,
		(int64_t)s.f_bavail, (int64_t)s.f_files, (int64_t)s.f_ffree,  (int64_t)s.f_namelen,
	};

	memcpy(space, words, sizeof(words));
	return 0;
}
