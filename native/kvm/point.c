// SPDX-License-Identifier: ISC
// A point that a machine goes back to. KVM's dirty log (4.8) says what its guest wrote,
// vmm_written what the host did; a bitmap makes one list of both.
#include "engine.h"
#include "fuzz.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define REGISTERS 16

// Where KVM itself writes what time it is outside, by the guest's wish; Linux,
// Documentation/virt/kvm/x86/msr.rst. No two resets have the same there.
static const struct clock_area {
	uint32_t msr, size;
	uint64_t flags; // bits of the MSR that are none of the address
} clock_areas[] = {
	{ 0x4b564d00, 12, 0 },	   // wall clock
	{ 0x4b564d01, 32, 1 },	   // system time
	{ 0x4b564d03, 64, 0x3f }, // steal time
};
#define CLOCK_AREAS (sizeof(clock_areas) / sizeof(*clock_areas))

struct area { // of a slot
	uint8_t *shadow; // what memory held
	uint64_t *log;	 // what KVM tells
	uint64_t *dirty; // a bit a page, both kinds
	size_t words;
};

struct point {
	struct area area[VMM_MAX_SLOTS];
	uint64_t *pages; // guest-physical addresses of written pages, each once
	uint32_t count, room;
	struct vmm_cpu cpu;
	double now, deadline; // guest ns
	double began; // of a run
	uint8_t window;
	uint64_t clock[CLOCK_AREAS]; // gpa; 0: the guest has none
	uint8_t *state_at, *state;
	uint64_t state_size;
};

static bool is_memory(const struct vmm_slot *slot)
{
	return !(slot->flags & VMM_SLOT_READONLY);
}

static int area_open(struct vmm *vmm, uint32_t index)
{
	const struct vmm_slot *slot = &vmm->slot[index];
	struct area *area = &vmm->point->area[index];

	area->words = (slot->size / VMM_PAGE + 63) / 64;
	area->log = calloc(area->words, 8);
	area->dirty = calloc(area->words, 8);
	area->shadow = mmap(NULL, slot->size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area->shadow == MAP_FAILED)
		area->shadow = NULL;
	return area->shadow && area->log && area->dirty ? 0 : -ENOMEM;
}

static void copy_memory(const struct vmm_slot *slot, uint8_t *shadow)
{
	const uint8_t *host = (const uint8_t *)(uintptr_t)slot->host;

	// Pages of zeros stay without memory.
	for (uint64_t at = 0; at < slot->size; at += VMM_PAGE)
		if (host[at] || memcmp(host + at, host + at + 1, VMM_PAGE - 1))
			memcpy(shadow + at, host + at, VMM_PAGE);
}

// Starts KVM's log, or empties it.
static int start_log(struct vmm *vmm, uint32_t index)
{
	struct kvm_dirty_log log = { .slot = index, .dirty_bitmap = vmm->point->area[index].log };

	if (!(vmm->logging & 1u << index)) {
		int error = memory_set_slot(vmm, index, true);

		if (error)
			return error;
		vmm->logging |= 1u << index;
	}
	return ioctl(vmm->machine, KVM_GET_DIRTY_LOG, &log) < 0 ? -errno : 0;
}

static void find_clocks(struct vmm *vmm)
{
	for (size_t i = 0; i < CLOCK_AREAS; i++) {
		struct {
			struct kvm_msrs head;
			struct kvm_msr_entry entry;
		} one = { .head.nmsrs = 1, .entry.index = clock_areas[i].msr };

		vmm->point->clock[i] = ioctl(vmm->cpu, KVM_GET_MSRS, &one) == 1 ?
			one.entry.data & ~clock_areas[i].flags : 0;
	}
}

static int point_open(struct vmm *vmm, uint64_t state, uint64_t size)
{
	struct point *point = vmm->point;

	for (uint32_t i = 0; i < vmm->slots; i++) {
		int error = is_memory(&vmm->slot[i]) ? area_open(vmm, i) : 0;

		if (error)
			return error;
		point->room += vmm->slot[i].size / VMM_PAGE;
	}
	point->pages = malloc(point->room * sizeof(*point->pages));
	point->state = malloc(size + 1);
	if (!point->pages || !point->state)
		return -ENOMEM;
	point->state_at = (uint8_t *)(uintptr_t)state;
	point->state_size = size;
	for (uint32_t i = 0; i < vmm->slots; i++) {
		if (!is_memory(&vmm->slot[i]))
			continue;
		copy_memory(&vmm->slot[i], point->area[i].shadow);

		int error = start_log(vmm, i);

		if (error)
			return error;
	}
	memcpy(point->state, point->state_at, size);
	point->now = vmm_now(vmm);
	point->deadline = vmm->kick.deadline;
	point->window = vmm->run->request_interrupt_window;
	find_clocks(vmm);
	return vmm_get_cpu(vmm, &point->cpu);
}

