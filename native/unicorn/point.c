/* SPDX-License-Identifier: ISC */
/*
 * point.c: a point that a machine goes back to.
 *
 * The dirty bitmap, which is empty at the point, says exactly which pages to copy back;
 * point_page lists them as they come. A page that is clean again needs a first store that
 * comes here: its writable TLB entries go, one by one, since an empty TLB costs a run more
 * than all else. What else the TLB holds stays true as long as no page table was written
 * and the registers that choose them are the same at both ends of the run: each change of
 * theirs in between has emptied it.
 *
 * A page with translations is compared, and only those of bytes that changed go.
 *
 * A store's way to its page costs more than to copy the page's lines back. So pages that
 * two of a few runs have written stay dirty over the next resets, with their TLB entries,
 * and are copied back whether they were written or not.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine.h"
#include "fuzz.h"

#define LINE (VMM_PAGE / LINES)

/* The compiler's own copy of so much is `rep movs`, at half of the C library's speed. */
static void copy(void *to, const void *from, size_t size)
{
	__asm__("" : "+r"(size));
	memcpy(to, from, size);
}

/* A page is written for the first time since the point. */
void point_page(struct vmm *vm, u64 page)
{
	struct point *point = vm->point;

	point->pages[point->count++] = page;
}

/* A TLB entry lets stores through to a page that was written. */
void point_writable(struct vmm *vm, u32 mmu, u64 index, u64 page)
{
	struct point *point = vm->point;

	if (point->writes == POINT_WRITES) {
		point->many_writes = true;
		return;
	}
	point->write[point->writes++] = (struct point_write){ mmu, index, page };
}

/* -------------------------------------------------------------------------- the CPU */

static void save_cpu(struct vmm *vm, struct point *point)
{
	memcpy(point->env, vm->env, POINT_ENV_END);
	point->apic_base = vm->apic_base;
	point->cr8 = vm->run->cr8;
	point->tsc_offset = vm->tsc_offset;
	point->arch_capabilities = vm->arch_capabilities;
	point->interrupt = vm->interrupt;
	point->exception = vm->exception;
	point->exception_code = vm->exception_code;
	point->exception_has_code = vm->exception_has_code;
	point->halted = vm->halted;
	point->nmi = vm->nmi;
	point->int_set = vm->int_set;
	point->int_eip = vm->int_eip;
	point->deadline = vm->kick.deadline;
	point->window = vm->run->request_interrupt_window;
}

static bool debug_moved(void *env, void *at_point)
{
	u64 differences = 0;

	for (int i = 0; i < 8; i++)
		differences |= DR(env, i) ^ DR(at_point, i);
	return differences;
}

static void restore_cpu(struct vmm *vm, struct point *point)
{
	struct kvm_debugregs debugregs;
	u8 *env = vm->env;

	if (unlikely(debug_moved(env, point->env))) {
		for (int i = 0; i < 4; i++)
			debugregs.db[i] = DR(point->env, i);
		debugregs.dr6 = DR(point->env, 6);
		debugregs.dr7 = DR(point->env, 7);
		debug_set(vm, &debugregs);
	}
	if (vm->vector_written) {
		copy(env, point->env, POINT_ENV_FIRST);
		vm->vector_written = 0;
	} else {
		copy(env, point->env, POINT_ENV_VECTORS);
		copy(env + POINT_ENV_VECTORS_END, point->env + POINT_ENV_VECTORS_END,
		     POINT_ENV_FIRST - POINT_ENV_VECTORS_END);
	}
	memcpy(env + POINT_ENV_SECOND, point->env + POINT_ENV_SECOND,
	       POINT_ENV_END - POINT_ENV_SECOND);
	vm->apic_base = point->apic_base;
	vm->cr8 = vm->run->cr8 = point->cr8;
	vm->tsc_offset = point->tsc_offset;
	vm->arch_capabilities = point->arch_capabilities;
	vm->interrupt = point->interrupt;
	vm->exception = point->exception;
	vm->exception_code = point->exception_code;
	vm->exception_has_code = point->exception_has_code;
	vm->halted = point->halted;
	vm->nmi = point->nmi;
	vm->int_set = point->int_set;
	vm->int_eip = point->int_eip;
	vm->stop = STOP_NONE;
	vm->kick.deadline = point->deadline;
	vm->run->request_interrupt_window = point->window;
	vm->run->kvm_dirty_regs = 0;
	vm->debugger.hit = 0;
	vm->debugger.started = false;
	vm->break_met = vm->break_passed = false;
	if (vm->halted || vm->exception >= 0 || vm->dr_changed || vm->code_broken)
		engine_attend(vm);
	engine_publish(vm);
}

