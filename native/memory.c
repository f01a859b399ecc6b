// SPDX-License-Identifier: ISC
/*
 * memory.c: the mapping that holds a machine image.
 *
 * A memfd, so that a snapshot can map it privately and a fork can share it;
 * pages come into being when they are touched; excluded from core dumps, since
 * a guest's memory is its own business.
 */
#define _GNU_SOURCE
#include "vmm.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int64_t vmm_memory_map(uint64_t size, int32_t *fd)
{
	int memory = memfd_create("machine", MFD_CLOEXEC);

	if (memory < 0)
		return -errno;
	if (ftruncate(memory, (off_t)size) < 0)
		goto fail;

	void *address = mmap(NULL, size, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_NORESERVE, memory, 0);
	if (address == MAP_FAILED)
		goto fail;
	madvise(address, size, MADV_DONTDUMP);
	*fd = memory;
	return (int64_t)(intptr_t)address;

fail:;
	int64_t error = -errno;

	close(memory);
	return error;
}

int vmm_memory_unmap(uint64_t address, uint64_t size, int32_t fd)
{
	int error = munmap((void *)(uintptr_t)address, size) < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	return error;
}

int64_t vmm_memory_resident(int32_t fd)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return -errno;
	return (int64_t)status.st_blocks * 512;
}
