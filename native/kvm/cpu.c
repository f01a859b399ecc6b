// SPDX-License-Identifier: ISC
// The vCPU's registers and its CPUID.
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define MAX_CPUID 256

#define APIC_ENABLE (1ull << 11) // in IA32_APIC_BASE

// In an XSAVE area; Intel SDM vol. 1, 10.5.1 and 13.4.
#define XSAVE_FCW 0
#define XSAVE_FSW 2
#define XSAVE_FTW 4
#define XSAVE_FOP 6
#define XSAVE_FIP 8
#define XSAVE_FDP 16
#define XSAVE_MXCSR 24
#define XSAVE_ST 32
#define XSAVE_XMM 160
#define XSAVE_COMPONENTS 512

// What KVM itself lets pass between two hosts (its tsc_tolerance_ppm).
#define TSC_TOLERANCE_PPM 250

// What a snapshot keeps of a CPU, where the host's KVM has it.
static const uint32_t saved_msrs[] = {
	0x10,	    // TSC
	0x3b,	    // TSC_ADJUST
	0x174,	    // SYSENTER_CS
	0x175,	    // SYSENTER_ESP
	0x176,	    // SYSENTER_EIP
	0x1a0,	    // MISC_ENABLE
	0x277,	    // PAT
	0xc0000081, // STAR
	0xc0000082, // LSTAR
	0xc0000083, // CSTAR
	0xc0000084, // FMASK
	0xc0000102, // KERNEL_GS_BASE
	0xc0000103, // TSC_AUX
	0x4b564d00, // KVM wall clock
	0x4b564d01, // KVM system time
};

void cpu_find_msrs(struct vmm *vmm)
{
	struct kvm_msr_list none = { 0 }, *list;

	ioctl(vmm->kvm, KVM_GET_MSR_INDEX_LIST, &none); // fails with E2BIG, tells the count
	list = calloc(1, sizeof(*list) + none.nmsrs * sizeof(uint32_t));
	if (!list)
		return;
	list->nmsrs = none.nmsrs;
	if (ioctl(vmm->kvm, KVM_GET_MSR_INDEX_LIST, list) == 0) {
		for (size_t i = 0; i < sizeof(saved_msrs) / sizeof(*saved_msrs); i++)
			for (uint32_t j = 0; j < list->nmsrs; j++)
				if (list->indices[j] == saved_msrs[i])
					vmm->msrs[vmm->msr_count++] = saved_msrs[i];
	}
	free(list);
}

void cpu_disable_apic(struct kvm_sregs *sregs)
{
	sregs->apic_base &= ~APIC_ENABLE;
}

static int end_repetition(struct vmm *vmm)
{
	struct kvm_regs regs;

	if (ioctl(vmm->cpu, KVM_GET_REGS, &regs) < 0)
		return -1;
	regs.rcx = 1;
	return ioctl(vmm->cpu, KVM_SET_REGS, &regs);
}

/*
 * An I/O, MMIO or MSR exit is only done when KVM_RUN is called again (5.,
 * "kvm_run"): until then its registers are of no use, and what the kernel still
 * wants to do would spoil new ones. Enters just for that.
 * drop: nobody wants the instruction's outcome.
 */
static int finish_instruction(struct vmm *vmm, bool drop)
{
	struct kvm_run *run = vmm->run;

	// One instruction touches a handful of pieces at most, but for a repeated one: KVM does
	// its next round with the registers that it is given.
	for (int i = 0; i < 16; i++) {
		switch (run->exit_reason) {
		case KVM_EXIT_IO:
		case KVM_EXIT_MMIO:
		case KVM_EXIT_X86_RDMSR:
		case KVM_EXIT_X86_WRMSR:
			break;
		default:
			return 0;
		}
		if (drop && end_repetition(vmm) < 0)
			return -errno;
		run->immediate_exit = 1;
		if (ioctl(vmm->cpu, KVM_RUN, 0) == 0)
			continue;
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
		run->exit_reason = KVM_EXIT_INTR;
		// A kick that came meanwhile is for vmm_run.
		run->immediate_exit = 0;
		if (vmm->kick.kicked || vmm->kick.fired)
			run->immediate_exit = 1;
	}
	return -EBUSY;
}

