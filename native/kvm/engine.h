/* SPDX-License-Identifier: ISC */
/*
 * The KVM engine. One VM, one vCPU, no interrupt controller in the kernel: the
 * machine's own i8259 decides, and the engine injects.
 *
 * Ioctls as in Documentation/virt/kvm/api.rst of Linux; the section numbers in
 * comments are of that page.
 */
#ifndef KVM_ENGINE_H
#define KVM_ENGINE_H

#include "kick.h"
#include "vmm.h"
#include "vmm_fuzz.h"

#include <stdbool.h>

struct vmm {
	int kvm, machine, cpu;
	struct kvm_run *run;
	uint32_t run_size;
	uint32_t capabilities;
	uint32_t inside; // in KVM_RUN, or about to be
	struct kick kick;
	struct vmm_slot slot[VMM_MAX_SLOTS];
	uint32_t slots;
	uint32_t logging; // slots whose dirty pages KVM logs, a bit each
	uint32_t msr_count;
	uint32_t msrs[VMM_MAX_MSRS];
	uint32_t xsave_size;
	struct point *point;	   // NULL: none is taken
	struct coverage *coverage; // NULL: nothing is noted
	struct kvm_guest_debug debug; // what a debugger wants
};

#pragma GCC visibility push(hidden)

/* cpu.c */
void cpu_find_msrs(struct vmm *);
/* KVM shows an APIC in CPUID, whatever we tell it, while this says that it is on. */
void cpu_disable_apic(struct kvm_sregs *);

/* memory.c: 0 or -errno. */
int memory_set_slot(struct vmm *, uint32_t index, bool log);

/* point.c: the host wrote memory; and where the point has a byte of it, or NULL. */
void point_written(struct vmm *, uint64_t gpa, uint64_t length);
uint8_t *point_shadow(struct vmm *, uint64_t gpa);

/* debug.c: tells KVM what a debugger and coverage want. 0 or -errno. */
int debug_apply(struct vmm *);

/* coverage.c: was the last exit one of its traps? The guest goes on then. */
bool coverage_trapped(struct vmm *);
bool coverage_uses_int3(const struct vmm *);
void coverage_close(struct vmm *);

#pragma GCC visibility pop

#endif
