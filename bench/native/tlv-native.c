/* SPDX-License-Identifier: ISC */
/*
 * tlv-native.c: fuzz/harness/tlv.c in a process of Linux, for the fuzzers that ours is compared
 * with: AFL++'s persistent mode (AFL defined), or libFuzzer.
 *
 * The planted bug is written down, the first time, as the seconds since TLV_BEGAN in the file
 * TLV_FOUND, and the process goes on: its rate is that of a target without crashes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "tlv.h"

void tlv_bug(void)
{
	static int found;
	const char *path = getenv("TLV_FOUND"), *began = getenv("TLV_BEGAN");
	struct timespec now;
	FILE *file;

	if (found++ || !path || !began || access(path, F_OK) == 0)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	file = fopen(path, "w");
	if (!file)
		return;
	fprintf(file, "%.3f\n", now.tv_sec + now.tv_nsec / 1e9 - atof(began));
	fclose(file);
}

#ifdef AFL
__AFL_FUZZ_INIT();

int main(void)
{
	__AFL_INIT();
	unsigned char *input = __AFL_FUZZ_TESTCASE_BUF;

	while (__AFL_LOOP(100000)) {
		int length = __AFL_FUZZ_TESTCASE_LEN;

		tlv_parse(input, length > 64 ? 64 : length);
	}
	return 0;
}
#else
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length)
{
	tlv_parse(input, length);
	return 0;
}
#endif
