// SPDX-License-Identifier: ISC
// Opening, closing and running a machine; exits, kicks and injection.
#define _GNU_SOURCE
#include "engine.h"

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

/*
 * /dev/kvm, opened once in a process's life: a VM process opens its engine again at a
 * guest's reset, when its sandbox lets it open nothing any more.
 */
static int open_kvm(char *why, size_t size)
{
	static int device = -1;

	if (device >= 0)
		return device;

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
	device = kvm;
	return kvm;
}

int vmm_probe(char *why, size_t size)
{
	int kvm = open_kvm(why, size);

	return kvm < 0 ? kvm : 0;
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
	cpu_disable_apic(&sregs);
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
		error = memory_set_slot(vmm, i, false);
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
	cpu_find_msrs(vmm);
	vmm->capabilities |= VMM_CAP_DIRTY_LOG | VMM_CAP_POINT;
	if (ioctl(vmm->machine, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS) > 0)
		vmm->capabilities |= VMM_CAP_SYNC_REGS;
	if (ioctl(vmm->machine, KVM_CHECK_EXTENSION, KVM_CAP_SET_GUEST_DEBUG) > 0)
		vmm->capabilities |= VMM_CAP_DEBUG | VMM_CAP_WATCHPOINTS;
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
	coverage_close(vmm);
	vmm_point_drop(vmm);
	kick_close(&vmm->kick);
	if (vmm->run)
		munmap(vmm->run, vmm->run_size);
	if (vmm->cpu >= 0)
		close(vmm->cpu);
	if (vmm->machine >= 0)
		close(vmm->machine);
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
	int result;

	do {
		__atomic_store_n(&vmm->inside, 1, __ATOMIC_SEQ_CST);
		result = ioctl(vmm->cpu, KVM_RUN, 0);
		__atomic_store_n(&vmm->inside, 0, __ATOMIC_RELAXED);
	} while (result == 0 && __builtin_expect(vmm->coverage != NULL, 0) &&
		 coverage_trapped(vmm));
	if (result == 0)
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

void vmm_nudge(struct vmm *vmm)
{
	kick_thread(&vmm->kick);
	// Who isn't inside yet says that it is before KVM_RUN looks at immediate_exit.
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(&vmm->inside, __ATOMIC_SEQ_CST))
		kick_interrupt(&vmm->kick);
}

int vmm_break_blocks(struct vmm *vmm, const uint64_t *addresses, uint32_t count)
{
	(void)vmm, (void)addresses, (void)count;
	return -ENOTSUP;
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
