/* SPDX-License-Identifier: ISC */
/*
 * cpu.c: all registers, in KVM's structures, from and to the library's state.
 *
 * The engine always stands inside the library's main loop, so EFLAGS is split:
 * arithmetic flags and DF live elsewhere, helper_read_eflags puts them
 * together (without VM and RF).
 */
#define _GNU_SOURCE
#include <string.h>

#include "engine.h"

#define RFLAGS_FIXED 0x2ull
#define RFLAGS_RF 0x10000ull
#define RFLAGS_VM 0x20000ull
#define FSW_TOP 0x3800u
#define PAT_RESET 0x0007040600070406ull
#define MXCSR_RESET 0x1f80u

static const u32 msr_list[] = {
	0x10, 0x174, 0x175, 0x176, 0x1a0, 0x277, 0xc0000081, 0xc0000082,
	0xc0000083, 0xc0000084, 0xc0000102, 0xc0000103,
};

#define MSRS (sizeof(msr_list) / sizeof(msr_list[0]))

/* ------------------------------------------------------------------- registers */

u64 cpu_rflags(void *env)
{
	return helper_read_eflags_x86_64(env) | (EFLAGS(env) & (RFLAGS_VM | RFLAGS_RF)) |
	       RFLAGS_FIXED;
}

static void set_rflags(void *env, u64 value)
{
	value |= RFLAGS_FIXED;
	EFLAGS(env) = value;
	helper_write_eflags_x86_64(env, value, (u32)~(RFLAGS_VM));
	EFLAGS(env) = (EFLAGS(env) & ~(RFLAGS_VM | RFLAGS_RF)) |
		      (value & (RFLAGS_VM | RFLAGS_RF));
}

void cpu_get_regs(struct vmm *vm, struct kvm_regs *to)
{
	void *env = vm->env;

	to->rax = REG(env, RAX);
	to->rbx = REG(env, RBX);
	to->rcx = REG(env, RCX);
	to->rdx = REG(env, RDX);
	to->rsi = REG(env, RSI);
	to->rdi = REG(env, RDI);
	to->rsp = REG(env, RSP);
	to->rbp = REG(env, RBP);
	memcpy(&to->r8, &REG(env, 8), 64);
	to->rip = EIP(env);
	to->rflags = cpu_rflags(env);
}

void cpu_set_regs(struct vmm *vm, const struct kvm_regs *from)
{
	void *env = vm->env;

	REG(env, RAX) = from->rax;
	REG(env, RBX) = from->rbx;
	REG(env, RCX) = from->rcx;
	REG(env, RDX) = from->rdx;
	REG(env, RSI) = from->rsi;
	REG(env, RDI) = from->rdi;
	REG(env, RSP) = from->rsp;
	REG(env, RBP) = from->rbp;
	memcpy(&REG(env, 8), &from->r8, 64);
	EIP(env) = from->rip;
	set_rflags(env, from->rflags);
	control_update_hflags(env);
}

static void get_segment(const struct segment *from, struct kvm_segment *to)
{
	u32 flags = from->flags;

	memset(to, 0, sizeof(*to));
	to->base = from->base;
	to->limit = from->limit;
	to->selector = from->selector;
	to->type = (flags >> 8) & 15;
	to->s = (flags >> 12) & 1;
	to->dpl = (flags >> 13) & 3;
	to->present = (flags >> 15) & 1;
	to->avl = (flags >> 20) & 1;
	to->l = (flags >> 21) & 1;
	to->db = (flags >> 22) & 1;
	to->g = (flags >> 23) & 1;
	to->unusable = !to->present;
}

static void set_segment(struct segment *to, const struct kvm_segment *from)
{
	bool present = from->present && !from->unusable;

	to->selector = from->selector;
	to->base = from->base;
	to->limit = from->limit;
	to->flags = (u32)(from->type & 15) << 8 | (u32)(from->s & 1) << 12 |
		    (u32)(from->dpl & 3) << 13 | (u32)present << 15 |
		    (u32)(from->avl & 1) << 20 | (u32)(from->l & 1) << 21 |
		    (u32)(from->db & 1) << 22 | (u32)(from->g & 1) << 23;
}

