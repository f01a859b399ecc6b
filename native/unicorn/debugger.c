/* SPDX-License-Identifier: ISC */
/*
 * debugger.c: a debugger outside of the guest: breakpoints, watchpoints, steps.
 *
 * Breakpoints are the library's: its translator puts a call of helper_debug before their
 * instruction. Translations from before are in the way, of every address space, so all
 * of them go when the set of breakpoints changes; that it is taken away and put back at
 * each stop, as gdb does, changes nothing.
 *
 * A step runs a block of one instruction that ends with helper_debug. Such blocks are told
 * from others of that length by CF_LAST_IO, which is part of a block's key and means nothing
 * without icount. Here the main loop comes by on every pass (attention stays set).
 *
 * Pages with watchpoints have TLB_WATCHPOINT in their TLB entries, which makes the library
 * ask before each access. One that is watched takes its block back to the instruction's
 * start; then it is stepped over, so that the stop is behind it.
 */
#define _GNU_SOURCE
#include <string.h>

#include "breakpoint.h"
#include "engine.h"

#define CF_LAST_IO 0x8000u
#define CFLAGS_STEP (1u | CF_LAST_IO)
#define CFLAGS_NONE (~0u)
#define BP_GDB 0x10
#define MEM_READ 1
#define DR6_BS 0x4000u
#define VECTOR_DB 1


int cpu_breakpoint_insert_x86_64(void *cs, u64 pc, int flags, void **breakpoint);
void cpu_breakpoint_remove_all_x86_64(void *cs, int mask);

static u64 linear_pc(void *env)
{
	u64 pc = SEG(env, SEG_CS)->base + EIP(env);

	return HFLAGS(env) & HF_CS64 ? pc : (u32)pc;
}

static bool has_breakpoint(const struct breakpoints *in, u64 address)
{
	for (u32 i = 0; i < in->count; i++)
		if (in->list[i].kind == VMM_BREAK_EXECUTE && in->list[i].address == address)
			return true;
	return false;
}

static bool is_within(const struct breakpoints *one, const struct breakpoints *other)
{
	for (u32 i = 0; i < one->count; i++)
		if (one->list[i].kind == VMM_BREAK_EXECUTE &&
		    !has_breakpoint(other, one->list[i].address))
			return false;
	return true;
}

int vmm_debug(struct vmm *vm, uint32_t flags, const struct vmm_breakpoint *list, uint32_t count)
{
	struct debugger *debugger = &vm->debugger;
	int error = breakpoint_check(list, count, VMM_MAX_BREAKPOINTS);

	if (error)
		return error;
	current = vm;
	debugger->wanted.count = count;
	if (count)
		memcpy(debugger->wanted.list, list, count * sizeof(*list));
	debugger->changed = true;
	debugger->stepping = flags & VMM_DEBUG_STEP;
	debugger->started = false;
	debugger->hit = 0;
	engine_attend(vm);
	return 0;
}

/* Between two instructions: what vmm_debug has said holds from here on. */
void debugger_refresh(struct vmm *vm)
{
	struct debugger *debugger = &vm->debugger;
	struct breakpoints *set = &debugger->set, *wanted = &debugger->wanted;
	bool same = is_within(set, wanted) && is_within(wanted, set);

	debugger->changed = false;
	memcpy(set, wanted, sizeof(*set));
	tlb_flush_x86_64(vm->cs);
	if (same)
		return;
	cpu_breakpoint_remove_all_x86_64(vm->cs, BP_GDB);
	for (u32 i = 0; i < set->count; i++)
		if (set->list[i].kind == VMM_BREAK_EXECUTE)
			cpu_breakpoint_insert_x86_64(vm->cs, set->list[i].address, BP_GDB, NULL);
	code_repair(vm);
}

/* The library can't close with a breakpoint set. */
void debugger_close(struct vmm *vm)
{
	cpu_breakpoint_remove_all_x86_64(vm->cs, BP_GDB);
}

static void stop_here(struct vmm *vm)
{
	vm->stop = STOP_DEBUG;
	vm->attention = 1;
}

/* helper_debug was called: for the debugger? Then it doesn't return. */
void debugger_debug(struct vmm *vm)
{
	struct debugger *debugger = &vm->debugger;

	if (debugger->stepping || debugger->hit ||
	    has_breakpoint(&debugger->set, linear_pc(vm->env)))
		stop_here(vm);
	else if (!coverage_compares(vm))
		return;
	vm->attention = 1;
	cpu_loop_exit_noexc_x86_64(vm->cs);
}

/* On the main loop's pass: an exception's delivery ends a step too. A block that left at its
 * start (a kick, the virtual clock) has done nothing. */
