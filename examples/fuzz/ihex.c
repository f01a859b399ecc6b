/* SPDX-License-Identifier: ISC */
/*
 * ihex.c: loads Intel HEX (Intel, "Hexadecimal Object File Format Specification", 1988) into
 * the flash of a small machine, as a boot loader does.
 *
 * The bug: the beginning of a record is checked, its end is not. Built with
 * -fsanitize=bounds -fsanitize-undefined-trap-on-error, a store past the flash is an invalid
 * instruction, and that, on a machine without handlers, a triple fault.
 */
#include <stdint.h>

#include "vmd-fuzz.h"

enum { DATA = 0, END = 1 };

static uint8_t flash[4096];

static int digit(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static int byte(const uint8_t *text, size_t size, size_t at)
{
	int high, low;

	if (at + 2 > size)
		return -1;
	high = digit(text[at]);
	low = digit(text[at + 1]);
	return high < 0 || low < 0 ? -1 : high << 4 | low;
}

/* One record, behind its colon, as bytes. Returns how many it takes up of the text; 0: it is none. */
static size_t read_record(const uint8_t *text, size_t size, uint8_t record[260])
{
	int length = byte(text, size, 0);
	uint8_t sum = 0;

	if (length < 0)
		return 0;
	for (int i = 0; i < length + 5; i++) {
		int value = byte(text, size, (size_t)i * 2);

		if (value < 0)
			return 0;
		record[i] = (uint8_t)value;
		sum += (uint8_t)value;
	}
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
	/* Hardly any mutation leaves a sum right. */
	sum = 0;
#endif
	return sum ? 0 : (size_t)(length + 5) * 2;
}

/* Returns how many records there were; -1: a bad one. */
static int load(const uint8_t *text, size_t size)
{
	uint8_t record[260];
	int records = 0;

	for (size_t at = 0; at < size; records++) {
		size_t used;
		unsigned int address;

		if (text[at++] != ':')
			return -1;
		used = read_record(text + at, size - at, record);
		if (!used)
			return -1;
		address = record[1] << 8 | record[2];
		if (record[3] == END)
			return records;
		if (record[3] != DATA || address >= sizeof(flash))
			return -1;
		for (unsigned int i = 0; i < record[0]; i++)
			flash[address + i] = record[4 + i];
		at += used;
		if (at < size && text[at] == '\n')
			at++;
	}
	return records;
}

int main(void)
{
	static uint8_t text[256] = { 1 };

	load(text, vmd_fuzz_ready(text, sizeof(text)));
	vmd_fuzz_done();
	return 0;
}
