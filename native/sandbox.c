// SPDX-License-Identifier: ISC
/*
 * sandbox.c: a process gives up, for all of its threads and for ever, what it no
 * longer needs: its user, its capabilities, every file (Landlock) and most system
 * calls (seccomp). It enters with everything that it will use already open.
 *
 * Landlock and capabilities belong to a thread, and Bun has threads of its own. So
 * each thread is sent a signal whose handler does it there, as libpsx does. The
 * signal is SIGSYS: it is one that Bun's allocator thread doesn't block.
 */
#define _GNU_SOURCE
#include "sandbox.h"
#include "vmm.h"

#include <dirent.h>
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <linux/landlock.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif

// LANDLOCK_CREATE_RULESET_VERSION of linux/landlock.h, which older headers lack.
#define RULESET_VERSION 1u
// Rights by ABI version, as bits: Documentation/userspace-api/landlock.rst.
#define FS_ABI_1 0x1fffull
#define FS_REFER (1ull << 13)
#define FS_TRUNCATE (1ull << 14)
#define FS_IOCTL_DEV (1ull << 15)
// Of a tree that is kept: reading files and directories; writing, truncating, moving,
// making and removing files, directories and links. No program is run, no device, socket or
// fifo made.
#define FS_READ 0x000cull
#define FS_WRITE (0x11b2ull | FS_REFER | FS_TRUNCATE)
#define NET_BIND_CONNECT 3ull
#define SCOPE_ABSTRACT_UNIX_SOCKET 1ull

#define MAX_TASKS 256
// A thread has so long to do what it is told, ms.
#define PATIENCE 2000

// struct landlock_ruleset_attr as of ABI 6.
struct ruleset {
	uint64_t fs;
	uint64_t net;
	uint64_t scoped;
};

int vmm_landlock_abi(void)
{
	long version = syscall(SYS_landlock_create_ruleset, NULL, (size_t)0, RULESET_VERSION);

	return version < 0 ? -errno : (int)version;
}

static int explain(char *why, size_t size, int error, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

static int explain(char *why, size_t size, int error, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(why, size, format, arguments);
	va_end(arguments);
	return -error;
}

/* ------------------------------------------------- the same in every thread */

// What a thread is to do: async-signal-safe, 0 or an errno.
static int (*volatile task)(void);
static volatile int task_done;
static volatile int task_error;
static int ruleset_fd = -1;

static int drop_privileges_to_be(void)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return errno;
	// Without CAP_SETPCAP there is nothing to be had from the set either.
	for (int capability = 0; capability <= 63; capability++) {
		if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
			break;
	}
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	return 0;
}

static int drop_capabilities_and_files(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { 0 };

	if (syscall(SYS_capset, &header, none) < 0)
		return errno;
	if (ruleset_fd >= 0 && syscall(SYS_landlock_restrict_self, ruleset_fd, 0) < 0)
		return errno;
	return 0;
}