void debugger_pass(struct vmm *vm)
{
	struct debugger *debugger = &vm->debugger;

	if (!debugger->started || vm->stop != STOP_NONE || linear_pc(vm->env) == debugger->from)
		return;
	if (debugger->stepping)
		stop_here(vm);
	else
		debugger->hit = 0; /* a fault came before the access */
}

/* Into the guest: the next block is one instruction. */
void debugger_enter(struct vmm *vm)
{
	vm->debugger.from = linear_pc(vm->env);
	vm->debugger.started = true;
	FIELD(vm->cs, CS_CFLAGS_NEXT_TB, u32) = CFLAGS_STEP;
}

/* The next block is one instruction, for whoever looks at its flags. */
void debugger_single(struct vmm *vm)
{
	FIELD(vm->cs, CS_CFLAGS_NEXT_TB, u32) = CFLAGS_STEP;
}

/* Fills a KVM_EXIT_DEBUG. */
void debugger_report(struct vmm *vm)
{
	struct debugger *debugger = &vm->debugger;
	struct kvm_debug_exit_arch *arch = &vm->run->debug.arch;

	memset(arch, 0, sizeof(*arch));
	arch->exception = VECTOR_DB;
	arch->pc = linear_pc(vm->env);
	arch->dr6 = 0xffff0ff0u | debugger->hit | (debugger->stepping ? DR6_BS : 0);
	arch->dr7 = DR(vm->env, 7);
	for (u32 i = 0; i < debugger->set.count && i < BREAKPOINT_WATCHES; i++)
		if (!debugger->stepping && debugger->set.list[i].kind == VMM_BREAK_EXECUTE &&
		    debugger->set.list[i].address == arch->pc)
			arch->dr6 |= 1u << i;
	debugger->hit = 0;
	debugger->started = false;
	FIELD(vm->cs, CS_CFLAGS_NEXT_TB, u32) = CFLAGS_NONE;
	vm->stop = STOP_NONE;
}

/* ------------------------------------------------------------- the translator */

bool debugger_is_step(u32 cflags)
{
	return (cflags & (0x7fffu | CF_LAST_IO)) == CFLAGS_STEP;
}

static HOT_TLS const struct translator_ops *library_ops;

/* The library has noted that it is to translate for a step; it would leave its main loop
 * at the next exception if it found that in the CPU. */
static void init_step(void *db, void *cs)
{
	FIELD(cs, CS_SINGLESTEP, int) = 0;
	library_ops->init_disas_context(db, cs);
}

void debugger_translate(const struct translator_ops *ops, void *db, void *cs, void *tb, int max)
{
	struct translator_ops stepping = *ops;

	library_ops = ops;
	stepping.init_disas_context = init_step;
	FIELD(cs, CS_SINGLESTEP, int) = 1;
	original.translator_loop(&stepping, db, cs, tb, max);
}

/* --------------------------------------------------------------- watchpoints */

/* Which of the first entries are met by an access, as bits of DR6. */
static u32 watched(struct vmm *vm, u64 address, u64 length, int access)
{
	const struct breakpoints *set = &vm->debugger.set;
	u32 hit = 0;

	for (u32 i = 0; i < set->count && i < BREAKPOINT_WATCHES; i++) {
		const struct vmm_breakpoint *watch = &set->list[i];
		/* MEM_READ and MEM_WRITE, from VMM_BREAK_READ and VMM_BREAK_WRITE */
		int kinds = (watch->kind & VMM_BREAK_READ ? 1 : 0) |
			    (watch->kind & VMM_BREAK_WRITE ? 2 : 0);

		if ((kinds & access) && address < watch->address + watch->length &&
		    watch->address < address + length)
			hit |= 1u << i;
	}
	return hit;
}

/* What of a page is watched, as its TLB entry is made. */
INTERPOSED int cpu_watchpoint_address_matches_x86_64(void *cs, u64 address, u64 length)
{
	struct vmm *vm = current;

	if (!vm || vm->cs != cs || !vm->debugger.set.count)
		return 0;
	return (watched(vm, address, length, 1) ? 1 : 0) | (watched(vm, address, length, 2) ? 2 : 0);
}

/* An access to a watched page is about to be made. */
INTERPOSED void cpu_check_watchpoint_x86_64(void *cs, u64 address, u64 length, u32 attributes,
					    int access, uintptr_t ra)
{
	struct vmm *vm = current;

	(void)attributes;
	if (!vm || vm->cs != cs || vm->debugger.hit)
		return;
	vm->debugger.hit = watched(vm, address, length, access);
	if (!vm->debugger.hit)
		return;
	if (!ra) { /* the processor's own, on the way into a handler */
		stop_here(vm);
		return;
	}
	cpu_restore_state_x86_64(cs, ra, true);
	vm->attention = 1;
	cpu_loop_exit_noexc_x86_64(cs);
}
