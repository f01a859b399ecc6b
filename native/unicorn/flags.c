/* SPDX-License-Identifier: ISC */
/*
 * flags.c: flags that the library's helpers get wrong.
 *
 *  - CMPXCHG8B and 16B keep all flags but ZF. The library takes them from before
 *    the last instruction that set some.
 *  - RCL and RCR of memory change the flags before they store: where that faults, they
 *    are to be as they were.
 */
#define _GNU_SOURCE
#include "engine.h"

/* The flags' state is in the translator's hands: what restores it at a fault does it here. */
static void restore_flags(void *env, uintptr_t ra)
{
	cpu_restore_state_x86_64(cs_of(env), ra, false);
}

#define EXCHANGE(name)                                                     \
	INTERPOSED void helper_##name##_x86_64(void *env, u64 address)     \
	{                                                                  \
		restore_flags(env, CALLER);                                \
		original.name(env, address);                               \
	}

EXCHANGE(cmpxchg8b)
EXCHANGE(cmpxchg8b_unlocked)
EXCHANGE(cmpxchg16b)
EXCHANGE(cmpxchg16b_unlocked)

/* From before the last RCL or RCR, of which the library has all in one word then. */
static HOT_TLS u64 before;
static HOT_TLS bool rotated;

#define ROTATION(name)                                                             \
	INTERPOSED u64 helper_##name##_x86_64(void *env, u64 operand, u64 count)   \
	{                                                                          \
		before = FIELD(env, ENV_CC_SRC, u64);                              \
		rotated = true;                                                    \
		return original.name(env, operand, count);                         \
	}

ROTATION(rclb)
ROTATION(rclw)
ROTATION(rcll)
ROTATION(rclq)
ROTATION(rcrb)
ROTATION(rcrw)
ROTATION(rcrl)
ROTATION(rcrq)

bool flags_rotated(void)
{
	return rotated;
}

/* A store faults that is of the last one. */
void flags_unrotate(void *env)
{
	FIELD(env, ENV_CC_SRC, u64) = before;
	rotated = false;
}