#define TYPE_BUSY (2u << 8)
#define FLAG_PRESENT 0x8000u

/* The library keeps the task register's type without the busy bit, and ends
 * the process if it needs a task-state segment that isn't there. */
static void get_tr(void *env, struct kvm_segment *to)
{
	struct segment tr = FIELD(env, ENV_TR, struct segment);

	tr.flags |= TYPE_BUSY;
	get_segment(&tr, to);
}

static void set_tr(void *env, const struct kvm_segment *from)
{
	struct segment *tr = &FIELD(env, ENV_TR, struct segment);

	set_segment(tr, from);
	tr->flags &= ~TYPE_BUSY;
	tr->flags |= FLAG_PRESENT;
}

static void get_table(void *env, u32 offset, struct kvm_dtable *to)
{
	struct segment *from = &FIELD(env, offset, struct segment);

	memset(to, 0, sizeof(*to));
	to->base = from->base;
	to->limit = from->limit;
}

static void set_table(void *env, u32 offset, const struct kvm_dtable *from)
{
	struct segment *to = &FIELD(env, offset, struct segment);

	to->base = from->base;
	to->limit = from->limit;
}

void cpu_get_sregs(struct vmm *vm, struct kvm_sregs *to)
{
	void *env = vm->env;

	memset(to, 0, sizeof(*to));
	get_segment(SEG(env, SEG_CS), &to->cs);
	get_segment(SEG(env, SEG_DS), &to->ds);
	get_segment(SEG(env, SEG_ES), &to->es);
	get_segment(SEG(env, SEG_FS), &to->fs);
	get_segment(SEG(env, SEG_GS), &to->gs);
	get_segment(SEG(env, SEG_SS), &to->ss);
	to->ss.dpl = HFLAGS(env) & HF_CPL;
	get_tr(env, &to->tr);
	get_segment(&FIELD(env, ENV_LDT, struct segment), &to->ldt);
	get_table(env, ENV_GDT, &to->gdt);
	get_table(env, ENV_IDT, &to->idt);
	to->cr0 = CR(env, 0);
	to->cr2 = CR(env, 2);
	to->cr3 = CR(env, 3);
	to->cr4 = CR(env, 4);
	to->cr8 = vm->cr8;
	to->efer = EFER(env);
	to->apic_base = vm->apic_base;
	if (vm->interrupt >= 0)
		to->interrupt_bitmap[vm->interrupt >> 6] |= 1ull << (vm->interrupt & 63);
}

void cpu_set_sregs(struct vmm *vm, const struct kvm_sregs *from)
{
	void *env = vm->env;

	set_segment(SEG(env, SEG_CS), &from->cs);
	set_segment(SEG(env, SEG_DS), &from->ds);
	set_segment(SEG(env, SEG_ES), &from->es);
	set_segment(SEG(env, SEG_FS), &from->fs);
	set_segment(SEG(env, SEG_GS), &from->gs);
	set_segment(SEG(env, SEG_SS), &from->ss);
	set_tr(env, &from->tr);
	set_segment(&FIELD(env, ENV_LDT, struct segment), &from->ldt);
	set_table(env, ENV_GDT, &from->gdt);
	set_table(env, ENV_IDT, &from->idt);
	CR(env, 0) = (from->cr0 & 0xffffffff) | 0x10; /* ET */
	CR(env, 2) = from->cr2;
	CR(env, 3) = from->cr3;
	CR(env, 4) = from->cr4;
	control_set_efer(vm, from->efer);
	vm->cr8 = from->cr8 & 15;
	vm->run->cr8 = vm->cr8;
	vm->apic_base = from->apic_base;
	vm->interrupt = -1;
	for (int i = 0; i < 256; i++)
		if (from->interrupt_bitmap[i >> 6] >> (i & 63) & 1)
			vm->interrupt = i;
	control_update_hflags(env);
	tlb_flush_x86_64(vm->cs);
}

/* ------------------------------------------------------------- FPU, MSRs, events */

