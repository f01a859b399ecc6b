// SPDX-License-Identifier: ISC
/*
 * io.c: reads and writes files for the guest, straight from and into its memory, in
 * threads while the vCPU goes on; or at once, where handing it over takes longer.
 *
 * Requests are slots in memory that JavaScript sees as numbers (doubles: offsets and
 * addresses are below 2^53). Who submits one doesn't touch it until it is done. A
 * request that a thread finished kicks the vCPU, once until somebody has looked; who
 * submits looks afterwards anyway.
 */
#define _GNU_SOURCE
#include "vmm.h"
#include "watch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

// Bytes that are copied in less time than another thread takes to wake up and say so. With
// one processor the vCPU stands still while a thread copies, so all are.
#define SHORT (64u << 10)
// What a request that doesn't wait for its device takes at most, ns, and more for each byte.
// With one processor, which others use too, it is worth a while to avoid two switches.
#define PATIENCE 100000
#define PATIENCE_ALONE 1000000
#define PATIENCE_PER_BYTE 16
// Requests that threads do after one had to wait.
#define SHY 64
#define FILES 256

static const uint8_t zeroes[64u << 10];

struct vmm_io {
	// What JavaScript sees, first.
	struct vmm_io_shared shared;
	pthread_mutex_t lock;
	pthread_cond_t work;
	pthread_cond_t idle;
	uint32_t todo[VMM_IO_SLOTS];
	uint32_t todo_head, todo_tail;
	uint32_t busy;
	uint32_t sleepers;
	uint32_t at_once;  /* bytes of requests that are tried on the vCPU's thread */
	uint32_t patience; /* ns */
	/* by descriptor: what trying taught */
	struct {
		uint16_t shy[2];   /* reads, writes that are left to threads */
		bool waits;	   /* the file system can't say that it would wait */
		/* the same file past the host's page cache, for what is aligned; 0: nobody asked */
		int direct;
		uint32_t alignment; /* a power of two */
	} file[FILES];
};

// One a process, as its engine is.
static struct vmm_io *io;

// A slot's segments. Its bytes.
static double fill_vector(const struct vmm_io_slot *slot, struct iovec vector[VMM_IO_SEGMENTS])
{
	double bytes = 0;

	for (uint32_t i = 0; i < (uint32_t)slot->count; i++) {
		vector[i].iov_base = (void *)(uintptr_t)slot->segment[i].address;
		vector[i].iov_len = (size_t)slot->segment[i].length;
		bytes += slot->segment[i].length;
	}
	return bytes;
}

// A request's offset and all its segments are multiples.
static bool is_aligned(const struct vmm_io_slot *slot, uint32_t alignment)
{
	uint64_t all = (uint64_t)slot->offset;

	for (uint32_t i = 0; i < (uint32_t)slot->count; i++)
		all |= (uint64_t)slot->segment[i].address | (uint64_t)slot->segment[i].length;
	return (all & (alignment - 1)) == 0;
}

/*
 * Which descriptor moves a request. The kernel keeps both views of a file the same: a
 * direct access writes back and drops the pages of its range before. What isn't aligned
 * goes through the page cache.
 */
static int descriptor_of(const struct vmm_io_slot *slot)
{
	const uint32_t fd = (uint32_t)slot->fd;

	if (fd < FILES && io->file[fd].direct > 0 && is_aligned(slot, io->file[fd].alignment))
		return io->file[fd].direct;
	return (int)fd;
}

