/* SPDX-License-Identifier: ISC */
/*
 * control.c: control registers, MXCSR and the system call instructions.
 *
 * The library's SYSCALL and SYSENTER do nothing, and it takes any value for a
 * control register and for MXCSR. Checks follow the Intel SDM vol. 3, 2.5, and
 * the pages of MOV to control registers and of LDMXCSR of vol. 2.
 */
#define _GNU_SOURCE
#include "engine.h"

#define CR0_PE 0x1u
#define CR0_NW 0x20000000u
#define CR0_CD 0x40000000u
#define CR0_PG 0x80000000u
/* PE MP EM TS ET NE WP AM NW CD PG; the others stay 0 whatever is written. */
#define CR0_KNOWN 0xe005003full
#define CR4_PAE 0x20u
/* VME PVI TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT SMEP SMAP */
#define CR4_KNOWN 0x3007ffull
/* All that aren't reserved; FXSAVE stores it. */
#define MXCSR_MASK 0xffffu
#define EFER_SCE 0x1u
#define EFER_LME 0x100u
#define EFER_LMA 0x400u

#define DESC_G (1u << 23)
#define DESC_B (1u << 22)
#define DESC_L (1u << 21)
#define DESC_P (1u << 15)
#define DESC_S (1u << 12)
#define DESC_DPL_SHIFT 13
#define DESC_CODE (DESC_G | DESC_P | DESC_S | 0xb00u) /* execute, read, accessed */
#define DESC_DATA (DESC_G | DESC_B | DESC_P | DESC_S | 0x300u)

#define RFLAGS_IF 0x200ull
#define RFLAGS_RF 0x10000ull
#define RFLAGS_VM 0x20000ull

/* The half of hflags that follows from registers. */
#define HF_DERIVED                                                                          \
	(HF_CPL | HF_CS32 | HF_SS32 | HF_ADDSEG | HF_PE | HF_TF | HF_MP_EM_TS | HF_IOPL |  \
	 HF_LMA | HF_CS64 | HF_VM | HF_OSFXSR | HF_SMAP)

void control_update_hflags(void *env)
{
	u32 cs = SEG(env, SEG_CS)->flags, ss = SEG(env, SEG_SS)->flags;
	u32 h = HFLAGS(env) & ~HF_DERIVED;

	h |= (ss >> DESC_DPL_SHIFT) & HF_CPL;
	h |= (CR(env, 0) & CR0_PE) ? HF_PE : 0;
	h |= (CR(env, 0) << 8) & HF_MP_EM_TS;
	h |= EFLAGS(env) & (HF_TF | HF_VM | HF_IOPL);
	h |= (CR(env, 4) & 0x200) ? HF_OSFXSR : 0;
	h |= (CR(env, 4) & 0x200000) ? HF_SMAP : 0;
	h |= (EFER(env) & EFER_LMA) ? HF_LMA : 0;
	if ((h & HF_LMA) && (cs & DESC_L)) {
		h |= HF_CS32 | HF_SS32 | HF_CS64;
	} else {
		h |= (cs & DESC_B) ? HF_CS32 : 0;
		h |= (ss & DESC_B) ? HF_SS32 : 0;
		if (!(h & HF_PE) || (h & HF_VM) || !(h & HF_CS32) ||
		    SEG(env, SEG_DS)->base | SEG(env, SEG_ES)->base | SEG(env, SEG_SS)->base)
			h |= HF_ADDSEG;
	}
	HFLAGS(env) = h;
}

void control_set_efer(struct vmm *vm, u64 value)
{
	EFER(vm->env) = value;
	if (value & EFER_LMA)
		HFLAGS(vm->env) |= HF_LMA;
	else
		HFLAGS(vm->env) &= ~HF_LMA;
}

static bool cr0_is_valid(void *env, u64 value)
{
	bool long_mode = HFLAGS(env) & HF_LMA;

	if (value >> 32)
		return false;
	if ((value & CR0_PG) && !(value & CR0_PE))
		return false;
	if ((value & CR0_NW) && !(value & CR0_CD))
		return false;
	if (long_mode && !(value & CR0_PG) && (HFLAGS(env) & HF_CS64))
		return false;
	if ((value & CR0_PG) && !(CR(env, 0) & CR0_PG) && (EFER(env) & EFER_LME) &&
	    !(CR(env, 4) & CR4_PAE))
		return false;
	return true;
}