static void get_fpu(void *env, struct kvm_fpu *to)
{
	u32 top = FIELD(env, ENV_FPSTT, u32) & 7;

	memset(to, 0, sizeof(*to));
	for (u32 i = 0; i < 8; i++) { /* ST(i) */
		memcpy(to->fpr[i], (char *)env + ENV_FPREGS + 16 * ((top + i) & 7), 10);
		if (!FIELD(env, ENV_FPTAGS + i, u8))
			to->ftwx |= 1u << i;
	}
	to->fcw = FIELD(env, ENV_FPUC, u16);
	to->fsw = (FIELD(env, ENV_FPUS, u16) & ~FSW_TOP) | top << 11;
	to->last_opcode = FIELD(env, ENV_FPOP, u16);
	to->last_ip = FIELD(env, ENV_FPIP, u64);
	to->last_dp = FIELD(env, ENV_FPDP, u64);
	for (u32 i = 0; i < 16; i++)
		memcpy(to->xmm[i], (char *)env + ENV_XMM + 64 * i, 16);
	to->mxcsr = FIELD(env, ENV_MXCSR, u32) & 0xffff;
}

static void set_fpu(struct vmm *vm, const struct kvm_fpu *from)
{
	void *env = vm->env;
	u32 top = (from->fsw & FSW_TOP) >> 11;

	FIELD(env, ENV_FPSTT, u32) = top;
	for (u32 i = 0; i < 8; i++) {
		memset((char *)env + ENV_FPREGS + 16 * ((top + i) & 7), 0, 16);
		memcpy((char *)env + ENV_FPREGS + 16 * ((top + i) & 7), from->fpr[i], 10);
		FIELD(env, ENV_FPTAGS + i, u8) = !(from->ftwx >> i & 1);
	}
	FIELD(env, ENV_FPUC, u16) = from->fcw;
	FIELD(env, ENV_FPUS, u16) = from->fsw & ~FSW_TOP;
	FIELD(env, ENV_FPOP, u16) = from->last_opcode;
	FIELD(env, ENV_FPIP, u64) = from->last_ip;
	FIELD(env, ENV_FPDP, u64) = from->last_dp;
	for (u32 i = 0; i < 16; i++)
		memcpy((char *)env + ENV_XMM + 64 * i, from->xmm[i], 16);
	vm->vector_written = LINE_WRITTEN;
	FIELD(env, ENV_MXCSR, u32) = from->mxcsr & 0xffff;
	update_fp_status_x86_64(env);
	update_mxcsr_status_x86_64(env);
}

static void get_msrs(struct vmm *vm, struct vmm_cpu *to)
{
	for (u32 i = 0; i < MSRS; i++) {
		u64 value = 0;

		msr_get(vm, msr_list[i], &value);
		to->msrs[i].index = msr_list[i];
		to->msrs[i].data = value;
	}
	to->msr_count = MSRS;
}

static void get_events(struct vmm *vm, struct kvm_vcpu_events *to)
{
	to->exception.injected = vm->exception >= 0;
	if (vm->exception >= 0) {
		to->exception.nr = vm->exception;
		to->exception.has_error_code = vm->exception_has_code;
		to->exception.error_code = vm->exception_code;
	}
	to->interrupt.injected = vm->interrupt >= 0;
	to->interrupt.nr = vm->interrupt >= 0 ? vm->interrupt : 0;
	to->interrupt.shadow = HFLAGS(vm->env) & HF_INHIBIT_IRQ ? KVM_X86_SHADOW_INT_STI : 0;
	to->nmi.pending = vm->nmi;
	to->nmi.masked = !!(HFLAGS2(vm->env) & HF2_NMI);
	to->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
}

static void set_events(struct vmm *vm, const struct kvm_vcpu_events *from)
{
	void *env = vm->env;

	vm->exception = from->exception.injected ? from->exception.nr : -1;
	vm->exception_has_code = from->exception.has_error_code;
	vm->exception_code = from->exception.has_error_code ? from->exception.error_code : 0;
	if (from->interrupt.injected)
		vm->interrupt = from->interrupt.nr;
	vm->nmi = from->nmi.pending || from->nmi.injected;
	HFLAGS(env) &= ~HF_INHIBIT_IRQ;
	if (from->interrupt.shadow)
		HFLAGS(env) |= HF_INHIBIT_IRQ;
	HFLAGS2(env) &= ~HF2_NMI;
	if (from->nmi.masked)
		HFLAGS2(env) |= HF2_NMI;
}

