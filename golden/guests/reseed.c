/* SPDX-License-Identifier: ISC */
/*
 * Gives Linux's random number generator 32 bytes of /dev/hwrng and has it begin anew with them
 * (random(4), RNDADDENTROPY and RNDRESEEDCRNG): for a copy of a machine.
 */
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* What drivers may have fetched before the machine was copied. */
#define STALE 4096

int main(void)
{
	struct {
		struct rand_pool_info head;
		unsigned char bytes[32];
	} pool = { .head = { .entropy_count = 256, .buf_size = 32 } };
	unsigned char stale[STALE];
	int hwrng = open("/dev/hwrng", O_RDONLY);
	int random = open("/dev/random", O_WRONLY);
	ssize_t got = 0;

	while (got < STALE) {
		ssize_t more = read(hwrng, stale, (size_t)(STALE - got));

		if (more <= 0) {
			perror("/dev/hwrng");
			return 1;
		}
		got += more;
	}
	if (read(hwrng, pool.head.buf, 32) != 32 || ioctl(random, RNDADDENTROPY, &pool) < 0 ||
	    ioctl(random, RNDRESEEDCRNG) < 0) {
		perror("reseed");
		return 1;
	}
	return 0;
}