int vmm_point_take(struct vmm *vmm, uint64_t state, uint64_t size)
{
	vmm_point_drop(vmm);
	vmm->point = calloc(1, sizeof(*vmm->point));
	if (!vmm->point)
		return -ENOMEM;

	int error = point_open(vmm, state, size);

	if (error)
		vmm_point_drop(vmm);
	return error;
}

void vmm_point_drop(struct vmm *vmm)
{
	struct point *point = vmm->point;

	vmm->point = NULL;
	if (!point)
		return;
	for (uint32_t i = 0; i < vmm->slots; i++) {
		if (point->area[i].shadow)
			munmap(point->area[i].shadow, vmm->slot[i].size);
		free(point->area[i].log);
		free(point->area[i].dirty);
	}
	free(point->pages);
	free(point->state);
	free(point);
}

static void note(struct point *point, const struct vmm_slot *slot, struct area *area, uint64_t page)
{
	uint64_t *word = &area->dirty[page / 64], bit = 1ull << page % 64;

	if (*word & bit)
		return;
	*word |= bit;
	point->pages[point->count++] = slot->gpa + page * VMM_PAGE;
}

void point_written(struct vmm *vmm, uint64_t gpa, uint64_t length)
{
	for (uint32_t i = 0; length && i < vmm->slots; i++) {
		const struct vmm_slot *slot = &vmm->slot[i];
		struct area *area = &vmm->point->area[i];

		if (gpa - slot->gpa >= slot->size || !area->dirty)
			continue;

		uint64_t end = gpa + length - slot->gpa;

		if (end > slot->size)
			end = slot->size;
		for (uint64_t page = (gpa - slot->gpa) / VMM_PAGE; page * VMM_PAGE < end; page++)
			note(vmm->point, slot, area, page);
	}
}

// What KVM's log has comes to the list.
static int collect(struct vmm *vmm)
{
	for (uint32_t i = 0; i < vmm->slots; i++) {
		struct area *area = &vmm->point->area[i];
		struct kvm_dirty_log log = { .slot = i, .dirty_bitmap = area->log };

		if (!area->log)
			continue;
		if (ioctl(vmm->machine, KVM_GET_DIRTY_LOG, &log) < 0)
			return -errno;
		for (size_t word = 0; word < area->words; word++)
			for (uint64_t bits = area->log[word]; bits; bits &= bits - 1)
				note(vmm->point, &vmm->slot[i], area,
				     word * 64 + (uint64_t)__builtin_ctzll(bits));
	}
	return 0;
}

static void restore_page(struct vmm *vmm, uint64_t gpa)
{
	for (uint32_t i = 0; i < vmm->slots; i++) {
		const struct vmm_slot *slot = &vmm->slot[i];
		struct area *area = &vmm->point->area[i];
		uint64_t at = gpa - slot->gpa;

		if (at >= slot->size || !area->dirty)
			continue;
		memcpy((uint8_t *)(uintptr_t)slot->host + at, area->shadow + at, VMM_PAGE);
		area->dirty[at / VMM_PAGE / 64] &= ~(1ull << at / VMM_PAGE % 64);
		return;
	}
}

int vmm_point_reset(struct vmm *vmm)
{
	return fuzz_reset(vmm, true);
}

int fuzz_reset(struct vmm *vmm, bool all)
{
	(void)all; // what KVM's calls cost hides that
	struct point *point = vmm->point;

	if (!point)
		return -EINVAL;

	int error = collect(vmm), pages = (int)point->count;

	if (error)
		return error;
	for (uint32_t i = 0; i < point->count; i++)
		restore_page(vmm, point->pages[i]);
	point->count = 0;
	memcpy(point->state_at, point->state, point->state_size);
	// Real time went on: the guest's begins again where it was.
	vmm->kick.clock->origin += (int64_t)(vmm_now(vmm) - point->now);
	vmm_set_deadline(vmm, point->deadline);
	vmm->run->request_interrupt_window = point->window;
	vmm->run->kvm_dirty_regs = 0;
	error = vmm_set_cpu(vmm, &point->cpu);
	return error ? error : pages;
}