// As preadv(2) and pwritev(2), for all of it: a file that ends gives less.
static double transfer(const struct vmm_io_slot *slot)
{
	struct iovec vector[VMM_IO_SEGMENTS];
	const int write = slot->operation == VMM_IO_WRITE;
	uint32_t count = (uint32_t)slot->count;
	uint32_t first = 0;
	double done = 0;
	int fd;

	if (count > VMM_IO_SEGMENTS)
		return -EINVAL;
	fd = descriptor_of(slot);
	fill_vector(slot, vector);
	while (first < count) {
		const off_t at = (off_t)(slot->offset + done);
		ssize_t moved = write ? pwritev(fd, vector + first, (int)(count - first), at)
				      : preadv(fd, vector + first, (int)(count - first), at);

		if (moved < 0 && errno == EINTR)
			continue;
		// What is left behind a short transfer, or at a file's end, may not be aligned.
		if (moved < 0 && errno == EINVAL && fd != (int)slot->fd) {
			fd = (int)slot->fd;
			continue;
		}
		if (moved < 0)
			return -errno;
		if (moved == 0)
			break;
		done += (double)moved;
		while (first < count && (size_t)moved >= vector[first].iov_len)
			moved -= (ssize_t)vector[first++].iov_len;
		if (first < count) {
			vector[first].iov_base = (uint8_t *)vector[first].iov_base + moved;
			vector[first].iov_len -= (size_t)moved;
		}
	}
	return done;
}

// For files that can't do it by themselves.
static double write_zeroes(int fd, double offset, double length)
{
	for (double done = 0; done < length;) {
		const double left = length - done;
		ssize_t moved = pwrite(fd, zeroes, left < sizeof zeroes ? (size_t)left : sizeof zeroes,
				       (off_t)(offset + done));

		if (moved < 0 && errno == EINTR)
			continue;
		if (moved < 0)
			return -errno;
		done += (double)moved;
	}
	return 0;
}

static double deallocate(const struct vmm_io_slot *slot, int mode)
{
	const int fd = (int)slot->fd;

	while (fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)slot->offset, (off_t)slot->length) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

static double perform(const struct vmm_io_slot *slot)
{
	double result;

	switch ((int)slot->operation) {
	case VMM_IO_READ:
	case VMM_IO_WRITE:
		return transfer(slot);
	case VMM_IO_SYNC:
		return fdatasync((int)slot->fd) < 0 ? -errno : 0;
	case VMM_IO_DISCARD:
		result = deallocate(slot, FALLOC_FL_PUNCH_HOLE);
		// A hint: who can't, needn't.
		return result == -EOPNOTSUPP || result == -ENODEV ? 0 : result;
	case VMM_IO_ZERO:
		result = deallocate(slot, FALLOC_FL_PUNCH_HOLE);
		if (result == -EOPNOTSUPP || result == -ENODEV)
			result = write_zeroes((int)slot->fd, slot->offset, slot->length);
		return result;
	case VMM_IO_ZERO_ALLOCATED:
		result = deallocate(slot, FALLOC_FL_ZERO_RANGE);
		if (result == -EOPNOTSUPP || result == -ENODEV)
			result = write_zeroes((int)slot->fd, slot->offset, slot->length);
		return result;
	default:
		return -EINVAL;
	}
}

// With the lock held.
static void finish(uint32_t index, double result)
{
	struct vmm_io_shared *shared = &io->shared;

	shared->slot[index].result = result;
	shared->done[shared->done_tail % VMM_IO_SLOTS] = index;
	__atomic_store_n(&shared->done_tail, shared->done_tail + 1, __ATOMIC_RELEASE);
	io->busy--;
	if (io->busy == 0)
		pthread_cond_broadcast(&io->idle);
}

static void *worker(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&io->lock);
	for (;;) {
		while (io->todo_head == io->todo_tail) {
			io->sleepers++;
			pthread_cond_wait(&io->work, &io->lock);
			io->sleepers--;
		}

		const uint32_t index = io->todo[io->todo_head++ % VMM_IO_SLOTS];

		pthread_mutex_unlock(&io->lock);

		const double result = perform(&io->shared.slot[index]);

		pthread_mutex_lock(&io->lock);
		finish(index, result);
		if (!__atomic_exchange_n(&io->shared.told, 1, __ATOMIC_SEQ_CST)) {
			pthread_mutex_unlock(&io->lock);
			watch_nudge();
			pthread_mutex_lock(&io->lock);
		}
	}
	return NULL;
}

struct vmm_io_shared *vmm_io_open(uint32_t threads)
{
	uint32_t started = 0;

