/* SPDX-License-Identifier: ISC */
/*
 * point_check.c: is all as it was at the point? Everything is looked at, whatever a reset
 * takes for unchanged.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine.h"

static bool check_memory(struct vmm *vm, char *why, size_t size)
{
	for (u32 i = 0; i < vm->slots; i++) {
		const struct slot *slot = &vm->slot[i];
		const u8 *shadow = vm->point->shadow + slot->flat;

		if (!memcmp(slot->host, shadow, slot->size))
			continue;
		for (u64 at = 0; at < slot->size; at += VMM_PAGE) {
			if (!memcmp(slot->host + at, shadow + at, VMM_PAGE))
				continue;
			snprintf(why, size, "memory differs in the page at 0x%llx",
				 (unsigned long long)(slot->gpa + at));
			return false;
		}
	}
	return true;
}

/* Would a store by this entry be noticed? Pages that stay dirty are copied back anyway. */
static bool is_noticed(struct vmm *vm, const struct tlb_entry *entry)
{
	u8 *host = (u8 *)(uintptr_t)((entry->addr_write & ~TLB_FLAGS) + entry->addend);

	if (entry->addr_write & TLB_FLAGS)
		return true;
	for (u32 i = 0; i < vm->slots; i++)
		if ((u64)(host - vm->slot[i].host) < vm->slot[i].size)
			return test_bit(vm->dirty, (vm->slot[i].flat + (host - vm->slot[i].host)) >> 12);
	return false;
}

static bool check_entries(struct vmm *vm, const struct tlb_entry *entries, u64 count, char *why,
			  size_t size)
{
	for (u64 i = 0; i < count; i++) {
		if (is_noticed(vm, &entries[i]))
			continue;
		snprintf(why, size, "the TLB lets stores to 0x%llx through",
			 (unsigned long long)(entries[i].addr_write & ~TLB_FLAGS));
		return false;
	}
	return true;
}

static bool check_tlb(struct vmm *vm, char *why, size_t size)
{
	struct tlb_entry *table;
	u64 count;

	for (int mmu = 0; mmu < MMU_MODES; mmu++) {
		table = tlb_table(vm->cs, mmu, &count);
		if (!check_entries(vm, table, count, why, size) ||
		    !check_entries(vm, tlb_victims(vm->cs, mmu), VICTIMS, why, size))
			return false;
	}
	return true;
}

static bool check_cpu(struct vmm *vm, char *why, size_t size)
{
	struct point *point = vm->point;
	const u8 *env = vm->env;

	for (u32 at = 0; at < POINT_ENV_END; at += 8) {
		if (at >= POINT_ENV_FIRST && at < POINT_ENV_SECOND)
			continue;
		if (!memcmp(env + at, point->env + at, 8))
			continue;
		snprintf(why, size, "the CPU's state differs at its byte 0x%x", at);
		return false;
	}
	if (vm->interrupt != point->interrupt || vm->exception != point->exception ||
	    vm->nmi != point->nmi || vm->cr8 != point->cr8 || vm->halted != point->halted ||
	    vm->apic_base != point->apic_base || vm->tsc_offset != point->tsc_offset) {
		snprintf(why, size, "the CPU's events or its own registers differ");
		return false;
	}
	return true;
}

int vmm_point_check(struct vmm *vm, char *why, size_t size)
{
	struct point *point = vm->point;

	if (!point)
		return -EINVAL;
	current = vm;
	if (memcmp(point->state_at, point->state, point->state_size)) {
		snprintf(why, size, "a chip's registers or the clock differ");
		return 1;
	}
	return check_memory(vm, why, size) && check_tlb(vm, why, size) &&
	       check_cpu(vm, why, size) ? 0 : 1;
}
