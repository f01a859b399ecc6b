/* SPDX-License-Identifier: ISC */
/*
 * mmu.c: guest-physical memory and its translation.
 *
 * libunicorn walks the guest's page tables for permissions and accessed bits
 * but then takes the virtual address for the physical one. Here each TLB fill
 * gets the right one. All slots lie in one flat space, from 0 on, in the order
 * of the configuration; the library maps them there, so that its ram_addr, its
 * address and our flat offset are one number. What is in no slot goes to one
 * MMIO region at 1 << 46.
 *
 * Bitmaps, a bit a flat page: `code` (translations of it exist, stores
 * take the slow path that drops them), `dirty` (written since the last
 * vmm_dirty; a clean page has no writable TLB entry, so its first store comes
 * here as a fill), and `touched` while somebody asks for it (a page has come
 * here as a fill, or was walked through, since the TLB was empty).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

#define NOWHERE (~0ull)
#define PTE_PRESENT 1u
#define PTE_LARGE 0x80u
#define PTE_FRAME 0x000ffffffffff000ull
#define PROT_STORE 2
#define FILL_STORE 1

/* ram_addr of a mapping is rounded up to this by the library. */
#define FLAT_ALIGN (64ull * VMM_PAGE)

/* -------------------------------------------------------------- the flat space */

/* The slot that holds gpa, or NULL. */
struct slot *mmu_slot(struct vmm *vm, u64 gpa)
{
	struct slot *slot = &vm->slot[vm->last_slot];

	if (likely(gpa - slot->gpa < slot->size))
		return slot;
	for (u32 i = 0; i < vm->slots; i++) {
		slot = &vm->slot[i];
		if (gpa - slot->gpa < slot->size) {
			vm->last_slot = i;
			return slot;
		}
	}
	return NULL;
}

/* Memory that backs an entry of a page table at gpa, or NULL. */
static u8 *host_of(struct vmm *vm, u64 gpa, bool store)
{
	struct slot *slot = mmu_slot(vm, gpa);

	if (!slot || (store && slot->readonly))
		return NULL;
	if (store) {
		mark_dirty(vm, (slot->flat + (gpa - slot->gpa)) >> 12);
		lines_mark(vm, gpa, 8);
	} else if (vm->point)
		set_bit(vm->point->tables, (slot->flat + (gpa - slot->gpa)) >> 12);
	if (unlikely(vm->touched))
		set_bit(vm->touched, (slot->flat + (gpa - slot->gpa)) >> 12);
	return slot->host + (gpa - slot->gpa);
}

/* The guest-physical address of a flat one; NOWHERE between slots. */
u64 mmu_gpa(struct vmm *vm, u64 flat)
{
	for (u32 i = 0; i < vm->slots; i++)
		if (flat - vm->slot[i].flat < vm->slot[i].size)
			return vm->slot[i].gpa + (flat - vm->slot[i].flat);
	return NOWHERE;
}

/* ------------------------------------------------- the library's page walker */

/* Page tables outside memory read as all ones and swallow stores. */

INTERPOSED u64 x86_ldq_phys_x86_64(void *cs, u64 gpa)
{
	u64 value = ~0ull;
	u8 *host;

	if (unlikely(!current || current->cs != cs))
		return original.ldq_phys(cs, gpa);
	host = host_of(current, gpa, false);
	if (host)
		memcpy(&value, host, 8);
	return value;
}

INTERPOSED u32 x86_ldl_phys_x86_64(void *cs, u64 gpa)
{
	u32 value = ~0u;
	u8 *host;

	if (unlikely(!current || current->cs != cs))
		return original.ldl_phys(cs, gpa);
	host = host_of(current, gpa, false);
	if (host)
		memcpy(&value, host, 4);
	return value;
}

INTERPOSED void x86_stl_phys_notdirty_x86_64(void *cs, u64 gpa, u32 value)
{
	u8 *host;

	if (unlikely(!current || current->cs != cs)) {
		original.stl_phys_notdirty(cs, gpa, value);
		return;
	}
	host = host_of(current, gpa, true);
	if (host)
		memcpy(host, &value, 4);
}

INTERPOSED void x86_stq_phys_x86_64(void *cs, u64 gpa, u64 value)
{
	u8 *host;

	if (unlikely(!current || current->cs != cs)) {
		original.stq_phys(cs, gpa, value);
		return;
	}
	host = host_of(current, gpa, true);
	if (host)
		memcpy(host, &value, 8);
}

