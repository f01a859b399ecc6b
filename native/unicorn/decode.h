/* SPDX-License-Identifier: ISC */
/*
 * decode.h: an instruction's bytes, before the library translates it.
 */
#ifndef VMM_UNICORN_DECODE_H
#define VMM_UNICORN_DECODE_H

#include "engine.h"

#define LONGEST 15

struct code {
	u8 bytes[LONGEST];
	u32 length;
};

#pragma GCC visibility push(hidden)

/* decode.c: `va` is linear. It is cut off where there is no memory. */
void read_code(struct vmm *vm, u64 va, struct code *code);
bool is_prefix(u8 byte, bool wide);

/* vector.c: at a block's beginning, and before each of its instructions; `at` as in memory, or NULL */
void vector_begin(void);
void vector_note(struct vmm *vm, u64 pc, const u8 *at, bool wide);

#pragma GCC visibility pop

#endif
