/* SPDX-License-Identifier: ISC */
/*
 * tlv.c: a parser to compare fuzzers with, with state that outlives a record and a bug that four
 * records in a row lead to: a key of four bytes, then a sum of the state, then a count, then a name.
 */
#include "tlv.h"

#define TYPES 64
#define ENTRY 256

enum { KEY = 0x11, SUM = 0x22, COUNT = 0x33, NAME = 0x44 };

/* 16 KiB. */
static uint8_t table[TYPES][ENTRY];

static uint32_t read32(const uint8_t *from)
{
	return from[0] | from[1] << 8 | from[2] << 16 | (uint32_t)from[3] << 24;
}

static int stage(int reached, uint8_t type, const uint8_t *value, size_t length)
{
	if (type == KEY && reached == 0 && length == 4)
		return read32(value) == 0x4b455931 ? 1 : 0;
	if (type == SUM && reached == 1 && length == 2)
		return (value[0] ^ value[1]) == 0x5a && value[0] == 0x13 ? 2 : 1;
	if (type == COUNT && reached == 2 && length >= 1)
		return value[0] == length + 7 ? 3 : 2;
	if (type == NAME && reached == 3 && length == 4)
		return read32(value) == 0xdeadc0de ? 4 : 3;
	return reached;
}

int tlv_parse(const uint8_t *input, size_t length)
{
	int records = 0, reached = 0;

	for (size_t at = 0; at + 2 <= length; records++) {
		uint8_t type = input[at], size = input[at + 1];
		uint8_t *entry = table[type % TYPES];

		at += 2;
		if (size > length - at)
			break;
		for (size_t i = 0; i < size; i++)
			entry[i] = (uint8_t)(entry[i] * 31 + input[at + i]);
		reached = stage(reached, type, input + at, size);
		if (reached == 4)
			tlv_bug();
		at += size;
	}
	return records;
}
