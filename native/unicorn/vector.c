/* SPDX-License-Identifier: ISC */
/*
 * vector.c: whether a block has an instruction that may write a vector register, which
 * a reset has to know (point.c).
 */
#define _GNU_SOURCE
#include "decode.h"
#include "engine.h"

/* Of two-byte opcodes, a bit each, those that can't write a vector register. */
static const u16 never_vector[16] = {
	0x3fff, 0xff00, 0x000f, 0x00ff, /* 00: system, but for 3DNow!; 18: hints; CR, DR; MSRs, time */
	0xffff, 0x0000, 0x0000, 0x0000, /* CMOVcc */
	0xffff, 0xffff, 0xbbff, 0xffff, /* Jcc; SETcc; a0, b0: but for RSM and AE, FXRSTOR's */
	0xff8b, 0x0000, 0x0000, 0x0000, /* XADD, MOVNTI, CMPXCHG8B, BSWAP */
};

/* May an instruction write a register of SSE? So may what VEX is before. */
static bool may_be_vector(const struct code *code, bool wide)
{
	u32 at = 0;

	while (at < code->length && is_prefix(code->bytes[at], wide))
		at++;
	if (at + 1 >= code->length)
		return true; /* who knows */
	if (code->bytes[at] == 0xc4 || code->bytes[at] == 0xc5)
		return true;
	if (code->bytes[at] != 0x0f)
		return false;
	return !(never_vector[code->bytes[at + 1] >> 4] >> (code->bytes[at + 1] & 15) & 1);
}

/* By its first byte. */
static bool may_begin_vector(u8 byte, bool wide)
{
	return byte == 0x0f || byte == 0xc4 || byte == 0xc5 || is_prefix(byte, wide);
}

/* The block that is translated has such an instruction. */
static HOT_TLS bool has_vector;

/* A reset has to know (point.c). Once a block is enough: it is entered at its start. */
void vector_note(struct vmm *vm, u64 pc, const u8 *at, bool wide)
{
	struct code code;

	if (has_vector || (at && !may_begin_vector(*at, wide)))
		return;
	read_code(vm, pc, &code);
	if (!may_be_vector(&code, wide))
		return;
	has_vector = true;
	lines_note(vm, &vm->vector_written);
}

void vector_begin(void)
{
	has_vector = false;
}