int vmm_get_cpu(struct vmm *vmm, struct vmm_cpu *cpu)
{
	int error = finish_instruction(vmm, false);
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[VMM_MAX_MSRS];
	} msrs = { .head.nmsrs = vmm->msr_count };
	struct kvm_xcrs xcrs = { 0 };

	if (error)
		return error;
	if (ioctl(vmm->cpu, KVM_GET_REGS, &cpu->regs) < 0 ||
	    ioctl(vmm->cpu, KVM_GET_SREGS, &cpu->sregs) < 0 ||
	    ioctl(vmm->cpu, KVM_GET_DEBUGREGS, &cpu->debugregs) < 0 ||
	    ioctl(vmm->cpu, KVM_GET_VCPU_EVENTS, &cpu->events) < 0 ||
	    ioctl(vmm->cpu, KVM_GET_FPU, &cpu->fpu) < 0)
		return -errno;
	cpu->xsave_size = 0;
	if (vmm->xsave_size && ioctl(vmm->cpu, KVM_GET_XSAVE, cpu->xsave) == 0) {
		cpu->xsave_size = vmm->xsave_size;
		memcpy(&cpu->fpu.mxcsr, cpu->xsave + XSAVE_MXCSR, 4);
	}
	cpu->xcr0 = 1;
	if (ioctl(vmm->cpu, KVM_GET_XCRS, &xcrs) == 0)
		for (uint32_t i = 0; i < xcrs.nr_xcrs; i++)
			if (xcrs.xcrs[i].xcr == 0)
				cpu->xcr0 = xcrs.xcrs[i].value;
	for (uint32_t i = 0; i < vmm->msr_count; i++)
		msrs.entry[i].index = vmm->msrs[i];

	int count = ioctl(vmm->cpu, KVM_GET_MSRS, &msrs);

	if (count < 0)
		return -errno;
	memcpy(cpu->msrs, msrs.entry, sizeof(cpu->msrs));
	cpu->msr_count = (uint32_t)count;
	return 0;
}

// KVM_SET_FPU leaves MXCSR alone, and where x87 or SSE is in its initial state its registers
// are not shown by KVM_GET_XSAVE: so they go to that area themselves.
static int set_fpu(struct vmm *vmm, const struct kvm_fpu *fpu)
{
	struct kvm_xsave xsave;
	uint8_t *area = (uint8_t *)&xsave;
	uint64_t components;

	if (!vmm->xsave_size)
		return ioctl(vmm->cpu, KVM_SET_FPU, fpu) < 0 ? -errno : 0;
	if (ioctl(vmm->cpu, KVM_GET_XSAVE, &xsave) < 0)
		return -errno;
	memcpy(area + XSAVE_FCW, &fpu->fcw, 2);
	memcpy(area + XSAVE_FSW, &fpu->fsw, 2);
	memcpy(area + XSAVE_FTW, &fpu->ftwx, 1);
	memcpy(area + XSAVE_FOP, &fpu->last_opcode, 2);
	memcpy(area + XSAVE_FIP, &fpu->last_ip, 8);
	memcpy(area + XSAVE_FDP, &fpu->last_dp, 8);
	memcpy(area + XSAVE_MXCSR, &fpu->mxcsr, 4);
	memcpy(area + XSAVE_ST, fpu->fpr, sizeof(fpu->fpr));
	memcpy(area + XSAVE_XMM, fpu->xmm, sizeof(fpu->xmm));
	memcpy(&components, area + XSAVE_COMPONENTS, 8);
	components |= 3; // x87, SSE: as above
	memcpy(area + XSAVE_COMPONENTS, &components, 8);
	return ioctl(vmm->cpu, KVM_SET_XSAVE, &xsave) < 0 ? -errno : 0;
}