static bool cr_is_valid(void *env, int reg, u64 value)
{
	bool long_mode = HFLAGS(env) & HF_LMA;

	switch (reg) {
	case 0:
		return cr0_is_valid(env, value);
	case 3:
		return !long_mode || !(value >> 52);
	case 4:
		return !(value & ~CR4_KNOWN) && (!long_mode || (value & CR4_PAE));
	case 8:
		return !(value >> 4);
	}
	return true;
}

INTERPOSED void helper_write_crN_x86_64(void *env, int reg, u64 value)
{
	if (!(HFLAGS(env) & HF_CS64))
		value = (u32)value;
	if (!cr_is_valid(env, reg, value))
		engine_fault(env, 13, 0, CALLER);
	if (reg == 0)
		value &= CR0_KNOWN;
	if (reg == 8)
		current->cr8 = value;
	else
		original.write_cr(env, reg, value);
}

INTERPOSED u64 helper_read_crN_x86_64(void *env, int reg)
{
	return reg == 8 ? current->cr8 : original.read_cr(env, reg);
}

/* There are no counters (CPUID leaf 10): whichever is asked for, #GP. The library has #UD. */
INTERPOSED void helper_rdpmc_x86_64(void *env)
{
	engine_fault(env, 13, 0, CALLER);
}

static void load_flat(void *env, int index, u32 selector, u32 flags)
{
	struct segment *segment = SEG(env, index);

	segment->selector = selector;
	segment->base = 0;
	segment->limit = 0xffffffff;
	segment->flags = flags;
}

INTERPOSED void helper_syscall_x86_64(void *env, int length)
{
	u64 star = FIELD(env, ENV_STAR, u64);
	u32 selector = (star >> 32) & 0xfffc;
	u64 flags, mask;
	bool from_64;

	if (!(EFER(env) & EFER_SCE))
		engine_fault(env, 6, 0, CALLER);
	if (!(HFLAGS(env) & HF_LMA)) { /* the 32-bit form */
		REG(env, RCX) = (u32)(EIP(env) + length);
		EFLAGS(env) &= ~(RFLAGS_IF | RFLAGS_RF | RFLAGS_VM);
		load_flat(env, SEG_CS, selector, DESC_CODE | DESC_B);
		load_flat(env, SEG_SS, selector + 8, DESC_DATA);
		control_update_hflags(env);
		EIP(env) = (u32)star;
		return;
	}
	from_64 = HFLAGS(env) & HF_CS64;
	mask = FIELD(env, ENV_FMASK, u64) | RFLAGS_RF;
	flags = helper_read_eflags_x86_64(env);
	REG(env, RCX) = EIP(env) + length;
	REG(env, R11) = flags & ~RFLAGS_RF;
	EFLAGS(env) &= ~mask;
	helper_write_eflags_x86_64(env, flags & ~mask, 0);
	load_flat(env, SEG_CS, selector, DESC_CODE | DESC_L);
	load_flat(env, SEG_SS, selector + 8, DESC_DATA);
	control_update_hflags(env);
	EIP(env) = FIELD(env, from_64 ? ENV_LSTAR : ENV_CSTAR, u64);
}

INTERPOSED void helper_sysenter_x86_64(void *env, int length)
{
	u32 selector = FIELD(env, ENV_SYSENTER_CS, u32) & 0xfffc;
	bool long_mode = HFLAGS(env) & HF_LMA;

	(void)length;
	if (!selector)
		engine_fault(env, 13, 0, CALLER);
	EFLAGS(env) &= ~(RFLAGS_IF | RFLAGS_RF | RFLAGS_VM);
	load_flat(env, SEG_CS, selector, DESC_CODE | (long_mode ? DESC_L : DESC_B));
	load_flat(env, SEG_SS, selector + 8, DESC_DATA);
	control_update_hflags(env);
	REG(env, RSP) = FIELD(env, ENV_SYSENTER_ESP, u64);
	EIP(env) = FIELD(env, ENV_SYSENTER_EIP, u64);
}

/* The load before it has brought the registers to where a fault finds them. */
INTERPOSED void helper_ldmxcsr_x86_64(void *env, u32 value)
{
	if (value & ~MXCSR_MASK)
		engine_fault(env, 13, 0, CALLER);
	original.ldmxcsr(env, value);
}