static void on_task(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	if (info->si_pid != getpid())
		return;

	int before = errno;
	int error = task();

	if (error)
		task_error = error;
	__atomic_add_fetch(&task_done, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &task_done, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	errno = before;
}

// Opened first: for another user it couldn't be.
static DIR *folder;

static int tasks(int *found)
{
	int count = 0;

	rewinddir(folder);
	for (struct dirent *entry; (entry = readdir(folder));) {
		int id = atoi(entry->d_name);

		if (id > 0 && count < MAX_TASKS)
			found[count++] = id;
	}
	return count;
}

static bool is_among(int id, const int *ids, int count)
{
	for (int i = 0; i < count; i++) {
		if (ids[i] == id)
			return true;
	}
	return false;
}

// Sleeps until the thread has done it. Returns false when it doesn't in time.
static bool answered(void)
{
	struct timespec patience = { .tv_sec = PATIENCE / 1000 };

	while (!task_done) {
		if (syscall(SYS_futex, &task_done, FUTEX_WAIT_PRIVATE, 0, &patience, NULL, 0) < 0 &&
		    errno == ETIMEDOUT)
			return task_done != 0;
	}
	return true;
}

// Has every thread do it, again until there is no thread that hasn't: a new one has
// what its maker had. Returns how many there are, or -errno.
static int everywhere(int (*what)(void), char *why, size_t size)
{
	struct sigaction action = { .sa_sigaction = on_task, .sa_flags = SA_SIGINFO | SA_RESTART };
	struct sigaction before;
	int done[MAX_TASKS], count = 0;

	task = what;
	task_error = 0;
	sigemptyset(&action.sa_mask);
	if (sigaction(SIGSYS, &action, &before) < 0)
		return explain(why, size, errno, "sandbox: sigaction: %s", strerror(errno));
	for (bool more = true; more;) {
		int now[MAX_TASKS];
		int there = tasks(now);

		more = false;
		for (int i = 0; i < there; i++) {
			if (is_among(now[i], done, count))
				continue;
			if (count == MAX_TASKS)
				return explain(why, size, EAGAIN, "sandbox: too many threads");
			more = true;
			task_done = 0;
			if (syscall(SYS_tgkill, getpid(), now[i], SIGSYS) < 0) {
				if (errno != ESRCH)
					return explain(why, size, errno, "sandbox: tgkill: %s",
						       strerror(errno));
				continue; // it has ended meanwhile
			}
			if (!answered())
				return explain(why, size, ETIMEDOUT,
					       "sandbox: thread %d does not answer", now[i]);
			if (task_error)
				return explain(why, size, task_error, "sandbox: a thread could not be confined: %s",
					       strerror(task_error));
			done[count++] = now[i];
		}
	}
	sigaction(SIGSYS, &before, NULL);
	return count;
}

/* ------------------------------------------------------------------ the steps */

static int make_ruleset(int abi, char *why, size_t size)
{
	struct ruleset rules = { .fs = FS_ABI_1 };
	size_t length = sizeof(rules.fs);

	if (abi >= 2)
		rules.fs |= FS_REFER;
	if (abi >= 3)
		rules.fs |= FS_TRUNCATE;
	if (abi >= 5)
		rules.fs |= FS_IOCTL_DEV;
	if (abi >= 4) {
		rules.net = NET_BIND_CONNECT;
		length = sizeof(rules.fs) + sizeof(rules.net);
	}
	if (abi >= 6) {
		rules.scoped = SCOPE_ABSTRACT_UNIX_SOCKET;
		length = sizeof(rules);
	}

	int fd = (int)syscall(SYS_landlock_create_ruleset, &rules, length, 0);

	return fd < 0 ? explain(why, size, errno, "sandbox: Landlock: %s", strerror(errno)) : fd;
}

struct sandbox_tree sandbox_tree = { .root = -1 };

void vmm_sandbox_tree(int32_t root, int32_t writable)
{
	sandbox_tree = (struct sandbox_tree){ .root = root, .writable = writable != 0 };
}

// Nothing else has a name for root from here on; others can't do that.
static int enter_tree(char *why, size_t size)
{
	if (fchdir(sandbox_tree.root) < 0)
		return explain(why, size, errno, "sandbox: the share: %s", strerror(errno));
	if (chroot(".") < 0 && errno != EPERM)
		return explain(why, size, errno, "sandbox: the share: chroot: %s", strerror(errno));
	return 0;
}

static int keep_tree(int abi, char *why, size_t size)
{
	struct landlock_path_beneath_attr rule = { .parent_fd = sandbox_tree.root };

	rule.allowed_access = FS_READ | (sandbox_tree.writable ? FS_WRITE : 0);
	// What the ruleset doesn't handle can't be given either.
	if (abi < 2)
		rule.allowed_access &= ~FS_REFER;
	if (abi < 3)
		rule.allowed_access &= ~FS_TRUNCATE;
	if (syscall(SYS_landlock_add_rule, ruleset_fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
		return explain(why, size, errno, "sandbox: Landlock: the directory: %s", strerror(errno));
	return 0;
}

static int limit(int resource, uint64_t value)
{
	struct rlimit limits = { .rlim_cur = value, .rlim_max = value };

	return setrlimit(resource, &limits) < 0 ? errno : 0;
}

static int become(int64_t uid, int64_t gid, char *why, size_t size)
{
	// glibc does these for every thread.
	if (gid >= 0 && (setgroups(0, NULL) < 0 ||
			 setresgid((gid_t)gid, (gid_t)gid, (gid_t)gid) < 0))
		return explain(why, size, errno, "sandbox: group %lld: %s", (long long)gid,
			       strerror(errno));
	if (uid >= 0 && setresuid((uid_t)uid, (uid_t)uid, (uid_t)uid) < 0)
		return explain(why, size, errno, "sandbox: user %lld: %s", (long long)uid,
			       strerror(errno));
	if (uid > 0 && (getuid() != (uid_t)uid || setuid(0) == 0))
		return explain(why, size, EPERM, "sandbox: user %lld could become root again",
			       (long long)uid);
	return 0;
}

int vmm_sandbox(uint32_t profile, int64_t uid, int64_t gid, int32_t found[2], char *why, size_t size)
{
	int parent = getppid();
	int abi = vmm_landlock_abi();
	int error, threads;

	if (abi > 0) {
		ruleset_fd = make_ruleset(abi, why, size);
		if (ruleset_fd < 0)
			return ruleset_fd;
	}
	if ((profile == VMM_PROFILE_SHARE || profile == VMM_PROFILE_FUZZER) && abi > 0 &&
	    sandbox_tree.root >= 0) {
		error = keep_tree(abi, why, size);
		if (error)
			return error;
	}
	folder = opendir("/proc/self/task");
	if (!folder)
		return explain(why, size, errno, "sandbox: /proc/self/task can't be read: %s",
			       strerror(errno));
	threads = everywhere(drop_privileges_to_be, why, size);
	if (threads < 0)
		return threads;
	error = profile == VMM_PROFILE_SHARE ? enter_tree(why, size) : 0;
	if (!error)
		error = become(uid, gid, why, size);
	if (error)
		return error;
	threads = everywhere(drop_capabilities_and_files, why, size);
	if (threads < 0)
		return threads;
	closedir(folder);
	if (ruleset_fd >= 0) {
		close(ruleset_fd);
		ruleset_fd = -1;
	}

	// Changing the user cleared this. A parent that is gone already sends nothing.
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (getppid() != parent)
		return explain(why, size, ESRCH, "sandbox: who started this process is gone");
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	error = limit(RLIMIT_CORE, 0);
	if (!error)
		error = limit(RLIMIT_NOFILE, SANDBOX_DESCRIPTORS);
	if (error)
		return explain(why, size, error, "sandbox: limits: %s", strerror(error));

	error = sandbox_filter(profile);
	if (error)
		return explain(why, size, error, "sandbox: seccomp: %s", strerror(error));
	found[0] = abi > 0 ? abi : 0;
	found[1] = threads;
	return 0;
}
