// SPDX-License-Identifier: ISC
/*
 * memory.c: the mapping that holds a machine image.
 *
 * Private anonymous memory, as other monitors have it, since only that gets huge
 * pages by default: with 4 KiB pages a Linux boot takes some 30,000 more faults.
 * Its pages come into being when they are touched. Excluded from core dumps: a
 * guest's memory is its own business.
 */
#define _GNU_SOURCE
#include "vmm.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define HUGE_PAGE (2ull << 20)
/* Pages asked for at a time in vmm_memory_resident. */
#define RESIDENT_CHUNK 16384u

int64_t vmm_memory_map(uint64_t size, uint64_t head)
{
	/* Aligned to a huge page: guest RAM starts at a multiple of that. */
	uint64_t reserved = size + HUGE_PAGE;
	uint8_t *memory = mmap(NULL, reserved, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		return -errno;

	uint64_t address = ((uint64_t)(uintptr_t)memory + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
	uint64_t end = (address + size + VMM_PAGE - 1) & ~(uint64_t)(VMM_PAGE - 1);
	uint64_t before = address - (uint64_t)(uintptr_t)memory;
	uint64_t after = (uint64_t)(uintptr_t)memory + reserved - end;

	if (before)
		munmap(memory, before);
	if (after)
		munmap((void *)(uintptr_t)end, after);
	madvise((void *)(uintptr_t)address, head, MADV_NOHUGEPAGE);
	madvise((void *)(uintptr_t)(address + head), size - head, MADV_HUGEPAGE);
	madvise((void *)(uintptr_t)address, size, MADV_DONTDUMP);
	return (int64_t)address;
}

int vmm_memory_unmap(uint64_t address, uint64_t size)
{
	return munmap((void *)(uintptr_t)address, size) < 0 ? -errno : 0;
}

int64_t vmm_memory_resident(uint64_t address, uint64_t size)
{
	unsigned char present[RESIDENT_CHUNK];
	uint64_t pages = (size + VMM_PAGE - 1) / VMM_PAGE;
	int64_t resident = 0;

	for (uint64_t page = 0; page < pages; page += RESIDENT_CHUNK) {
		uint64_t count = pages - page < RESIDENT_CHUNK ? pages - page : RESIDENT_CHUNK;

		if (mincore((void *)(uintptr_t)(address + page * VMM_PAGE), count * VMM_PAGE,
			    present) < 0)
			return -errno;
		for (uint64_t i = 0; i < count; i++)
			resident += present[i] & 1;
	}
	return resident * VMM_PAGE;
}

int vmm_memory_discard(uint64_t address, uint64_t size, int32_t mapped)
{
	void *at = (void *)(uintptr_t)address;

	if (!mapped)
		return madvise(at, size, MADV_DONTNEED) < 0 ? -errno : 0;
	/* What lies in the file would come back. */
	if (mmap(at, size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		return -errno;
	madvise(at, size, MADV_HUGEPAGE);
	madvise(at, size, MADV_DONTDUMP);
	return 0;
}