/* Does what chooses the page tables, and how they are read, differ from the point's? */
static bool paging_moved(struct vmm *vm, struct point *point)
{
	void *env = vm->env;

	return CR(env, 0) != CR(point->env, 0) || CR(env, 3) != CR(point->env, 3) ||
	       CR(env, 4) != CR(point->env, 4) || EFER(env) != EFER(point->env);
}

/* ----------------------------------------------------------------------- the memory */

static void restore_code_page(struct vmm *vm, u64 flat, u8 *host, const u8 *shadow,
			      const struct lines *lines)
{
	for (u32 i = 0; i < lines->count; i++) {
		u32 at = lines->at[i];

		if (!memcmp(host + at, shadow + at, LINE))
			continue;
		memcpy(host + at, shadow + at, LINE);
		code_written(vm, flat + at, flat + at + LINE);
	}
}

static void restore_page(u8 *host, const u8 *shadow, const struct lines *lines)
{
	if (lines->whole) {
		copy(host, shadow, VMM_PAGE);
		return;
	}
	for (u32 i = 0; i < lines->count; i++)
		memcpy(host + lines->at[i], shadow + lines->at[i], LINE);
}

/* Writable entries of the TLB and its victims, but for those of pages that stay dirty;
 * those that are read stay. When all pages do, there are no others. */
static void drop_writes(struct vmm *vm, struct point *point)
{
	struct tlb_entry *table;
	u32 kept = 0;
	u64 count;

	for (u32 i = 0; i < point->writes; i++) {
		struct point_write write = point->write[i];

		if (test_bit(vm->dirty, write.page)) {
			point->write[kept++] = write;
			continue;
		}
		table = tlb_table(vm->cs, write.mmu, &count);
		table[write.index & (count - 1)].addr_write = ~0ull;
	}
	if (kept == point->writes)
		return;
	point->writes = kept;
	for (int mmu = 0; mmu < MMU_MODES; mmu++)
		for (u32 i = 0; i < VICTIMS; i++)
			tlb_victims(vm->cs, mmu)[i].addr_write = ~0ull;
}

static void empty_tlb(struct vmm *vm, struct point *point)
{
	tlb_flush_x86_64(vm->cs);
	memset(point->tables, 0, point->size >> 15);
	point->writes = 0;
	point->many_writes = false;
}

/* A page that one of the first runs of a round has written, and perhaps another, too. */
static void learn(struct vmm *vm, struct point *point, u64 page)
{
	if (test_bit(point->often, page)) {
		if (!test_bit(vm->code, page))
			set_bit(point->kept, page);
	} else if (point->often_count < POINT_KEPT) {
		set_bit(point->often, page);
		point->often_list[point->often_count++] = page;
	}
}

static void forget(struct point *point)
{
	for (u32 i = 0; i < point->often_count; i++) {
		clear_bit(point->often, point->often_list[i]);
		clear_bit(point->kept, point->often_list[i]);
	}
	point->often_count = 0;
	point->round = 0;
}

static bool restore_memory(struct vmm *vm, struct point *point)
{
	bool tables = false;
	struct lines lines;
	u32 kept = 0;

	lines_take(vm, &lines);
	if (point->round >= POINT_ROUND)
		forget(point);
	for (u32 i = 0; i < point->count; i++) {
		u64 page = point->pages[i], flat = page << 12;
		u8 *host = code_host(vm, flat);

		tables |= test_bit(point->tables, page);
		if (unlikely(test_bit(vm->code, page)))
			restore_code_page(vm, flat, host, point->shadow + flat, &lines);
		else
			restore_page(host, point->shadow + flat, &lines);
		if (point->round < POINT_LEARN)
			learn(vm, point, page);
		if (test_bit(point->kept, page) && !test_bit(vm->code, page))
			point->pages[kept++] = page;
		else
			clear_bit(vm->dirty, page);
	}
	point->count = kept;
	point->round++;
	return tables;
}

/* ------------------------------------------------------------------------- contract */

static bool is_zero(const u8 *page)
{
	return !page[0] && !memcmp(page, page + 1, VMM_PAGE - 1);
}

static void copy_slot(const struct slot *slot, u8 *shadow)
{
	for (u64 at = 0; at < slot->size; at += VMM_PAGE)
		if (!is_zero(slot->host + at))
			memcpy(shadow + slot->flat + at, slot->host + at, VMM_PAGE);
}

