// SPDX-License-Identifier: ISC
/*
 * snapshot.c: what of a machine's memory a snapshot has to hold, and memory that
 * comes from a file when it is touched.
 */
#define _GNU_SOURCE
#include "vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Entries of /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst). */
#define PRESENT (1ull << 63)
#define SWAPPED (1ull << 62)
#define ENTRIES 512u
/* Pieces that are read at once. */
#define VECTORS 256u

static bool is_zero(const void *page)
{
	const uint64_t *words = page;

	for (size_t i = 0; i < VMM_PAGE / 8; i += 8)
		if (words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] |
		    words[i + 5] | words[i + 6] | words[i + 7])
			return false;
	return true;
}

int vmm_pagemap_open(void)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int64_t vmm_memory_used(uint64_t address, uint64_t pages, uint8_t *bitmap, int32_t pagemap)
{
	uint64_t entries[ENTRIES];
	int64_t used = 0;

	memset(bitmap, 0, (pages + 63) / 64 * 8);
	for (uint64_t from = 0; from < pages; from += ENTRIES) {
		uint64_t count = pages - from < ENTRIES ? pages - from : ENTRIES;
		off_t at = (off_t)((address / VMM_PAGE + from) * sizeof *entries);
		bool known = pagemap >= 0 &&
			     pread(pagemap, entries, count * sizeof *entries, at) ==
				     (ssize_t)(count * sizeof *entries);

		for (uint64_t i = 0; i < count; i++) {
			const uint64_t page = from + i;

			/* Touching what nobody has written would give it a page. */
			if (known && !(entries[i] & (PRESENT | SWAPPED)))
				continue;
			if (is_zero((const void *)(uintptr_t)(address + page * VMM_PAGE)))
				continue;
			bitmap[page / 8] |= (uint8_t)(1u << (page % 8));
			used++;
		}
	}
	return used;
}

int vmm_memory_overlay(uint64_t address, uint64_t size, int32_t fd, uint64_t offset)
{
	void *at = (void *)(uintptr_t)address;

	if (mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
		 (off_t)offset) == MAP_FAILED)
		return -errno;
	return 0;
}

int vmm_memory_read(const uint64_t *pieces, uint32_t count, int32_t fd, uint64_t offset)
{
	struct iovec vector[VECTORS];
	/* Bytes of the first piece that are there. */
	uint64_t done = 0;

	for (uint32_t first = 0; first < count;) {
		uint32_t length = count - first < VECTORS ? count - first : VECTORS;
		ssize_t read;

		for (uint32_t i = 0; i < length; i++) {
			const uint64_t *piece = pieces + 2 * (first + i);
			uint64_t from = i == 0 ? done : 0;

			vector[i].iov_base = (void *)(uintptr_t)(piece[0] + from);
			vector[i].iov_len = piece[1] - from;
		}
		read = preadv(fd, vector, (int)length, (off_t)offset);
		if (read < 0 && errno == EINTR)
			continue;
		if (read <= 0)
			return read < 0 ? -errno : -ENODATA;
		offset += (uint64_t)read;
		done += (uint64_t)read;
		for (; first < count && done >= pieces[2 * first + 1]; first++)
			done -= pieces[2 * first + 1];
	}
	return 0;
}

int vmm_memory_populate(uint64_t address, uint64_t size)
{
	return madvise((void *)(uintptr_t)address, size, MADV_POPULATE_WRITE) < 0 ? -errno : 0;
}

int vmm_memory_hide(uint64_t address, uint64_t size)
{
	return madvise((void *)(uintptr_t)address, size, MADV_DONTDUMP) < 0 ? -errno : 0;
}

int vmm_file_state(int32_t fd, double state[4])
{
	struct stat status;

	if (syscall(SYS_fstat, fd, &status) < 0)
		return -errno;
	state[0] = (double)status.st_size;
	state[1] = (double)status.st_mtim.tv_sec;
	state[2] = (double)status.st_mtim.tv_nsec;
	state[3] = (double)status.st_mode;
	return 0;
}

int vmm_memory_file(uint64_t size)
{
	int fd = memfd_create("vmd-snapshot", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -errno;
	if (size > 0 && ftruncate(fd, (off_t)size) < 0) {
		int error = errno;

		close(fd);
		return -error;
	}
	return fd;
}

int vmm_memory_seal(int32_t fd)
{
	if (vmm_memory_sealed(fd) == 1)
		return 0;
	return fcntl(fd, F_ADD_SEALS, VMM_SEALS) < 0 ? -errno : 0;
}

int vmm_memory_sealed(int32_t fd)
{
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0)
		return -errno;
	return (seals & VMM_SEALS) == VMM_SEALS;
}
