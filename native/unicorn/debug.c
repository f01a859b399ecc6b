/* SPDX-License-Identifier: ISC */
/*
 * debug.c: debug registers, breakpoints and ICEBP.
 *
 * A new breakpoint makes the library throw all translated code away, also the
 * block that is running, which ends in a crash of this process. Here the pages
 * concerned lose theirs, when the main loop is reached. Data breakpoints don't
 * fire.
 */
#define _GNU_SOURCE
#include "engine.h"

#define CR4_DE 0x8ull
#define VECTOR_DB 1
#define RFLAGS_RF 0x10000ull

/* Debug registers are about to change, or their breakpoints do; translations
 * follow at the next boundary. */
void debug_changes(struct vmm *vm)
{
	if (!vm->dr_changed)
		for (int i = 0; i < 4; i++)
			vm->old_dr[i] = DR(vm->env, i);
	vm->dr_changed = true;
	engine_attend(vm);
}

static void set_dr(struct vmm *vm, int reg, u64 value)
{
	enum translating translating = vm->translating;

	debug_changes(vm);
	vm->translating = TRANSLATING_NOT;
	original.set_dr(vm->env, reg, value);
	vm->translating = translating;
}

/* Between two instructions: drops the translations that a change concerns. */
void debug_refresh(struct vmm *vm)
{
	vm->dr_changed = false;
	for (int i = 0; i < 4; i++) {
		code_forget(vm, vm->old_dr[i]);
		if (DR(vm->env, i) != vm->old_dr[i])
			code_forget(vm, DR(vm->env, i));
	}
}

INTERPOSED void helper_set_dr_x86_64(void *env, int reg, u64 value)
{
	if ((reg == 4 || reg == 5) && (CR(env, 4) & CR4_DE))
		engine_fault(env, 6, 0, CALLER);
	if (!(HFLAGS(env) & HF_CS64))
		value = (u32)value;
	if (reg >= 4 && value >> 32)
		engine_fault(env, 13, 0, CALLER);
	set_dr(current, reg, value);
}

void debug_set(struct vmm *vm, const struct kvm_debugregs *from)
{
	set_dr(vm, 7, 0x400);
	for (int i = 0; i < 4; i++)
		DR(vm->env, i) = from->db[i];
	DR(vm->env, 6) = from->dr6;
	set_dr(vm, 7, from->dr7);
}

/* The library can't close with a breakpoint set. */
void debug_close(struct vmm *vm)
{
	debugger_close(vm);
	set_dr(vm, 7, 0x400);
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

static bool is_prefix(u8 byte)
{
	switch (byte) {
	case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65:
	case 0x66: case 0x67: case 0xf2: case 0xf3:
		return true;
	}
	return false;
}

/* Bytes of the ICEBP at RIP, 0xf1 behind prefixes; 0 if there is none. */
static u32 icebp_length(struct vmm *vm)
{
	u64 va = SEG(vm->env, SEG_CS)->base + EIP(vm->env);

	for (u32 length = 1; length < 15; length++, va++) {
		u64 gpa = mmu_walk(vm, va);
		struct slot *slot = gpa == ~0ull ? NULL : mmu_slot(vm, gpa);
		u8 byte;

		if (!slot)
			return 0;
		byte = slot->host[gpa - slot->gpa];
		if (byte == 0xf1)
			return length;
		if (!is_prefix(byte))
			return 0;
	}
	return 0;
}

/* The library finds ICEBP undefined. If that is what this #UD is about, it
 * becomes the trap that it should be. */
void debug_icebp(struct vmm *vm)
{
	u32 length = icebp_length(vm);

	if (!length)
		return;
	EIP(vm->env) += length;
	EFLAGS(vm->env) &= ~RFLAGS_RF;
	FIELD(vm->cs, CS_EXCEPTION_INDEX, int) = VECTOR_DB;
}

/*
 * Called for an instruction breakpoint, of the guest or of a debugger, and by a translation that remembers one
 * which is gone. The library would leave its main loop for a debugger that
 * isn't there.
 */
INTERPOSED void helper_debug_x86_64(void *env)
{
	struct vmm *vm = current;
	u32 hits;

	debugger_debug(vm);
	hits = breakpoints_hit(env);
	if (hits) {
		DR(env, 6) |= hits;
		engine_fault(env, VECTOR_DB, 0, 0);
	}
	vm->old_dr[0] = SEG(env, SEG_CS)->base + EIP(env);
	vm->dr_changed = true;
	vm->attention = 1;
	cpu_loop_exit_noexc_x86_64(vm->cs);
}