int vmm_set_cpu(struct vmm *vmm, const struct vmm_cpu *cpu)
{
	int error = finish_instruction(vmm, true);
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[VMM_MAX_MSRS];
	} msrs = { .head.nmsrs = cpu->msr_count };

	if (error)
		return error;
	if (cpu->msr_count > VMM_MAX_MSRS)
		return -EINVAL;

	struct kvm_sregs sregs = cpu->sregs;

	cpu_disable_apic(&sregs);
	/* Without a local APIC of its own, KVM takes it from there at each entry. */
	vmm->run->cr8 = sregs.cr8;
	if (ioctl(vmm->cpu, KVM_SET_SREGS, &sregs) < 0 ||
	    ioctl(vmm->cpu, KVM_SET_REGS, &cpu->regs) < 0)
		return -errno;
	if (cpu->xcr0 > 1) {
		struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .value = cpu->xcr0 } } };

		if (ioctl(vmm->cpu, KVM_SET_XCRS, &xcrs) < 0)
			return -errno;
	}
	if (cpu->xsave_size && vmm->xsave_size) {
		if (ioctl(vmm->cpu, KVM_SET_XSAVE, cpu->xsave) < 0)
			return -errno;
	} else {
		error = set_fpu(vmm, &cpu->fpu);
		if (error)
			return error;
	}
	memcpy(msrs.entry, cpu->msrs, sizeof(cpu->msrs));

	int count = ioctl(vmm->cpu, KVM_SET_MSRS, &msrs);

	if (count < 0)
		return -errno;
	if ((uint32_t)count != cpu->msr_count)
		return -EINVAL;
	if (ioctl(vmm->cpu, KVM_SET_DEBUGREGS, &cpu->debugregs) < 0 ||
	    ioctl(vmm->cpu, KVM_SET_VCPU_EVENTS, &cpu->events) < 0)
		return -errno;
	return 0;
}

uint32_t vmm_tsc_khz(struct vmm *vmm)
{
	int khz = ioctl(vmm->cpu, KVM_GET_TSC_KHZ, 0);

	return khz > 0 ? (uint32_t)khz : 0;
}

// Without scaling KVM takes a faster TSC too, which it then moves ahead at each entry: no
// clock for a guest.
int vmm_set_tsc_khz(struct vmm *vmm, uint32_t khz)
{
	int64_t difference = (int64_t)vmm_tsc_khz(vmm) - khz;

	if (llabs(difference) * 1000000 <= (int64_t)khz * TSC_TOLERANCE_PPM)
		return 0;
	if (ioctl(vmm->kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) <= 0)
		return -ENOTSUP;
	return ioctl(vmm->cpu, KVM_SET_TSC_KHZ, (unsigned long)khz) < 0 ? -ENOTSUP : 0;
}

int vmm_supported_cpuid(struct vmm *vmm, struct kvm_cpuid_entry2 *entries, uint32_t max)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[MAX_CPUID];
	} cpuid = { .head.nent = MAX_CPUID };

	if (ioctl(vmm->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid) < 0)
		return -errno;
	if (cpuid.head.nent > max)
		return -E2BIG;
	memcpy(entries, cpuid.entry, cpuid.head.nent * sizeof(*entries));
	return (int)cpuid.head.nent;
}

int vmm_set_cpuid(struct vmm *vmm, const struct kvm_cpuid_entry2 *entries, uint32_t count)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[MAX_CPUID];
	} cpuid = { .head.nent = count };

	if (count > MAX_CPUID)
		return -E2BIG;
	memcpy(cpuid.entry, entries, count * sizeof(*entries));
	return ioctl(vmm->cpu, KVM_SET_CPUID2, &cpuid) < 0 ? -errno : 0;
}
