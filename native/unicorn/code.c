/* SPDX-License-Identifier: ISC */
/*
 * code.c: the cache of translated code, and which pages it comes from.
 *
 * A page with translations has its bit in vm->code set, and its writable TLB
 * entries marked so that stores come to the library first. The buffer of code
 * would grow to 1 GiB and be wiped whole at each flush: it is kept smaller, and
 * only what was used is wiped.
 *
 * The library begins with its one region in use but not counted as such. When
 * that is full for the first time, it takes the region for a fresh one and goes
 * on at its start, with no flush: new code lands on blocks that its lists still
 * hold. code_open counts it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>

#include "engine.h"

#define CF_COUNT_MASK 0x7fffu
#define MAX_INSTRUCTIONS 128
#define MAX_TEMPS 480u
#define CODE_MIB 256u

/* Where a flat address lies in this process. */
u8 *code_host(struct vmm *vm, u64 flat)
{
	for (u32 i = 0; i < vm->slots; i++)
		if (flat - vm->slot[i].flat < vm->slot[i].size)
			return vm->slot[i].host + (flat - vm->slot[i].flat);
	return NULL;
}

/* The page's first translation: its writable entries take the slow path. */
INTERPOSED void tlb_protect_code_x86_64(void *uc, u64 flat)
{
	struct vmm *vm = current;

	if (unlikely(!vm || vm->uc != uc)) {
		original.tlb_protect_code(uc, flat);
		return;
	}
	flat &= ~0xfffull;
	if (flat >= vm->flat_size)
		return;
	set_bit(vm->code, flat >> 12);
	tlb_reset_dirty_x86_64(vm->cs, (u64)code_host(vm, flat), VMM_PAGE);
}

/* The page's last translation went: its writable entries are fast again. */
INTERPOSED void tlb_unprotect_code_x86_64(void *uc, u64 flat)
{
	struct vmm *vm = current;
	struct tlb_entry *table;
	u64 host, count;

	if (unlikely(!vm || vm->uc != uc)) {
		original.tlb_unprotect_code(uc, flat);
		return;
	}
	flat &= ~0xfffull;
	if (flat >= vm->flat_size)
		return;
	clear_bit(vm->code, flat >> 12);
	host = (u64)code_host(vm, flat);
	for (int mmu = 0; mmu < MMU_MODES; mmu++) {
		table = tlb_table(vm->cs, mmu, &count);
		for (u64 i = 0; i < count; i++) {
			u64 entry = table[i].addr_write;

			if ((entry & TLB_FLAGS) == TLB_NOTDIRTY &&
			    (entry & ~TLB_FLAGS) + table[i].addend == host)
				table[i].addr_write = entry & ~TLB_FLAGS;
		}
	}
}

/* A store to a page with translations. */
INTERPOSED void tb_invalidate_phys_page_fast_x86_64(void *uc, void *pages, u64 flat,
						    int length, uintptr_t ra)
{
	struct vmm *vm = current;

	if (vm && vm->uc == uc && flat < vm->flat_size)
		mark_dirty(vm, flat >> 12);
	original.invalidate_page_fast(uc, pages, flat, length, ra);
}

/* Throws all translations away; nothing of them may be running. */
static void flush(struct vmm *vm)
{
	void *tcg = FIELD(vm->uc, UC_TCG, void *);
	u64 end = FIELD(tcg, TCG_REGION_END, u64);

	FIELD(tcg, TCG_REGION_END, u64) = FIELD(tcg, TCG_CODE_NEXT, u64) + 2 * TCG_MARGIN;
	original.tb_flush(vm->cs);
	FIELD(tcg, TCG_REGION_END, u64) = end;
	FIELD(tcg, TCG_CODE_LIMIT, u64) = end - TCG_MARGIN;
	FIELD(tcg, TCG_CODE_SIZE, u64) = end - FIELD(tcg, TCG_CODE_START, u64);
}

/*
 * The library flushes when the buffer is full, from the translator, and when a
 * breakpoint comes or goes, from the block that is running (MOV to DR7, a task
 * switch that clears its local bits): debug.c sees to that one.
 */
INTERPOSED void tb_flush_x86_64(void *cs)
{
	struct vmm *vm = current;

	if (!vm || vm->cs != cs)
		original.tb_flush(cs);
	else if (vm->translating != TRANSLATING_NOT)
		flush(vm);
	else
		debug_changes(vm);
}

