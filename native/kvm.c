// SPDX-License-Identifier: ISC
/*
 * kvm.c: the KVM engine. One VM, one vCPU, no interrupt controller in the
 * kernel: the machine's own i8259 decides, and this file injects.
 *
 * Ioctls as in Documentation/virt/kvm/api.rst of Linux; the section numbers in
 * comments are of that page.
 */
#define _GNU_SOURCE
#include "kick.h"
#include "vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

// Three pages that Intel hosts without unrestricted guest want, and one more
// (4.35, 4.42): in the MMIO hole, where no machine has RAM or ROM.
#define IDENTITY_MAP_ADDRESS 0xfeffc000ull
#define TSS_ADDRESS 0xfeffd000ull

#define MAX_CPUID 256

#define APIC_ENABLE (1ull << 11) // in IA32_APIC_BASE

// In an XSAVE area; Intel SDM vol. 1, 13.4.
#define XSAVE_MXCSR 24
#define XSAVE_COMPONENTS 512

struct vmm {
	int kvm, machine, cpu;
	struct kvm_run *run;
	uint32_t run_size;
	uint32_t capabilities;
	struct kick kick;
	struct vmm_slot slot[VMM_MAX_SLOTS];
	uint32_t slots;
	uint32_t logging; // slots whose dirty pages KVM logs, a bit each
	uint32_t msr_count;
	uint32_t msrs[VMM_MAX_MSRS];
	uint32_t xsave_size;
};

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

static int explain(char *why, size_t size, int error, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(why, size, format, arguments);
	va_end(arguments);
	return error ? -error : -EIO;
}

uint32_t vmm_abi(void)
{
	return VMM_ABI;
}