/* -------------------------------------------------------------------- contract */

int vmm_get_cpu(struct vmm *vm, struct vmm_cpu *to)
{
	current = vm;
	memset(to, 0, sizeof(*to));
	if (vm->place == PLACE_INSTRUCTION && vm->return_address)
		cpu_restore_state_x86_64(vm->cs, vm->return_address, false);
	cpu_get_regs(vm, &to->regs);
	cpu_get_sregs(vm, &to->sregs);
	for (int i = 0; i < 4; i++)
		to->debugregs.db[i] = DR(vm->env, i);
	to->debugregs.dr6 = DR(vm->env, 6);
	to->debugregs.dr7 = DR(vm->env, 7);
	get_events(vm, &to->events);
	get_fpu(vm->env, &to->fpu);
	get_msrs(vm, to);
	to->xcr0 = 1;
	to->halted = vm->halted;
	return 0;
}

/* The machine's clock must be the one that belongs to these registers: the TSC
 * is set against it. */
int vmm_set_cpu(struct vmm *vm, const struct vmm_cpu *from)
{
	current = vm;
	engine_abandon(vm);
	vm->stop = STOP_NONE;
	vm->int_set = false;
	FIELD(vm->env, ENV_OLD_EXCEPTION, int) = -1;
	cpu_set_sregs(vm, &from->sregs);
	cpu_set_regs(vm, &from->regs);
	debug_set(vm, &from->debugregs);
	set_events(vm, &from->events);
	set_fpu(vm, &from->fpu);
	for (u32 i = 0; i < from->msr_count && i < VMM_MAX_MSRS; i++)
		msr_set(vm, from->msrs[i].index, from->msrs[i].data);
	vm->halted = from->halted;
	engine_publish(vm);
	return 0;
}

/* ----------------------------------------------------------------------- reset */

static void reset_segment(struct kvm_segment *segment, u32 type)
{
	segment->limit = 0xffff;
	segment->type = type;
	segment->present = 1;
	segment->s = 1;
}

/* The state after power-on (Intel SDM vol. 3, table 10-1), EFLAGS not yet split. */
void cpu_reset(struct vmm *vm)
{
	struct kvm_sregs sregs = { 0 };
	struct kvm_fpu fpu = { .fcw = 0x37f, .mxcsr = MXCSR_RESET };
	void *env = vm->env;

	reset_segment(&sregs.cs, 11);
	sregs.cs.base = 0xffff0000;
	sregs.cs.selector = 0xf000;
	reset_segment(&sregs.ds, 3);
	sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
	sregs.tr.type = 11;
	sregs.tr.present = 1;
	sregs.tr.limit = 0xffff;
	sregs.ldt.type = 2;
	sregs.ldt.present = 1;
	sregs.ldt.limit = 0xffff;
	sregs.gdt.limit = sregs.idt.limit = 0xffff;
	sregs.cr0 = 0x60000010;
	sregs.apic_base = 0xfee00900;
	cpu_set_sregs(vm, &sregs);
	set_fpu(vm, &fpu);
	memset(&REG(env, 0), 0, 16 * 8);
	REG(env, RDX) = 0x000106a5;
	EIP(env) = 0xfff0;
	EFLAGS(env) = RFLAGS_FIXED;
	control_update_hflags(env);
	HFLAGS2(env) |= HF2_GIF;
	FIELD(env, ENV_OLD_EXCEPTION, int) = -1;
	FIELD(env, ENV_A20_MASK, int) = -1;
	FIELD(env, ENV_PAT, u64) = PAT_RESET;
	FIELD(env, ENV_MISC_ENABLE, u64) = 1; /* fast strings */
	DR(env, 6) = 0xffff0ff0;
	DR(env, 7) = 0x400;
}