/* The library found its lists of blocks broken: they all begin anew. */
void code_repair(struct vmm *vm)
{
	vm->code_broken = false;
	flush(vm);
}

/* Throws away what was translated from the page at this linear address. */
void code_forget(struct vmm *vm, u64 va)
{
	u64 gpa = mmu_walk(vm, va), flat;
	struct slot *slot = gpa == ~0ull ? NULL : mmu_slot(vm, gpa);

	if (!slot)
		return;
	flat = (slot->flat + (gpa - slot->gpa)) & ~0xfffull;
	tb_invalidate_phys_range_x86_64(vm->uc, flat, flat + VMM_PAGE);
}

/* Throws away what was translated from memory that the caller wrote to. */
void code_written(struct vmm *vm, u64 flat, u64 end)
{
	jmp_buf escape;

	if (vm->code_broken)
		return; /* all of it goes */
	if (!_setjmp(escape)) {
		vm->escape = &escape;
		tb_invalidate_phys_range_x86_64(vm->uc, flat, end);
	}
	vm->escape = NULL;
}

/*
 * The translator has room for 512 temporaries a block and doesn't look. Some
 * instructions never give theirs back, so a long block of them would write past
 * the end: blocks are shorter here, and the room is watched.
 */
INTERPOSED void translator_loop_x86_64(void *ops, void *db, void *cs, void *tb, int max)
{
	struct translator_ops ours;

	if (max > MAX_INSTRUCTIONS)
		max = MAX_INSTRUCTIONS;
	if (unlikely(!current || current->cs != cs)) {
		original.translator_loop(ops, db, cs, tb, max);
		return;
	}
	ours = decode_ops(ops);
	if (unlikely(current->translating_step))
		debugger_translate(&ours, db, cs, tb, max);
	else
		original.translator_loop(&ours, db, cs, tb, max);
}

INTERPOSED void *tcg_temp_new_internal_x86_64(void *tcg, int type, bool local)
{
	if (unlikely(FIELD(tcg, TCG_TEMPS, u32) >= MAX_TEMPS))
		abort_guest();
	return original.temp_new(tcg, type, local);
}

INTERPOSED void *tb_gen_code_x86_64(void *cs, u64 pc, u64 cs_base, u32 flags, u32 cflags)
{
	struct vmm *vm = current;
	void *block;

	if (!vm || vm->cs != cs)
		return original.tb_gen_code(cs, pc, cs_base, flags, cflags);
	vm->translating = (cflags & CF_COUNT_MASK) == 1 ? TRANSLATING_ONE :
							  TRANSLATING_BLOCK;
	vm->translating_step = debugger_is_step(cflags);
	block = original.tb_gen_code(cs, pc, cs_base, flags, cflags);
	vm->translating = TRANSLATING_NOT;
	return block;
}

/* The library forgets to free its notes on pages, unless there are none. */
void code_close(struct vmm *vm)
{
	flush(vm);
}

/* VMM_CODE_BUFFER_MIB makes the buffer smaller, for tests. */
static u64 buffer_size(void)
{
	const char *text = getenv("VMM_CODE_BUFFER_MIB");
	unsigned long mib = text ? strtoul(text, NULL, 10) : 0;

	return (u64)(mib >= 1 && mib < CODE_MIB ? mib : CODE_MIB) << 20;
}

int code_open(struct vmm *vm)
{
	u64 size = buffer_size();
	void *tcg = FIELD(vm->uc, UC_TCG, void *);
	u64 start = FIELD(tcg, TCG_REGION_START, u64), end = FIELD(tcg, TCG_REGION_END, u64);
	u64 next = FIELD(tcg, TCG_CODE_NEXT, u64);

	if (FIELD(tcg, TCG_REGION_COUNT, u64) != 1 || FIELD(tcg, TCG_REGIONS_GIVEN, u64) > 1 ||
	    next < start || next >= start + size || end - start <= size)
		return -ENOTSUP;
	FIELD(tcg, TCG_REGIONS_GIVEN, u64) = 1;
	end = start + size;
	FIELD(tcg, TCG_REGION_END, u64) = end;
	FIELD(tcg, TCG_CODE_LIMIT, u64) = end - TCG_MARGIN;
	FIELD(tcg, TCG_CODE_SIZE, u64) = end - FIELD(tcg, TCG_CODE_START, u64);
	return 0;
}
