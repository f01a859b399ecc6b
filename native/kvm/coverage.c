// SPDX-License-Identifier: ISC
// coverage.c: which blocks of code a guest enters, each told of once: the first byte of a
// block is an instruction that exits, until it is entered. Which instruction does so is
// found out on a machine of one page, since not every KVM has each: INT3 with a debugger
// behind it (4.87), or HLT, which only code of the highest privilege may use.
#include "engine.h"
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define INT3 0xcc
#define HLT 0xf4
#define PROBE_CODE 0x100

struct trap {
	struct vmm_trap where;
	uint32_t place;
	uint8_t byte; // that was there
	bool set;
};

struct coverage {
	struct vmm_coverage shared;
	uint8_t instruction; // INT3 or HLT
	struct trap *traps;  // by address
	uint32_t count;
	uint32_t *list;
	uint8_t *counts;
	bool *seen; // by place
};

bool coverage_uses_int3(const struct vmm *vmm)
{
	return vmm->coverage && vmm->coverage->instruction == INT3;
}

// Does this instruction exit, with the right reason, in real mode at PROBE_CODE?
static bool exits(struct vmm *probe, uint8_t *page, uint8_t instruction, uint32_t reason)
{
	struct vmm_cpu *cpu = calloc(1, sizeof(*cpu));
	bool works = false;

	if (cpu && vmm_get_cpu(probe, cpu) == 0) {
		page[PROBE_CODE] = instruction;
		cpu->sregs.cs.base = 0;
		cpu->sregs.cs.selector = 0;
		cpu->regs.rip = PROBE_CODE;
		cpu->regs.rflags = 2;
		works = vmm_set_cpu(probe, cpu) == 0 && vmm_run(probe) == 0 &&
			probe->run->exit_reason == reason;
	}
	free(cpu);
	return works;
}

// 0: none does.
static uint8_t find_instruction(void)
{
	static int found = -1;
	struct vmm_clock clock = { 0 };
	struct vmm_config config = { .abi = VMM_ABI, .slots = 1, .clock = (uint64_t)(uintptr_t)&clock };
	char why[128];
	uint8_t *page;
	struct vmm *probe;

	if (found >= 0)
		return (uint8_t)found;
	found = 0;
	page = mmap(NULL, VMM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return 0;
	config.slot[0] = (struct vmm_slot){ .size = VMM_PAGE, .host = (uint64_t)(uintptr_t)page };
	probe = vmm_open(&config, why, sizeof(why));
	if (probe) {
		struct kvm_guest_debug debug = {
			.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP,
		};

		if (ioctl(probe->cpu, KVM_SET_GUEST_DEBUG, &debug) == 0 &&
		    exits(probe, page, INT3, KVM_EXIT_DEBUG))
			found = INT3;
		vmm_close(probe);
	}
	// A KVM that failed at the one may be no use for the other.
	probe = found ? NULL : vmm_open(&config, why, sizeof(why));
	if (probe) {
		if (exits(probe, page, HLT, KVM_EXIT_HLT))
			found = HLT;
		vmm_close(probe);
	}
	munmap(page, VMM_PAGE);
	return (uint8_t)found;
}

uint32_t vmm_coverage_instruction(struct vmm *vmm)
{
	(void)vmm;
	return find_instruction();
}

static uint8_t *byte_of(struct vmm *vmm, uint64_t gpa)
{
	uint64_t length;

	return fuzz_memory(vmm, gpa, &length);
}

// Another byte, now and after each reset.
static void put(struct vmm *vmm, const struct trap *trap, uint8_t byte)
{
	uint8_t *shadow = point_shadow(vmm, trap->where.gpa);

	*byte_of(vmm, trap->where.gpa) = byte;
	if (shadow)
		*shadow = byte;
}

static void remove_traps(struct vmm *vmm)
{
	struct coverage *coverage = vmm->coverage;

	for (uint32_t i = 0; i < coverage->count; i++)
		if (coverage->traps[i].set)
			put(vmm, &coverage->traps[i], coverage->traps[i].byte);
	free(coverage->traps);
	coverage->traps = NULL;
	coverage->count = 0;
}

void coverage_close(struct vmm *vmm)
{
	struct coverage *coverage = vmm->coverage;

	if (!coverage)
		return;
	remove_traps(vmm);
	vmm->coverage = NULL;
	free(coverage->list);
	free(coverage->counts);
	free(coverage->seen);
	free(coverage);
}

struct vmm_coverage *vmm_coverage_open(struct vmm *vmm, uint32_t places)
{
	struct coverage *coverage;
	uint8_t instruction = find_instruction();

	if (!instruction || !places || places & (places - 1))
		return NULL;
	coverage_close(vmm);
	coverage = calloc(1, sizeof(*coverage));
	if (!coverage)
		return NULL;
	vmm->coverage = coverage;
	coverage->instruction = instruction;
	coverage->list = malloc(places * sizeof(*coverage->list));
	coverage->counts = calloc(places, 1);
	coverage->seen = calloc(places, sizeof(*coverage->seen));
	if (!coverage->list || !coverage->counts || !coverage->seen || debug_apply(vmm) < 0) {
		coverage_close(vmm);
		return NULL;
	}
	coverage->shared = (struct vmm_coverage){
		.flags = VMM_COVERAGE_EDGES,
		.places = places,
		.counts = (uint64_t)(uintptr_t)coverage->counts,
		.list = (uint64_t)(uintptr_t)coverage->list,
	};
	return &coverage->shared;
}

static int by_address(const void *a, const void *b)
{
	const struct trap *one = a, *other = b;

	return (one->where.address > other->where.address) - (one->where.address < other->where.address);
}

int vmm_coverage_traps(struct vmm *vmm, const struct vmm_trap *traps, uint32_t count)
{
	struct coverage *coverage = vmm->coverage;

	if (!coverage || !vmm->point || count > coverage->shared.places)
		return -EINVAL;
	for (uint32_t i = 0; i < count; i++)
		if (!byte_of(vmm, traps[i].gpa) || !point_shadow(vmm, traps[i].gpa))
			return -EINVAL;
	remove_traps(vmm);
	coverage->traps = calloc(count ? count : 1, sizeof(*coverage->traps));
	if (!coverage->traps)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++)
		coverage->traps[i] = (struct trap){ .where = traps[i], .place = i };
	qsort(coverage->traps, count, sizeof(*coverage->traps), by_address);
	coverage->count = count;
	for (uint32_t i = 0; i < count; i++) {
		struct trap *trap = &coverage->traps[i];

		// Two names of one byte, or an instruction that is there anyway.
		trap->byte = *byte_of(vmm, trap->where.gpa);
		trap->set = trap->byte != coverage->instruction;
		if (trap->set)
			put(vmm, trap, coverage->instruction);
	}
	return 0;
}

