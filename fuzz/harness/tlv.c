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

/* How far the bug's records have come after this one; -1: it won't do, and nothing after it. */
static int stage(int reached, uint8_t type, const uint8_t *value, size_t length)
{
	switch (type) {
	case KEY:
		if (length != 4 || read32(value) != 0x4b455931)
			return -1;
		return 1;
	case SUM:
		if (reached < 1)
			return reached;
		if (length != 2 || value[0] != 0x13 || (value[0] ^ value[1]) != 0x5a)
			return -1;
		return 2;
	case COUNT:
		if (reached < 2)
			return reached;
		if (length < 1 || value[0] != length + 7)
			return -1;
		return 3;
	case NAME:
		if (reached < 3)
			return reached;
		if (length != 4 || read32(value) != 0xdeadc0de)
			return -1;
		tlv_bug();
	}
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
		if (reached < 0)
			return -1;
		at += size;
	}
	return records;
}
