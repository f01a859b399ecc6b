/* SPDX-License-Identifier: ISC */
/*
 * msr.c: model-specific registers, and the time-stamp counter's instructions.
 *
 * The registers here belong to the CPU. All others exit (KVM_EXIT_X86_RDMSR,
 * WRMSR); the answer's error field makes the guest's #GP.
 */
#define _GNU_SOURCE
#include "engine.h"

#define EFER_WRITABLE 0xd01ull /* SCE LME LMA NXE */
#define EFER_LME 0x100ull
#define EFER_LMA 0x400ull
#define EFER_NXE 0x800ull
#define CR0_PG 0x80000000ull
#define CR4_TSD 0x4ull

enum {
	MSR_TSC = 0x10,
	MSR_APIC_BASE = 0x1b,
	MSR_MICROCODE = 0x8b,
	MSR_ARCH_CAPABILITIES = 0x10a,
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP = 0x175,
	MSR_SYSENTER_EIP = 0x176,
	MSR_MISC_ENABLE = 0x1a0,
	MSR_PAT = 0x277,
};
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_FMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u

/* Where a register that is only storage lies, or NULL. */
static u64 *stored(void *env, u32 index)
{
	switch (index) {
	case MSR_SYSENTER_ESP:
		return &FIELD(env, ENV_SYSENTER_ESP, u64);
	case MSR_SYSENTER_EIP:
		return &FIELD(env, ENV_SYSENTER_EIP, u64);
	case MSR_MISC_ENABLE:
		return &FIELD(env, ENV_MISC_ENABLE, u64);
	case MSR_PAT:
		return &FIELD(env, ENV_PAT, u64);
	case MSR_STAR:
		return &FIELD(env, ENV_STAR, u64);
	case MSR_LSTAR:
		return &FIELD(env, ENV_LSTAR, u64);
	case MSR_CSTAR:
		return &FIELD(env, ENV_CSTAR, u64);
	case MSR_FMASK:
		return &FIELD(env, ENV_FMASK, u64);
	case MSR_FS_BASE:
		return &SEG(env, SEG_FS)->base;
	case MSR_GS_BASE:
		return &SEG(env, SEG_GS)->base;
	case MSR_KERNEL_GS_BASE:
		return &FIELD(env, ENV_KERNELGSBASE, u64);
	case MSR_TSC_AUX:
		return &FIELD(env, ENV_TSC_AUX, u64);
	}
	return NULL;
}

/* Does the CPU have this register? Its value, if so. */
bool msr_get(struct vmm *vm, u32 index, u64 *value)
{
	void *env = vm->env;
	u64 *place = stored(env, index);

	if (place) {
		*value = *place;
		return true;
	}
	switch (index) {
	case MSR_TSC:
		*value = time_tsc(vm);
		return true;
	case MSR_APIC_BASE:
		*value = vm->apic_base;
		return true;
	case MSR_MICROCODE:
		*value = 0;
		return true;
	case MSR_SYSENTER_CS:
		*value = FIELD(env, ENV_SYSENTER_CS, u32);
		return true;
	case MSR_ARCH_CAPABILITIES:
		*value = vm->arch_capabilities;
		return vm->arch_capabilities != 0;
	case MSR_EFER:
		*value = EFER(env);
		return true;
	}
	return false;
}

static bool is_canonical(u64 value)
{
	return (s64)(value << 16) >> 16 == (s64)value;
}

static bool is_pat(u64 value)
{
	for (int i = 0; i < 64; i += 8) {
		u8 type = value >> i;

		if (type > 7 || type == 2 || type == 3)
			return false;
	}
	return true;
}

/* May the guest write this? */
static bool is_valid(struct vmm *vm, u32 index, u64 value)
{
	void *env = vm->env;

	switch (index) {
	case MSR_SYSENTER_ESP:
	case MSR_SYSENTER_EIP:
	case MSR_LSTAR:
	case MSR_CSTAR:
	case MSR_FS_BASE:
	case MSR_GS_BASE:
	case MSR_KERNEL_GS_BASE:
		return is_canonical(value);
	case MSR_PAT:
		return is_pat(value);
	case MSR_TSC_AUX:
	case MSR_FMASK:
		return !(value >> 32);
	case MSR_ARCH_CAPABILITIES:
		return false;
	case MSR_EFER:
		if (value & ~EFER_WRITABLE)
			return false;
		return !((value ^ EFER(env)) & EFER_LME) || !(CR(env, 0) & CR0_PG);
	}
	return true;
}

/* Stores without a check; false if there is no such register. */
bool msr_set(struct vmm *vm, u32 index, u64 value)
{
	void *env = vm->env;
	u64 *place = stored(env, index);

	if (place) {
		*place = value;
		return true;
	}
	switch (index) {
	case MSR_TSC:
		vm->tsc_offset += value - time_tsc(vm);
		return true;
	case MSR_APIC_BASE:
		vm->apic_base = value;
		return true;
	case MSR_MICROCODE:
	case MSR_ARCH_CAPABILITIES:
		return true;
	case MSR_SYSENTER_CS:
		FIELD(env, ENV_SYSENTER_CS, u32) = value;
		return true;
	case MSR_EFER:
		value = (value & ~EFER_LMA) | (EFER(env) & EFER_LMA);
		if ((value ^ EFER(env)) & EFER_NXE)
			tlb_flush_x86_64(vm->cs);
		control_set_efer(vm, value);
		return true;
	}
	return false;
}

static u64 msr_exit(struct vmm *vm, u32 reason, u32 index, u64 value, uintptr_t ra)
{
	struct kvm_run *run = vm->run;

	run->exit_reason = reason;
	run->msr.error = 0;
	run->msr.reason = KVM_MSR_EXIT_REASON_UNKNOWN;
	run->msr.index = index;
	run->msr.data = value;
	engine_wait_inside(vm, ra);
	if (run->msr.error)
		engine_fault(vm->env, 13, 0, ra);
	return run->msr.data;
}

INTERPOSED void helper_rdmsr_x86_64(void *env)
{
	struct vmm *vm = current;
	u32 index = REG(env, RCX);
	u64 value;

	if (unlikely(!vm || vm->env != env)) {
		original.rdmsr(env);
		return;
	}
	if (!msr_get(vm, index, &value))
		value = msr_exit(vm, KVM_EXIT_X86_RDMSR, index, 0, CALLER);
	REG(env, RAX) = (u32)value;
	REG(env, RDX) = value >> 32;
}

INTERPOSED void helper_wrmsr_x86_64(void *env)
{
	struct vmm *vm = current;
	u32 index = REG(env, RCX);
	u64 value = (u32)REG(env, RAX) | REG(env, RDX) << 32;

	if (unlikely(!vm || vm->env != env)) {
		original.wrmsr(env);
		return;
	}
	if (!is_valid(vm, index, value))
		engine_fault(env, 13, 0, CALLER);
	if (!msr_set(vm, index, value))
		msr_exit(vm, KVM_EXIT_X86_WRMSR, index, value, CALLER);
}

/* RDTSCP comes here too. */
INTERPOSED void helper_rdtsc_x86_64(void *env)
{
	u64 value;

	if ((CR(env, 4) & CR4_TSD) && (HFLAGS(env) & HF_CPL))
		engine_fault(env, 13, 0, CALLER);
	value = time_tsc(current);
	REG(env, RAX) = (u32)value;
	REG(env, RDX) = value >> 32;
}