static int point_open(struct vmm *vm, struct point *point, u64 state, u64 size)
{
	point->size = vm->flat_size;
	point->mapping = mmap(NULL, point->size + VMM_PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (point->mapping == MAP_FAILED)
		return -ENOMEM;
	point->shadow = point->mapping + VMM_PAGE / 2;
	point->tables = calloc(point->size >> 18, 8);
	point->often = calloc(point->size >> 18, 8);
	point->kept = calloc(point->size >> 18, 8);
	point->pages = malloc((point->size >> 12) * sizeof(*point->pages));
	point->state = malloc(size + 1);
	if (!point->tables || !point->often || !point->kept || !point->pages || !point->state)
		return -ENOMEM;
	point->state_at = (u8 *)(uintptr_t)state;
	point->state_size = size;
	memcpy(point->state, point->state_at, size);
	for (u32 i = 0; i < vm->slots; i++)
		copy_slot(&vm->slot[i], point->shadow);
	return 0;
}

static void point_close(struct point *point)
{
	if (!point)
		return;
	if (point->mapping && point->mapping != MAP_FAILED)
		munmap(point->mapping, point->size + VMM_PAGE);
	free(point->tables);
	free(point->often);
	free(point->kept);
	free(point->pages);
	free(point->state);
	free(point);
}

int vmm_point_take(struct vmm *vm, uint64_t state, uint64_t size)
{
	struct point *point;
	int error;

	if (vm->place != PLACE_PARKED || vm->stop != STOP_NONE)
		return -EBUSY;
	current = vm;
	vmm_point_drop(vm);
	point = calloc(1, sizeof(*point));
	error = point ? point_open(vm, point, state, size) : -ENOMEM;
	if (error) {
		point_close(point);
		return error;
	}
	save_cpu(vm, point);
	memset(vm->dirty, 0, vm->flat_size >> 15);
	memset(&vm->lines, 0, sizeof(vm->lines));
	vm->vector_written = 0;
	vm->point = point;
	/* Its stores are to note their lines. */
	vm->code_broken = true;
	engine_attend(vm);
	empty_tlb(vm, point);
	return 0;
}

void vmm_point_drop(struct vmm *vm)
{
	point_close(vm->point);
	vm->point = NULL;
	vm->budget_block = ~0ull;
}

static void restore_state(struct vmm *vm, struct point *point, bool all)
{
	u64 clock = (u8 *)vm->clock - point->state_at;

	if (all || clock + sizeof(*vm->clock) > point->state_size)
		memcpy(point->state_at, point->state, point->state_size);
	else
		memcpy(vm->clock, point->state + clock, sizeof(*vm->clock));
}

int vmm_point_reset(struct vmm *vm)
{
	return fuzz_reset(vm, true);
}

int fuzz_reset(struct vmm *vm, bool all)
{
	struct point *point = vm->point;
	int pages;
	bool tables;

	if (!point)
		return -EINVAL;
	current = vm;
	engine_drop(vm);
	pages = point->count;
	tables = restore_memory(vm, point);
	if (tables || point->many_writes || paging_moved(vm, point))
		empty_tlb(vm, point);
	else
		drop_writes(vm, point);
	restore_state(vm, point, all);
	restore_cpu(vm, point);
	return pages;
}

/* ------------------------------------------------------------------- for fuzz.c */

uint8_t *fuzz_memory(struct vmm *vm, uint64_t gpa, uint64_t *length)
{
	struct slot *slot = mmu_slot(vm, gpa);

	if (!slot)
		return NULL;
	*length = slot->size - (gpa - slot->gpa);
	return slot->host + (gpa - slot->gpa);
}

void fuzz_set_register(struct vmm *vm, uint32_t number, uint64_t value)
{
	REG(vm->env, number) = value;
}

void fuzz_begin(struct vmm *vm, double budget)
{
	vm->point->began = vm->clock->blocks;
	vm->budget_block = budget < 0x1p62 ? vm->clock->blocks + (u64)budget : ~0ull;
}

double fuzz_spent(struct vmm *vm)
{
	return vm->clock->blocks - vm->point->began;
}

uint32_t vmm_point_pages(struct vmm *vm, uint64_t *pages, uint32_t max)
{
	struct point *point = vm->point;

	if (!point)
		return 0;
	for (u32 i = 0; i < point->count && i < max; i++)
		pages[i] = mmu_gpa(vm, (u64)point->pages[i] << 12);
	return point->count;
}
