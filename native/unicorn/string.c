/* SPDX-License-Identifier: ISC */
/*
 * string.c: PCMPESTRI and PCMPESTRM take the lengths of their strings from EAX and
 * EDX, of which -2^31 has no absolute value: the library would look for that many
 * characters, far outside of its operands. RAX and RDX it cuts to 32 bits.
 */
#define _GNU_SOURCE
#include "engine.h"

#define WORDS 1u	/* in the immediate: characters of 16 bits */
#define REX_W 0x100u	/* as the translator tells it */

/* What the length saturates to; Intel SDM vol. 1, 4.1.3. */
static u64 length_of(u64 value, u32 control)
{
	s64 length = control & REX_W ? (s64)value : (s64)(int32_t)value;
	s64 most = control & WORDS ? 8 : 16;

	return (u64)(length < -most || length > most ? most : length);
}

static void compare(void (*original_helper)(void *, void *, void *, u32), void *env, void *d,
		    void *s, u32 control)
{
	u64 rax = REG(env, RAX), rdx = REG(env, RDX);

	REG(env, RAX) = length_of(rax, control);
	REG(env, RDX) = length_of(rdx, control);
	original_helper(env, d, s, control);
	REG(env, RAX) = rax;
	REG(env, RDX) = rdx;
}

INTERPOSED void helper_pcmpestri_xmm_x86_64(void *env, void *d, void *s, u32 control)
{
	compare(original.pcmpestri, env, d, s, control);
}

INTERPOSED void helper_pcmpestrm_xmm_x86_64(void *env, void *d, void *s, u32 control)
{
	compare(original.pcmpestrm, env, d, s, control);
}