static u64 walk_legacy(struct vmm *vm, u64 va)
{
	u64 cr3 = CR(vm->env, 3) & 0xfffff000u;
	u32 entry = x86_ldl_phys_x86_64(vm->cs, cr3 + ((va >> 20) & 0xffc));

	if (!(entry & PTE_PRESENT))
		return NOWHERE;
	if ((entry & PTE_LARGE) && (CR(vm->env, 4) & 0x10)) /* PSE-36 */
		return (u64)(entry & 0x1fe000) << 19 | (entry & 0xffc00000u) | (va & 0x3fffff);
	entry = x86_ldl_phys_x86_64(vm->cs, (entry & 0xfffff000u) + ((va >> 10) & 0xffc));
	if (!(entry & PTE_PRESENT))
		return NOWHERE;
	return (entry & 0xfffff000u) | (va & 0xfff);
}

/*
 * The physical address of a linear one, NOWHERE if it has none. No permission
 * is looked at and no bit set: the library has done both when it matters.
 */
u64 mmu_walk(struct vmm *vm, u64 va)
{
	void *env = vm->env;
	u64 table, entry;
	int shift;

	if (!(CR(env, 0) & 0x80000000u))
		return (u32)va;
	if (!(CR(env, 4) & 0x20))
		return walk_legacy(vm, (u32)va);
	if (HFLAGS(env) & HF_LMA) {
		table = CR(env, 3) & PTE_FRAME;
		shift = 39;
	} else {
		va = (u32)va;
		entry = x86_ldq_phys_x86_64(vm->cs, (CR(env, 3) & 0xffffffe0u) +
						    ((va >> 27) & 0x18));
		if (!(entry & PTE_PRESENT))
			return NOWHERE;
		table = entry & PTE_FRAME;
		shift = 21;
	}
	for (;; shift -= 9) {
		entry = x86_ldq_phys_x86_64(vm->cs, table + ((va >> shift) & 0x1ff) * 8);
		if (!(entry & PTE_PRESENT))
			return NOWHERE;
		if (shift == 12 || ((entry & PTE_LARGE) && shift < 39))
			break;
		table = entry & PTE_FRAME;
	}
	return (entry & PTE_FRAME & ~((1ull << shift) - 1)) | (va & ((1ull << shift) - 1));
}

/* --------------------------------------------------------------------- the TLB */

INTERPOSED bool x86_cpu_tlb_fill_x86_64(void *cs, u64 va, int size, int access, int mmu,
					bool probe, uintptr_t ra)
{
	if (likely(current))
		current->fill_access = access;
	/* The library's near branches leave 64 bits of a register in EIP. */
	if (access == ACCESS_FETCH && current && !(HFLAGS(current->env) & HF_CS64) &&
	    EIP(current->env) >> 32) {
		EIP(current->env) = (u32)EIP(current->env);
		cpu_loop_exit_noexc_x86_64(cs);
	}
	return original.tlb_fill(cs, va, size, access, mmu, probe, ra);
}

/* Stores to read-only memory are MMIO, loads and fetches are memory: the entry
 * gets the store half of an MMIO page. */
static void set_rom_page(struct vmm *vm, u64 va, u64 gpa, u64 flat, u32 attrs, int prot,
			 int mmu, u64 size)
{
	struct tlb_entry *table;
	struct iotlb_entry *iotlb;
	u64 count, index, saved;

	original.set_page(vm->cs, va, MMIO_WINDOW + gpa, attrs, prot, mmu, size);
	table = tlb_table(vm->cs, mmu, &count);
	index = (va >> 12) & (count - 1);
	iotlb = FIELD((char *)vm->cs + CS_TLB_DESC(mmu), DESC_IOTLB, struct iotlb_entry *);
	saved = iotlb[index].addr;
	original.set_page(vm->cs, va, flat, attrs, prot & ~PROT_STORE, mmu, size);
	if (prot & PROT_STORE) {
		iotlb[index].addr = saved;
		table[index].addr_write = (va & ~0xfffull) | TLB_MMIO;
	}
}

