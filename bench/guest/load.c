// SPDX-License-Identifier: ISC
/*
 * load.c: what a guest does when its disks and interfaces are measured. Linked statically,
 * it runs from an initramfs. Each command prints one line "RESULT <figure>".
 *
 *   load blk DEVICE read|write seq|rand BLOCK DEPTH SECONDS   bytes a second
 *   load tcp-send ADDRESS PORT SECONDS                        bytes a second
 *   load tcp-receive ADDRESS PORT SECONDS                     bytes a second
 *   load rtt ADDRESS PORT COUNT                               median ns of a UDP echo
 *
 * Time is the guest's. Disks are opened with O_DIRECT: the guest's page cache isn't measured.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_DEPTH 64

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	printf("RESULT failed: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t state = 88172645463325252ull;

static uint64_t next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static void blk(char **argument)
{
	const int write_it = strcmp(argument[1], "write") == 0;
	const int random_it = strcmp(argument[2], "rand") == 0;
	const size_t block = strtoull(argument[3], NULL, 10);
	const int depth = atoi(argument[4]);
	const double seconds = atof(argument[5]);
	const int fd = open(argument[0], (write_it ? O_RDWR : O_RDONLY) | O_DIRECT);
	aio_context_t context = 0;
	struct iocb control[MAX_DEPTH];
	uint64_t size, blocks, position = 0, done = 0;
	double start, end;

	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size) < 0)
		fail(argument[0]);
	if (depth < 1 || depth > MAX_DEPTH || syscall(SYS_io_setup, depth, &context) < 0)
		fail("io_setup");
	blocks = size / block;
	memset(control, 0, sizeof control);
	for (int i = 0; i < depth; i++) {
		void *buffer;

		if (posix_memalign(&buffer, 4096, block))
			fail("memory");
		memset(buffer, 0x5a + i, block);
		control[i].aio_fildes = (uint32_t)fd;
		control[i].aio_lio_opcode = write_it ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
		control[i].aio_buf = (uint64_t)(uintptr_t)buffer;
		control[i].aio_nbytes = block;
		control[i].aio_data = (uint64_t)i;
	}
	start = now();
	end = start + seconds;
	for (int i = 0; i < depth; i++) {
		struct iocb *one = &control[i];

		one->aio_offset = (int64_t)((random_it ? next_random() % blocks : position++ % blocks) * block);
		if (syscall(SYS_io_submit, context, 1, &one) != 1)
			fail("io_submit");
	}
	for (;;) {
		struct io_event events[MAX_DEPTH];
		struct iocb *again[MAX_DEPTH];
		long count = syscall(SYS_io_getevents, context, 1, depth, events, NULL);

		if (count < 0)
			fail("io_getevents");
		for (long i = 0; i < count; i++) {
			if ((uint64_t)events[i].res != block) {
				errno = (int)-events[i].res;
				fail("transfer");
			}
			done += block;
			again[i] = &control[events[i].data];
			again[i]->aio_offset =
				(int64_t)((random_it ? next_random() % blocks : position++ % blocks) * block);
		}
		if (now() >= end)
			break;
		if (syscall(SYS_io_submit, context, count, again) != count)
			fail("io_submit");
	}
	printf("RESULT %.0f\n", (double)done / (now() - start));
}

static struct sockaddr_in address_of(char **argument)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argument[1])) };

	if (inet_pton(AF_INET, argument[0], &address.sin_addr) != 1)
		fail("address");
	return address;
}

static void tcp(char **argument, int sending)
{
	static char buffer[256 << 10];
	struct sockaddr_in address = address_of(argument);
	const double seconds = atof(argument[2]);
	const int fd = socket(AF_INET, SOCK_STREAM, 0);
	double total = 0, start, end;

	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
		fail("connect");
	start = now();
	end = start + seconds;
	do {
		ssize_t moved = sending ? send(fd, buffer, sizeof buffer, 0) : recv(fd, buffer, sizeof buffer, 0);

		if (moved < 0)
			fail(sending ? "send" : "recv");
		if (moved == 0)
			break;
		total += (double)moved;
	} while (now() < end);
	printf("RESULT %.0f\n", total / (now() - start));
	close(fd);
}

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void rtt(char **argument)
{
	struct sockaddr_in address = address_of(argument);
	const int count = atoi(argument[2]);
	const int fd = socket(AF_INET, SOCK_DGRAM, 0);
	const struct timeval patience = { .tv_sec = 1 };
	double *times = calloc((size_t)count, sizeof *times);
	char byte = 0;
	int found = 0;

	if (fd < 0 || !times || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
		fail("connect");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	for (int i = 0; i < count; i++) {
		const double start = now();

		if (send(fd, &byte, 1, 0) == 1 && recv(fd, &byte, 1, 0) == 1)
			times[found++] = now() - start;
	}
	if (found < count / 2)
		fail("echoes");
	qsort(times, (size_t)found, sizeof *times, by_value);
	printf("RESULT %.0f\n", times[found / 2] * 1e9);
}

int main(int count, char **argument)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (count == 8 && strcmp(argument[1], "blk") == 0)
		blk(argument + 2);
	else if (count == 5 && strcmp(argument[1], "tcp-send") == 0)
		tcp(argument + 2, 1);
	else if (count == 5 && strcmp(argument[1], "tcp-receive") == 0)
		tcp(argument + 2, 0);
	else if (count == 5 && strcmp(argument[1], "rtt") == 0)
		rtt(argument + 2);
	else
		return 2;
	return 0;
}