	if (io)
		return &io->shared;
	// Pages come when a slot is used first.
	io = mmap(NULL, sizeof *io, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (io == MAP_FAILED) {
		io = NULL;
		return NULL;
	}
	io->at_once = vmm_alone() ? UINT32_MAX : SHORT;
	io->patience = vmm_alone() ? PATIENCE_ALONE : PATIENCE;
	pthread_mutex_init(&io->lock, NULL);
	pthread_cond_init(&io->work, NULL);
	pthread_cond_init(&io->idle, NULL);
	for (uint32_t i = 0; i < threads; i++) {
		if (watch_start_thread(worker, NULL) == 0)
			started++;
	}
	if (started == 0) {
		munmap(io, sizeof *io);
		io = NULL;
		return NULL;
	}
	return &io->shared;
}

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ll + time.tv_nsec;
}

/*
 * Tries a short request on this thread. What is in the host's page cache is copied;
 * whatever else comes of it is left to a thread, which does it from the beginning.
 *
 * Reads ask not to wait (RWF_NOWAIT). Nobody can ask that for buffered writes on most
 * file systems, nor for reads on some: there one that had to wait has those after it
 * done by threads for a while.
 */
static bool try_at_once(const struct vmm_io_slot *slot, double *result)
{
	struct iovec vector[VMM_IO_SEGMENTS];
	const bool write = slot->operation == VMM_IO_WRITE;
	const uint32_t fd = (uint32_t)slot->fd;
	const int count = (int)slot->count;

	if ((!write && slot->operation != VMM_IO_READ) || fd >= FILES || count > VMM_IO_SEGMENTS)
		return false;

	// Such a request always waits for its device.
	if (io->file[fd].direct > 0)
		return false;

	const double bytes = fill_vector(slot, vector);
	uint16_t *shy = &io->file[fd].shy[write];

	if (bytes > io->at_once)
		return false;
	if (!write && !io->file[fd].waits) {
		*result = (double)preadv2((int)fd, vector, count, (off_t)slot->offset, RWF_NOWAIT);
		if (*result == bytes)
			return true;
		if (*result >= 0 || errno != EOPNOTSUPP)
			return false;
		io->file[fd].waits = true;
	}
	if (*shy > 0) {
		(*shy)--;
		return false;
	}

	const int64_t start = now();

	*result = (double)(write ? pwritev((int)fd, vector, count, (off_t)slot->offset)
				 : preadv((int)fd, vector, count, (off_t)slot->offset));
	if ((double)(now() - start) > io->patience + PATIENCE_PER_BYTE * bytes)
		*shy = SHY;
	return *result == bytes;
}

int vmm_io_direct(int32_t fd, int32_t direct, uint32_t alignment)
{
	if (fd < 0 || fd >= FILES || direct < 0 || (alignment & (alignment - 1)) != 0)
		return -EINVAL;
	io->file[fd].direct = direct;
	io->file[fd].alignment = alignment;
	return 0;
}

int vmm_direct_alignment(int32_t fd)
{
#ifdef STATX_DIOALIGN
	struct statx status;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
	    (status.stx_mask & STATX_DIOALIGN)) {
		if (status.stx_dio_offset_align == 0)
			return -EINVAL;
		return (int)(status.stx_dio_mem_align > status.stx_dio_offset_align
				     ? status.stx_dio_mem_align
				     : status.stx_dio_offset_align);
	}
#else
	(void)fd;
#endif
	return VMM_PAGE; // no device has larger blocks
}

void vmm_io_submit(uint32_t index)
{
	double result;

	if (try_at_once(&io->shared.slot[index], &result)) {
		pthread_mutex_lock(&io->lock);
		io->busy++;
		finish(index, result);
		pthread_mutex_unlock(&io->lock);
		return;
	}
	pthread_mutex_lock(&io->lock);
	io->todo[io->todo_tail++ % VMM_IO_SLOTS] = index;
	io->busy++;

	const int wake = io->sleepers > 0;

	pthread_mutex_unlock(&io->lock);
	if (wake)
		pthread_cond_signal(&io->work);
}

void vmm_io_wait(void)
{
	pthread_mutex_lock(&io->lock);
	while (io->busy > 0)
		pthread_cond_wait(&io->idle, &io->lock);
	pthread_mutex_unlock(&io->lock);
}