static int open_kvm(char *why, size_t size)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0) {
		int error = errno;

		if (error == ENOENT)
			return explain(why, size, error,
				       "this host has no /dev/kvm (no virtualisation extensions, or "
				       "the module kvm_intel or kvm_amd is not loaded)");
		if (error == EACCES || error == EPERM)
			return explain(why, size, error,
				       "no permission to open /dev/kvm (be root or in the group kvm)");
		return explain(why, size, error, "/dev/kvm can't be opened: %s", strerror(error));
	}

	int version = ioctl(kvm, KVM_GET_API_VERSION, 0);

	if (version != KVM_API_VERSION) {
		close(kvm);
		return explain(why, size, ENOSYS, "/dev/kvm has API version %d, not %d", version,
			       KVM_API_VERSION);
	}

	static const struct {
		int number;
		const char *name;
	} needed[] = {
		{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
		{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
		{ KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID" },
		{ KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS" },
	};
	for (size_t i = 0; i < sizeof(needed) / sizeof(*needed); i++) {
		if (ioctl(kvm, KVM_CHECK_EXTENSION, needed[i].number) > 0)
			continue;
		close(kvm);
		return explain(why, size, ENOSYS, "this host's KVM lacks %s", needed[i].name);
	}
	return kvm;
}

int vmm_probe(char *why, size_t size)
{
	int kvm = open_kvm(why, size);

	if (kvm < 0)
		return kvm;
	close(kvm);
	return 0;
}

int vmm_version(char *text, size_t size)
{
	snprintf(text, size, "KVM API %d", KVM_API_VERSION);
	return 0;
}

static void leave(struct vmm *vmm)
{
	*(volatile uint8_t *)&vmm->run->immediate_exit = 1;
}

// 4.35, 4.42: before any vCPU exists. A host that lacks them doesn't need them.
static void set_hidden_pages(struct vmm *vmm)
{
	uint64_t identity = IDENTITY_MAP_ADDRESS;

	if (ioctl(vmm->machine, KVM_CHECK_EXTENSION, KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0)
		ioctl(vmm->machine, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	if (ioctl(vmm->machine, KVM_CHECK_EXTENSION, KVM_CAP_SET_TSS_ADDR) > 0)
		ioctl(vmm->machine, KVM_SET_TSS_ADDR, TSS_ADDRESS);
}

static int set_slot(struct vmm *vmm, uint32_t index, bool log)
{
	const struct vmm_slot *slot = &vmm->slot[index];
	struct kvm_userspace_memory_region region = {
		.slot = index,
		.guest_phys_addr = slot->gpa,
		.memory_size = slot->size,
		.userspace_addr = slot->host,
	};

	if (slot->flags & VMM_SLOT_READONLY)
		region.flags |= KVM_MEM_READONLY;
	else if (log)
		region.flags |= KVM_MEM_LOG_DIRTY_PAGES;
	return ioctl(vmm->machine, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -errno : 0;
}

// MSRs that KVM doesn't know go to the policy above instead of a silent #GP.
static void want_msr_exits(struct vmm *vmm)
{
	struct kvm_enable_cap enable = {
		.cap = KVM_CAP_X86_USER_SPACE_MSR,
		.args = { KVM_MSR_EXIT_REASON_UNKNOWN },
	};

	if (ioctl(vmm->machine, KVM_CHECK_EXTENSION, KVM_CAP_X86_USER_SPACE_MSR) > 0 &&
	    ioctl(vmm->machine, KVM_ENABLE_CAP, &enable) == 0)
		vmm->capabilities |= VMM_CAP_MSR_EXITS;
}

static void find_msrs(struct vmm *vmm)
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

// KVM shows an APIC in CPUID, whatever we tell it, while this says that it is on.
static void disable_apic(struct kvm_sregs *sregs)
{
	sregs->apic_base &= ~APIC_ENABLE;
}

static int open_cpu(struct vmm *vmm, char *why, size_t size)
{
	int length = ioctl(vmm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

	vmm->cpu = ioctl(vmm->machine, KVM_CREATE_VCPU, 0);
	if (vmm->cpu < 0)
		return explain(why, size, errno, "KVM can't create a vCPU: %s", strerror(errno));
	vmm->run = mmap(NULL, (size_t)length, PROT_READ | PROT_WRITE, MAP_SHARED, vmm->cpu, 0);
	if (vmm->run == MAP_FAILED) {
		vmm->run = NULL;
		return explain(why, size, errno, "the vCPU's run page can't be mapped: %s",
			       strerror(errno));
	}
	vmm->run_size = (uint32_t)length;

	struct kvm_sregs sregs;

	if (ioctl(vmm->cpu, KVM_GET_SREGS, &sregs) < 0)
		return explain(why, size, errno, "the vCPU's registers can't be read: %s",
			       strerror(errno));
	disable_apic(&sregs);
	if (ioctl(vmm->cpu, KVM_SET_SREGS, &sregs) < 0)
		return explain(why, size, errno, "the vCPU's registers can't be written: %s",
			       strerror(errno));
	return 0;
}

struct vmm *vmm_open(const struct vmm_config *config, char *why, size_t size)
{
	struct vmm *vmm;
	int error;

	if (config->abi != VMM_ABI || config->slots > VMM_MAX_SLOTS) {
		explain(why, size, EINVAL, "libvmm.so was built for another version of vmd");
		return NULL;
	}
	vmm = calloc(1, sizeof(*vmm));
	if (!vmm) {
		explain(why, size, ENOMEM, "out of memory");
		return NULL;
	}
	vmm->machine = vmm->cpu = -1;
	vmm->kvm = open_kvm(why, size);
	if (vmm->kvm < 0)
		goto fail;
	vmm->machine = ioctl(vmm->kvm, KVM_CREATE_VM, 0);
	if (vmm->machine < 0) {
		explain(why, size, errno, "KVM can't create a VM: %s", strerror(errno));
		goto fail;
	}
	set_hidden_pages(vmm);
	want_msr_exits(vmm);
	memcpy(vmm->slot, config->slot, sizeof(vmm->slot));
	vmm->slots = config->slots;
	for (uint32_t i = 0; i < vmm->slots; i++) {
		error = set_slot(vmm, i, false);
		if (error) {
			explain(why, size, -error, "KVM refuses guest memory at %#llx: %s",
				(unsigned long long)vmm->slot[i].gpa, strerror(-error));
			goto fail;
		}
	}
	if (open_cpu(vmm, why, size) < 0)
		goto fail;
	error = kick_open(&vmm->kick, (struct vmm_clock *)(uintptr_t)config->clock, KICK_SIGNAL_KVM,
			  leave, vmm);
	if (error) {
		explain(why, size, -error, "no timer for the vCPU: %s", strerror(-error));
		goto fail;
	}
	find_msrs(vmm);
	vmm->capabilities |= VMM_CAP_DIRTY_LOG;
	if (ioctl(vmm->machine, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS) > 0)
		vmm->capabilities |= VMM_CAP_SYNC_REGS;
	int xsave = ioctl(vmm->machine, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE);

	if (xsave > 0) {
		vmm->capabilities |= VMM_CAP_XSAVE;
		vmm->xsave_size = sizeof(struct kvm_xsave);
	}
	return vmm;

fail:
	vmm_close(vmm);
	return NULL;
}

void vmm_close(struct vmm *vmm)
{
	if (!vmm)
		return;
	kick_close(&vmm->kick);
	if (vmm->run)
		munmap(vmm->run, vmm->run_size);
	if (vmm->cpu >= 0)
		close(vmm->cpu);
	if (vmm->machine >= 0)
		close(vmm->machine);
	if (vmm->kvm >= 0)
		close(vmm->kvm);
	free(vmm);
}

uint32_t vmm_capabilities(struct vmm *vmm)
{
	return vmm->capabilities;
}

struct kvm_run *vmm_run_page(struct vmm *vmm)
{
	return vmm->run;
}

uint32_t vmm_run_size(struct vmm *vmm)
{
	return vmm->run_size;
}

int vmm_run(struct vmm *vmm)
{
	if (ioctl(vmm->cpu, KVM_RUN, 0) == 0)
		return 0;
	if (errno != EINTR && errno != EAGAIN)
		return -errno;
	vmm->kick.kicked = 0;
	vmm->run->immediate_exit = 0;
	vmm->run->exit_reason = KVM_EXIT_INTR;
	kick_due(&vmm->kick);
	return 0;
}

void vmm_kick(struct vmm *vmm)
{
	kick_thread(&vmm->kick);
	kick_interrupt(&vmm->kick);
}

int vmm_set_deadline(struct vmm *vmm, double guest_ns)
{
	kick_deadline(&vmm->kick, guest_ns);
	return 0;
}

double vmm_now(struct vmm *vmm)
{
	return (double)kick_now(&vmm->kick);
}

int vmm_wait(struct vmm *vmm, double until, const int32_t *fds, uint32_t count)
{
	return kick_wait(&vmm->kick, until, fds, count);
}

int vmm_interrupt(struct vmm *vmm, uint32_t vector)
{
	struct kvm_interrupt interrupt = { .irq = vector };

	if (ioctl(vmm->cpu, KVM_INTERRUPT, &interrupt) < 0)
		return -errno;
	vmm->run->ready_for_interrupt_injection = 0;
	return 0;
}

int vmm_nmi(struct vmm *vmm)
{
	return ioctl(vmm->cpu, KVM_NMI, 0) < 0 ? -errno : 0;
}

/*
 * An I/O, MMIO or MSR exit is only done when KVM_RUN is called again (5.,
 * "kvm_run"): until then its registers are of no use, and what the kernel still
 * wants to do would spoil new ones. Enters just for that.
 */
static int finish_instruction(struct vmm *vmm)
{
	struct kvm_run *run = vmm->run;

	// One instruction touches a handful of pieces at most.
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
	int error = finish_instruction(vmm);
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

// KVM_SET_FPU, which leaves MXCSR alone, and MXCSR.
static int set_fpu(struct vmm *vmm, const struct kvm_fpu *fpu)
{
	struct kvm_xsave xsave;
	uint64_t components;

	if (ioctl(vmm->cpu, KVM_SET_FPU, fpu) < 0)
		return -errno;
	if (!vmm->xsave_size)
		return 0;
	if (ioctl(vmm->cpu, KVM_GET_XSAVE, &xsave) < 0)
		return -errno;
	memcpy((uint8_t *)&xsave + XSAVE_MXCSR, &fpu->mxcsr, 4);
	memcpy(&components, (uint8_t *)&xsave + XSAVE_COMPONENTS, 8);
	components |= 3; // x87, SSE: as above
	memcpy((uint8_t *)&xsave + XSAVE_COMPONENTS, &components, 8);
	return ioctl(vmm->cpu, KVM_SET_XSAVE, &xsave) < 0 ? -errno : 0;
}

int vmm_set_cpu(struct vmm *vmm, const struct vmm_cpu *cpu)
{
	int error = finish_instruction(vmm);
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[VMM_MAX_MSRS];
	} msrs = { .head.nmsrs = cpu->msr_count };

	if (error)
		return error;
	if (cpu->msr_count > VMM_MAX_MSRS)
		return -EINVAL;

	struct kvm_sregs sregs = cpu->sregs;

	disable_apic(&sregs);
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

int vmm_dirty(struct vmm *vmm, uint32_t slot, uint8_t *bitmap, size_t size)
{
	if (slot >= vmm->slots || vmm->slot[slot].flags & VMM_SLOT_READONLY)
		return -EINVAL;

	uint64_t pages = vmm->slot[slot].size / VMM_PAGE;

	if (size < (pages + 63) / 64 * 8)
		return -ENOSPC;
	if (!(vmm->logging & 1u << slot)) {
		int error = set_slot(vmm, slot, true);

		if (error)
			return error;
		vmm->logging |= 1u << slot;
		memset(bitmap, 0, size);
		for (uint64_t page = 0; page < pages; page++)
			bitmap[page / 8] |= (uint8_t)(1u << page % 8);
		return (int)pages;
	}

	struct kvm_dirty_log log = { .slot = slot, .dirty_bitmap = bitmap };
	int dirty = 0;

	if (ioctl(vmm->machine, KVM_GET_DIRTY_LOG, &log) < 0)
		return -errno;
	for (size_t i = 0; i < (pages + 7) / 8; i++)
		dirty += __builtin_popcount(bitmap[i]);
	return dirty;
}

int vmm_written(struct vmm *vmm, uint64_t gpa, uint64_t length)
{
	// KVM caches no translation of guest code; the write went to the same pages.
	(void)vmm;
	(void)gpa;
	(void)length;
	return 0;
}
