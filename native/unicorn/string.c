/* SPDX-License-Identifier: ISC */
/*
 * string.c: PCMPxSTRx, of which the library gets wrong:
 *
 *  - PCMPESTRI and PCMPESTRM take the lengths of their strings from EAX and EDX, of
 *    which -2^31 has no absolute value: the library would look for that many
 *    characters, far outside of its operands. RAX and RDX it cuts to 32 bits.
 *  - A substring that begins in the operand and would go on behind it is found
 *    (Intel SDM vol. 1, 4.1): the library finds whole ones alone.
 */
#define _GNU_SOURCE
#include <string.h>

#include "engine.h"

/* The immediate; SDM vol. 1, 4.1. */
#define WORDS 1u	/* characters of 16 bits */
#define AGGREGATION 0xcu
#define ORDERED 0xcu	/* a substring is looked for */
#define NEGATED 0x10u
#define VALID_ONLY 0x20u /* ... where there are characters */
#define LAST 0x40u	/* the index of the last one; a mask of whole characters */
#define REX_W 0x100u	/* as the translator tells it */

#define CF 1u
#define ZF 0x40u
#define SF 0x80u
#define OF 0x800u

typedef void string_helper(void *env, void *d, void *s, u32 control);

static u32 most_of(u32 control)
{
	return control & WORDS ? 8 : 16;
}

/* What the length saturates to; Intel SDM vol. 1, 4.1.3. */
static u32 explicit_length(u64 value, u32 control)
{
	s64 length = control & REX_W ? (s64)value : (s64)(int32_t)value;
	s64 most = most_of(control);

	if (length < -most || length > most)
		return (u32)most;
	return (u32)(length < 0 ? -length : length);
}

static u32 character(const void *string, u32 at, u32 control)
{
	return control & WORDS ? ((const u16 *)string)[at] : ((const u8 *)string)[at];
}

static u32 implicit_length(const void *string, u32 control)
{
	u32 length = 0;

	while (length < most_of(control) && character(string, length, control))
		length++;
	return length;
}

/* Where the string of `d` is a part of that of `s`, a bit each. Sets the flags. */
static u32 find(void *env, const void *d, u32 d_length, const void *s, u32 s_length, u32 control)
{
	u32 most = most_of(control), found = 0;

	for (u32 at = 0; at < most; at++) {
		u32 i = 0;

		while (i < d_length && at + i < s_length &&
		       character(d, i, control) == character(s, at + i, control))
			i++;
		if (i == d_length || at + i == most)
			found |= 1u << at;
	}
	if (control & NEGATED)
		found ^= (1u << (control & VALID_ONLY ? s_length : most)) - 1;
	FIELD(env, ENV_CC_SRC, u64) = (found ? CF : 0) | (s_length < most ? ZF : 0) |
				      (d_length < most ? SF : 0) | (found & 1 ? OF : 0);
	return found;
}

static void give_index(void *env, u32 found, u32 control)
{
	if (!found)
		REG(env, RCX) = most_of(control);
	else
		REG(env, RCX) = (u64)(control & LAST ? 31 - __builtin_clz(found) :
						       __builtin_ctz(found));
}

static void give_mask(void *env, u32 found, u32 control)
{
	u8 *xmm = (u8 *)env + ENV_XMM;
	u32 size = control & WORDS ? 2 : 1;

	memset(xmm, 0, 16);
	if (control & LAST) {
		for (u32 i = 0; i < most_of(control); i++)
			memset(xmm + i * size, found >> i & 1 ? 0xff : 0, size);
	} else {
		memcpy(xmm, &found, sizeof(found));
	}
}

static void compare_explicit(string_helper *library, void (*give)(void *, u32, u32), void *env,
			     void *d, void *s, u32 control)
{
	u64 rax = REG(env, RAX), rdx = REG(env, RDX);
	u32 d_length = explicit_length(rax, control), s_length = explicit_length(rdx, control);

	if ((control & AGGREGATION) == ORDERED) {
		give(env, find(env, d, d_length, s, s_length, control), control);
		return;
	}
	REG(env, RAX) = d_length;
	REG(env, RDX) = s_length;
	library(env, d, s, control);
	REG(env, RAX) = rax;
	REG(env, RDX) = rdx;
}

static void compare_implicit(string_helper *library, void (*give)(void *, u32, u32), void *env,
			     void *d, void *s, u32 control)
{
	u32 d_length = implicit_length(d, control), s_length = implicit_length(s, control);

	if ((control & AGGREGATION) == ORDERED)
		give(env, find(env, d, d_length, s, s_length, control), control);
	else
		library(env, d, s, control);
}

#define COMPARISON(name, compare, give)                                                     \
	INTERPOSED void helper_##name##_xmm_x86_64(void *env, void *d, void *s, u32 control) \
	{                                                                                   \
		compare(original.name, give, env, d, s, control);                           \
	}

COMPARISON(pcmpestri, compare_explicit, give_index)
COMPARISON(pcmpestrm, compare_explicit, give_mask)
COMPARISON(pcmpistri, compare_implicit, give_index)
COMPARISON(pcmpistrm, compare_implicit, give_mask)