INTERPOSED void tlb_set_page_with_attrs_x86_64(void *cs, u64 va, u64 unused, u32 attrs,
					       int prot, int mmu, u64 size)
{
	struct vmm *vm = current;
	struct tlb_entry *table;
	struct slot *slot;
	u64 gpa, flat, count, entry;

	if (unlikely(!vm || vm->cs != cs)) {
		original.set_page(cs, va, unused, attrs, prot, mmu, size);
		return;
	}
	gpa = mmu_walk(vm, va) & ~0xfffull;
	slot = mmu_slot(vm, gpa);
	if (unlikely(!slot)) {
		gpa &= MMIO_WINDOW_SIZE - 1;
		original.set_page(cs, va, MMIO_WINDOW + gpa, attrs, prot, mmu, size);
		return;
	}
	flat = slot->flat + (gpa - slot->gpa);
	if (unlikely(vm->touched))
		set_bit(vm->touched, flat >> 12);
	if (unlikely(slot->readonly)) {
		set_rom_page(vm, va, gpa, flat, attrs, prot, mmu, size);
		return;
	}
	if (vm->fill_access == FILL_STORE)
		mark_dirty(vm, flat >> 12);
	else if (!test_bit(vm->dirty, flat >> 12))
		prot &= ~PROT_STORE;
	original.set_page(cs, va, flat, attrs, prot, mmu, size);

	if ((prot & PROT_STORE) && vm->point) {
		tlb_table(cs, mmu, &count);
		point_writable(vm, mmu, (va >> 12) & (count - 1), flat >> 12);
	}

	/* Without translations of the page, stores need no slow path. */
	if ((prot & PROT_STORE) && !test_bit(vm->code, flat >> 12)) {
		table = tlb_table(cs, mmu, &count);
		table += (va >> 12) & (count - 1);
		entry = table->addr_write;
		if (((entry ^ va) & ~0xfffull) == 0)
			table->addr_write = entry & ~TLB_NOTDIRTY;
	}
}

/* The slow path checks regions by virtual address: each claims the first. */
INTERPOSED void *memory_mapping(void *uc, u64 address)
{
	struct vmm *vm = current;

	if (likely(vm && vm->uc == uc && vm->ram_region))
		return vm->ram_region;
	return original.memory_mapping(uc, address);
}

/* -------------------------------------------------------------------- contract */

/* Gives a slot's bits away: what is in the TLB doesn't come here again, so that goes. */
static int take_bits(struct vmm *vm, u64 *map, uint32_t index, uint8_t *bitmap, size_t size)
{
	struct slot *slot;
	u64 *words;
	size_t bytes;
	int count = 0;

	if (index >= vm->slots)
		return -EINVAL;
	slot = &vm->slot[index];
	bytes = ((slot->size >> 12) + 63) / 64 * 8;
	if (size < bytes)
		return -EINVAL;
	current = vm;
	words = map + (slot->flat >> 18);
	for (size_t i = 0; i < bytes / 8; i++)
		count += __builtin_popcountll(words[i]);
	memcpy(bitmap, words, bytes);
	if (count) {
		memset(words, 0, bytes);
		tlb_flush_x86_64(vm->cs);
	}
	return count;
}

int vmm_dirty(struct vmm *vm, uint32_t index, uint8_t *bitmap, size_t size)
{
	return vm->point ? -EBUSY : take_bits(vm, vm->dirty, index, bitmap, size);
}

/* It costs nothing that could be saved. */
int vmm_dirty_end(struct vmm *vm)
{
	(void)vm;
	return 0;
}

/* The guest goes on where it is. Blocks of one page lead to each other without a look at the
 * TLB, so that the page might not come here. */
void mmu_touch_code(struct vmm *vm)
{
	u64 gpa = mmu_walk(vm, SEG(vm->env, SEG_CS)->base + EIP(vm->env));
	struct slot *slot = mmu_slot(vm, gpa);

	if (slot)
		set_bit(vm->touched, (slot->flat + (gpa - slot->gpa)) >> 12);
}

int vmm_touched_begin(struct vmm *vm)
{
	if (vm->point || vm->touched)
		return -EBUSY;
	vm->touched = calloc(vm->flat_size >> 18, 8);
	if (!vm->touched)
		return -ENOMEM;
	current = vm;
	tlb_flush_x86_64(vm->cs);
	return 0;
}

int vmm_touched(struct vmm *vm, uint32_t index, uint8_t *bitmap, size_t size)
{
	return vm->touched ? take_bits(vm, vm->touched, index, bitmap, size) : -EINVAL;
}

void vmm_touched_end(struct vmm *vm)
{
	free(vm->touched);
	vm->touched = NULL;
}

