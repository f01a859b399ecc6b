/* SPDX-License-Identifier: ISC */
/*
 * debug.c: debug registers, breakpoints and ICEBP.
 *
 * A new breakpoint makes the library throw all translated code away, also the
 * block that is running, which ends in a crash of this process. The flush
 * waits here until the main loop. Data breakpoints don't fire.
 */
#define _GNU_SOURCE
#include "engine.h"

#define CR4_DE 0x8ull
#define VECTOR_DB 1

INTERPOSED void tb_flush_x86_64(void *cs)
{
	struct vmm *vm = current;

	if (vm && vm->cs == cs && vm->setting_dr) {
		vm->flush = true;
		engine_attend(vm);
		return;
	}
	original.tb_flush(cs);
}

INTERPOSED void helper_set_dr_x86_64(void *env, int reg, u64 value)
{
	if ((reg == 4 || reg == 5) && (CR(env, 4) & CR4_DE))
		engine_fault(env, 6, 0, CALLER);
	if (reg >= 4 && value >> 32)
		engine_fault(env, 13, 0, CALLER);
	current->setting_dr = true;
	original.set_dr(env, reg, value);
	current->setting_dr = false;
}

void debug_set(struct vmm *vm, const struct kvm_debugregs *from)
{
	vm->setting_dr = true;
	original.set_dr(vm->env, 7, 0x400);
	for (int i = 0; i < 4; i++)
		DR(vm->env, i) = from->db[i];
	DR(vm->env, 6) = from->dr6;
	original.set_dr(vm->env, 7, from->dr7);
	vm->setting_dr = false;
}

/* The instruction breakpoints that hit here, as bits of DR6. */
static u32 breakpoints_hit(void *env)
{
	u64 here = SEG(env, SEG_CS)->base + EIP(env);
	u64 dr7 = DR(env, 7);
	u32 hits = 0, enabled = 0;

	if (!(HFLAGS(env) & HF_CS64))
		here = (u32)here;
	for (int i = 0; i < 4; i++) {
		if ((dr7 >> (16 + 4 * i) & 3) || DR(env, i) != here)
			continue;
		hits |= 1u << i;
		enabled |= dr7 >> (2 * i) & 3;
	}
	return enabled ? hits : 0;
}

/* Bytes of the ICEBP at RIP: 0xf1 behind prefixes. */
static u32 icebp_length(struct vmm *vm)
{
	u64 va = SEG(vm->env, SEG_CS)->base + EIP(vm->env);

	for (u32 length = 1; length < 15; length++, va++) {
		u64 gpa = mmu_walk(vm, va);
		struct slot *slot = gpa == ~0ull ? NULL : mmu_slot(vm, gpa);

		if (!slot || slot->host[gpa - slot->gpa] == 0xf1)
			return length;
	}
	return 1;
}

/* Called for an instruction breakpoint (a fault) and for ICEBP (a trap). The
 * library would leave its main loop for a debugger that isn't there. */
INTERPOSED void helper_debug_x86_64(void *env)
{
	u32 hits = breakpoints_hit(env);

	if (hits)
		DR(env, 6) |= hits;
	else
		EIP(env) += icebp_length(current);
	engine_fault(env, VECTOR_DB, 0, 0);
}