uint32_t vmm_point_pages(struct vmm *vmm, uint64_t *pages, uint32_t max)
{
	struct point *point = vmm->point;

	if (!point || collect(vmm) < 0)
		return 0;
	memcpy(pages, point->pages, (point->count < max ? point->count : max) * sizeof(*pages));
	return point->count;
}

static bool tells_time(const struct point *point, uint64_t gpa)
{
	for (size_t i = 0; i < CLOCK_AREAS; i++)
		if (point->clock[i] && gpa - point->clock[i] < clock_areas[i].size)
			return true;
	return false;
}

static bool page_differs(const struct point *point, uint64_t gpa, const uint8_t *host,
			 const uint8_t *shadow)
{
	if (!memcmp(host, shadow, VMM_PAGE))
		return false;
	for (uint64_t i = 0; i < VMM_PAGE; i++)
		if (host[i] != shadow[i] && !tells_time(point, gpa + i))
			return true;
	return false;
}

int vmm_point_check(struct vmm *vmm, char *why, size_t size)
{
	struct point *point = vmm->point;
	struct vmm_cpu cpu;

	if (!point)
		return -EINVAL;
	for (uint32_t i = 0; i < vmm->slots; i++) {
		const struct vmm_slot *slot = &vmm->slot[i];
		const uint8_t *host = (const uint8_t *)(uintptr_t)slot->host;
		const uint8_t *shadow = point->area[i].shadow;

		for (uint64_t at = 0; shadow && at < slot->size; at += VMM_PAGE) {
			if (!page_differs(point, slot->gpa + at, host + at, shadow + at))
				continue;
			snprintf(why, size, "memory differs in the page at %#llx",
				 (unsigned long long)(slot->gpa + at));
			return 1;
		}
	}
	if (vmm_get_cpu(vmm, &cpu) < 0 || memcmp(&cpu.regs, &point->cpu.regs, sizeof(cpu.regs)) ||
	    memcmp(&cpu.sregs, &point->cpu.sregs, sizeof(cpu.sregs)) ||
	    memcmp(&cpu.fpu, &point->cpu.fpu, sizeof(cpu.fpu)) ||
	    memcmp(&cpu.debugregs, &point->cpu.debugregs, sizeof(cpu.debugregs))) {
		snprintf(why, size, "the CPU's registers differ");
		return 1;
	}
	// The clock's origin is what time has passed outside.
	for (uint64_t at = 0; at < point->state_size; at++) {
		const uint8_t *byte = point->state_at + at;
		const uint8_t *clock = (const uint8_t *)vmm->kick.clock;

		if (*byte == point->state[at] ||
		    (byte >= clock && byte < clock + sizeof(vmm->kick.clock->origin)))
			continue;
		snprintf(why, size, "a chip's registers differ");
		return 1;
	}
	return 0;
}

uint8_t *point_shadow(struct vmm *vmm, uint64_t gpa)
{
	for (uint32_t i = 0; vmm->point && i < vmm->slots; i++) {
		uint64_t at = gpa - vmm->slot[i].gpa;

		if (at < vmm->slot[i].size && vmm->point->area[i].shadow)
			return vmm->point->area[i].shadow + at;
	}
	return NULL;
}

// For fuzz.c.

uint8_t *fuzz_memory(struct vmm *vmm, uint64_t gpa, uint64_t *length)
{
	for (uint32_t i = 0; i < vmm->slots; i++) {
		const struct vmm_slot *slot = &vmm->slot[i];

		if (gpa - slot->gpa >= slot->size)
			continue;
		*length = slot->size - (gpa - slot->gpa);
		return (uint8_t *)(uintptr_t)slot->host + (gpa - slot->gpa);
	}
	return NULL;
}

void fuzz_set_register(struct vmm *vmm, uint32_t number, uint64_t value)
{
	// In the order of instructions' encoding, by their places in struct kvm_regs.
	static const uint8_t place[REGISTERS] = { 0, 2, 3, 1, 6, 7, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15 };
	struct kvm_regs regs;

	if (ioctl(vmm->cpu, KVM_GET_REGS, &regs) < 0)
		return;
	((__u64 *)&regs)[place[number]] = value;
	ioctl(vmm->cpu, KVM_SET_REGS, &regs);
}

void fuzz_begin(struct vmm *vmm, double budget)
{
	struct point *point = vmm->point;

	point->began = vmm_now(vmm);
	if (budget < INFINITY && point->began + budget < point->deadline)
		vmm_set_deadline(vmm, point->began + budget);
}

double fuzz_spent(struct vmm *vmm)
{
	return vmm_now(vmm) - vmm->point->began;
}