int vmm_written(struct vmm *vm, uint64_t gpa, uint64_t length)
{
	u64 flat, end;

	current = vm;
	while (length) {
		struct slot *slot = mmu_slot(vm, gpa);
		u64 part;

		if (!slot)
			return -EFAULT;
		part = slot->size - (gpa - slot->gpa);
		if (part > length)
			part = length;
		flat = slot->flat + (gpa - slot->gpa);
		end = flat + part;
		lines_mark(vm, flat, part);
		for (u64 page = flat >> 12; page <= (end - 1) >> 12; page++) {
			u64 next = (page + 1) << 12;

			mark_dirty(vm, page);
			if (test_bit(vm->code, page)) {
				code_written(vm, flat, next < end ? next : end);
				/* A block that waits for an answer in here
				 * may jump to itself: not any more. */
				engine_attend(vm);
			}
			flat = next;
		}
		gpa += part;
		length -= part;
	}
	return 0;
}

/* --------------------------------------------------------------- opening, closing */

/* Two slots may show the same host memory (a BIOS at two places): the later
 * one then shares the earlier one's flat pages. */
static bool share(struct vmm *vm, struct slot *slot, u32 before)
{
	for (u32 i = 0; i < before; i++) {
		struct slot *other = &vm->slot[i];

		if (slot->host >= other->host &&
		    slot->host + slot->size <= other->host + other->size) {
			slot->flat = other->flat + (slot->host - other->host);
			return true;
		}
	}
	return false;
}

static int add_slot(struct vmm *vm, u32 index, const struct vmm_slot *from, char *why,
		    size_t size)
{
	struct slot *slot = &vm->slot[index];
	uc_err error;

	slot->gpa = from->gpa;
	slot->size = from->size;
	slot->host = (u8 *)(uintptr_t)from->host;
	slot->readonly = from->flags & VMM_SLOT_READONLY;
	if ((from->gpa | from->size | from->host) & (VMM_PAGE - 1) || !from->size ||
	    from->gpa + from->size > MMIO_WINDOW_SIZE || from->gpa + from->size < from->gpa) {
		snprintf(why, size, "Memory slot %u isn't made of whole pages.", index);
		return -EINVAL;
	}
	if (share(vm, slot, index))
		return 0;
	slot->flat = vm->flat_size;
	error = uc_mem_map_ptr(vm->uc, slot->flat, slot->size, UC_PROT_ALL, slot->host);
	if (error != UC_ERR_OK) {
		snprintf(why, size, "libunicorn can't map memory slot %u: %s.", index,
			 uc_strerror(error));
		return -EINVAL;
	}
	if (qemu_ram_addr_from_host_x86_64(vm->uc, slot->host) != slot->flat) {
		snprintf(why, size, "libunicorn put memory slot %u elsewhere.", index);
		return -EINVAL;
	}
	vm->flat_size = (slot->flat + slot->size + FLAT_ALIGN - 1) & ~(FLAT_ALIGN - 1);
	return 0;
}

static u64 unused_read(uc_engine *uc, u64 offset, unsigned size, void *data)
{
	(void)uc, (void)offset, (void)size, (void)data;
	return 0; /* io.c answers before the library gets here */
}

static void unused_write(uc_engine *uc, u64 offset, unsigned size, u64 value, void *data)
{
	(void)uc, (void)offset, (void)size, (void)value, (void)data;
}

int mmu_open(struct vmm *vm, const struct vmm_config *config, char *why, size_t size)
{
	uc_err error;

	if (config->slots == 0 || config->slots > VMM_MAX_SLOTS) {
		snprintf(why, size, "A machine has 1 to %u memory slots, not %u.",
			 VMM_MAX_SLOTS, config->slots);
		return -EINVAL;
	}
	vm->slots = config->slots;
	for (u32 i = 0; i < config->slots; i++) {
		int result = add_slot(vm, i, &config->slot[i], why, size);

		if (result < 0)
			return result;
	}
	error = uc_mmio_map(vm->uc, MMIO_WINDOW, MMIO_WINDOW_SIZE, unused_read, NULL,
			    unused_write, NULL);
	if (error != UC_ERR_OK) {
		snprintf(why, size, "libunicorn can't map MMIO: %s.", uc_strerror(error));
		return -EINVAL;
	}
	vm->dirty = calloc(vm->flat_size >> 18, 8);
	vm->code = calloc(vm->flat_size >> 18, 8);
	if (!vm->dirty || !vm->code) {
		snprintf(why, size, "Out of memory.");
		return -ENOMEM;
	}
	vm->ram_region = original.memory_mapping(vm->uc, 0);
	return 0;
}

void mmu_close(struct vmm *vm)
{
	vmm_point_drop(vm);
	vmm_touched_end(vm);
	free(vm->dirty);
	free(vm->code);
}
