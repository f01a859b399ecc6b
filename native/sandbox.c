// SPDX-License-Identifier: ISC
/* sandbox.c: what the host offers to lock a process in. */
#define _GNU_SOURCE
#include "vmm.h"

#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#endif

// LANDLOCK_CREATE_RULESET_VERSION of linux/landlock.h, which older headers lack.
#define RULESET_VERSION 1

int vmm_landlock_abi(void)
{
	long version = syscall(SYS_landlock_create_ruleset, NULL, (size_t)0, RULESET_VERSION);

	return version < 0 ? -errno : (int)version;
}