static struct trap *trap_at(struct coverage *coverage, uint64_t address)
{
	struct trap key = { .where.address = address };

	return bsearch(&key, coverage->traps, coverage->count, sizeof(key), by_address);
}

// The linear address of the trap that the guest may be at; 0: it is at none.
static uint64_t trapped_at(struct vmm *vmm, struct kvm_regs *regs)
{
	struct kvm_sregs sregs;

	if (vmm->coverage->instruction == INT3)
		return vmm->run->exit_reason == KVM_EXIT_DEBUG &&
			       vmm->run->debug.arch.exception == 3 ?
			       vmm->run->debug.arch.pc : 0;
	if (vmm->run->exit_reason != KVM_EXIT_HLT || ioctl(vmm->cpu, KVM_GET_REGS, regs) < 0 ||
	    ioctl(vmm->cpu, KVM_GET_SREGS, &sregs) < 0)
		return 0;
	return sregs.cs.base + regs->rip - 1;
}

bool coverage_trapped(struct vmm *vmm)
{
	struct coverage *coverage = vmm->coverage;
	struct kvm_regs regs;
	uint64_t address = coverage->count ? trapped_at(vmm, &regs) : 0;
	struct trap *trap = address ? trap_at(coverage, address) : NULL;

	if (!trap || !trap->set)
		return false;
	trap->set = false;
	put(vmm, trap, trap->byte);
	coverage->counts[trap->place] = 1;
	coverage->list[coverage->shared.touched++] = trap->place;
	if (coverage->instruction == HLT) {
		regs.rip--;
		if (ioctl(vmm->cpu, KVM_SET_REGS, &regs) < 0)
			return false;
		// A vCPU that has halted would stay so.
		struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };

		ioctl(vmm->cpu, KVM_SET_MP_STATE, &runnable);
	}
	return true;
}

void vmm_coverage_begin(struct vmm *vmm)
{
	struct coverage *coverage = vmm->coverage;

	if (!coverage)
		return;
	for (uint32_t i = 0; i < coverage->shared.touched; i++)
		coverage->counts[coverage->list[i]] = 0;
	coverage->shared.touched = 0;
}

int vmm_coverage_novelty(struct vmm *vmm)
{
	struct coverage *coverage = vmm->coverage;
	int novelty = 0;

	for (uint32_t i = 0; coverage && i < coverage->shared.touched; i++) {
		bool *seen = &coverage->seen[coverage->list[i]];

		if (*seen)
			continue;
		*seen = true;
		coverage->shared.seen++;
		novelty = 2;
	}
	return novelty;
}

uint32_t vmm_coverage_hash(struct vmm *vmm)
{
	// What a run enters for the first time says nothing of the next one.
	(void)vmm;
	return 0;
}
