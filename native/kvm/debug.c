// SPDX-License-Identifier: ISC
// A debugger's steps and breakpoints: KVM_SET_GUEST_DEBUG (4.87), by the processor's
// debug registers. A guest that uses its own meanwhile doesn't get their traps.
#include "engine.h"

#include <errno.h>
#include <sys/ioctl.h>

#include "breakpoint.h"

#define DR7_FIXED 0x400u
#define DR7_GLOBAL(i) (2u << (2 * (i)))
#define DR7_CONDITION(i, bits) ((uint64_t)(bits) << (16 + 4 * (i)))

// Intel SDM vol. 3, 17.2.4: R/W, then LEN. There is no condition for reads alone.
static uint64_t condition(const struct vmm_breakpoint *breakpoint)
{
	static const uint8_t length[] = { [1] = 0, [2] = 1, [4] = 3, [8] = 2 };

	if (breakpoint->kind == VMM_BREAK_EXECUTE)
		return 0;
	return (breakpoint->kind == VMM_BREAK_WRITE ? 1 : 3) | length[breakpoint->length] << 2;
}

int vmm_debug(struct vmm *vmm, uint32_t flags, const struct vmm_breakpoint *list, uint32_t count)
{
	struct kvm_guest_debug debug = { .arch.debugreg[7] = DR7_FIXED };
	int error = breakpoint_check(list, count, 4);

	if (error)
		return error;
	for (uint32_t i = 0; i < count; i++) {
		if (list[i].kind == VMM_BREAK_READ)
			return -ENOTSUP;
		if (flags & VMM_DEBUG_STEP && list[i].kind == VMM_BREAK_EXECUTE)
			continue;
		debug.arch.debugreg[i] = list[i].address;
		debug.arch.debugreg[7] |= DR7_GLOBAL(i) | DR7_CONDITION(i, condition(&list[i]));
		debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
	}
	if (flags & VMM_DEBUG_STEP)
		debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
	vmm->debug = debug;
	return debug_apply(vmm);
}

int debug_apply(struct vmm *vmm)
{
	struct kvm_guest_debug debug = vmm->debug;

	if (coverage_uses_int3(vmm))
		debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
	return ioctl(vmm->cpu, KVM_SET_GUEST_DEBUG, &debug) < 0 ? -errno : 0;
}
