/* SPDX-License-Identifier: ISC */
/*
 * interrupt.c: what happens between two instructions: interrupts, NMI, HLT,
 * exits that wait for an instruction boundary, and the delivery of exceptions.
 *
 * cpu->interrupt_request stays at CPU_INTERRUPT_HARD, so that the library's
 * main loop calls x86_cpu_exec_interrupt on every pass. To get there from
 * chained code, engine_attend stores 0xffff to the high half of icount_decr,
 * which each block tests at its start.
 */
#define _GNU_SOURCE
#include <errno.h>


#include "engine.h"

#define EXCEPTION_NONE (-1)
#define VECTOR_PF 14
#define RFLAGS_RF 0x10000ull
#define RFLAGS_IF 0x200ull

/* May an external interrupt be injected before the next instruction? */
bool interrupt_ready(struct vmm *vm)
{
	return (EFLAGS(vm->env) & RFLAGS_IF) && !(HFLAGS(vm->env) & HF_INHIBIT_IRQ) &&
	       vm->interrupt < 0 && vm->exception < 0 && vm->stop == STOP_NONE;
}

int vmm_interrupt(struct vmm *vm, uint32_t vector)
{
	if (vm->interrupt >= 0)
		return -EEXIST;
	vm->interrupt = vector & 255;
	return 0;
}

int vmm_nmi(struct vmm *vm)
{
	vm->nmi = true;
	return 0;
}

static void park_with(struct vmm *vm, u32 reason)
{
	vm->run->exit_reason = reason;
	engine_park(vm);
}

static void park_with_error(struct vmm *vm)
{
	struct kvm_run *run = vm->run;

	run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
	run->internal.ndata = 3;
	run->internal.data[0] = vm->error;
	run->internal.data[1] = EIP(vm->env);
	run->internal.data[2] = SEG(vm->env, SEG_CS)->base;
	vm->stop = STOP_NONE;
	park_with(vm, KVM_EXIT_INTERNAL_ERROR);
}

/* Reports what waits for an instruction boundary; true after an exit. */
static bool report(struct vmm *vm)
{
	switch (vm->stop) {
	case STOP_HLT:
		vm->stop = STOP_NONE;
		vm->halted = 1;
		vm->debugger.started = false;
		park_with(vm, KVM_EXIT_HLT);
		return true;
	case STOP_SHUTDOWN:
		park_with(vm, KVM_EXIT_SHUTDOWN); /* stays, until vmm_set_cpu */
		return true;
	case STOP_ERROR:
		park_with_error(vm);
		return true;
	case STOP_DEBUG:
		debugger_report(vm);
		park_with(vm, KVM_EXIT_DEBUG);
		return true;
	case STOP_NONE:
		break;
	}
	if (vm->run->immediate_exit ||
	    __atomic_exchange_n(&vm->kick.kicked, 0, __ATOMIC_SEQ_CST) || time_due(vm)) {
		park_with(vm, KVM_EXIT_INTR);
		return true;
	}
	return false;
}

/* Delivers one event to the guest; true if its next instruction changed. */
static bool deliver(struct vmm *vm)
{
	void *env = vm->env;
	int vector;

	/* A fault in here longjmps away; then look again. */
	vm->attention = 1;
	if (vm->exception >= 0) {
		FIELD(vm->cs, CS_EXCEPTION_INDEX, int) = vm->exception;
		FIELD(env, ENV_ERROR_CODE, int) = vm->exception_code;
		FIELD(env, ENV_EXCEPTION_IS_INT, int) = 0;
		vm->exception = -1;
		x86_cpu_do_interrupt_x86_64(vm->cs);
		FIELD(vm->cs, CS_EXCEPTION_INDEX, int) = EXCEPTION_NONE;
		return true;
	}
	if (HFLAGS(env) & HF_INHIBIT_IRQ)
		return false;
	if (vm->nmi && !(HFLAGS2(env) & HF2_NMI)) {
		vm->nmi = false;
		HFLAGS2(env) |= HF2_NMI; /* until IRET */
		do_interrupt_x86_hardirq_x86_64(env, 2, 1);
		return true;
	}
	if (vm->interrupt >= 0 && (EFLAGS(env) & RFLAGS_IF)) {
		vector = vm->interrupt;
		vm->interrupt = -1;
		do_interrupt_x86_hardirq_x86_64(env, vector, 1);
		return true;
	}
	return false;
}

/* The slow half of exec_interrupt; true if the CPU's state may have changed. */
static bool attend(struct vmm *vm)
{
	bool changed = false;

	debugger_pass(vm);
	for (;;) {
		vm->leave = 0;
		__atomic_store_n(&vm->attention, 0, __ATOMIC_SEQ_CST);
		if (vm->closing) {
			uc_emu_stop(vm->uc);
			return true;
		}
		if (unlikely(vm->code_broken)) {
			code_repair(vm);
			changed = true;
		}
		if (vm->dr_changed) {
			debug_refresh(vm);
			changed = true;
		}
		if (unlikely(vm->debugger.changed)) {
			debugger_refresh(vm);
			changed = true;
		}
		if (vm->abandon) {
			vm->abandon = false;
			engine_park(vm);
			changed = true;
			continue;
		}
		if (report(vm)) {
			changed = true;
			continue;
		}
		if (deliver(vm)) {
			vm->debugger.hit = 0; /* the access comes again */
			changed = true;
			continue;
		}
		if (vm->run->request_interrupt_window && interrupt_ready(vm)) {
			park_with(vm, KVM_EXIT_IRQ_WINDOW_OPEN);
			changed = true;
			continue;
		}
		break;
	}
	vm->halted = 0;
	/* What waits for IF or the end of a shadow is looked at again on the
	 * main loop's next pass: the instructions that open the way (STI,
	 * POPF, IRET) all go there. */
	vm->attention = vm->interrupt >= 0 || vm->nmi || vm->run->request_interrupt_window;
	if (vm->kick.kicked || vm->kick.fired)
		vm->attention = 1;
	if (unlikely(vm->debugger.stepping || vm->debugger.hit)) {
		debugger_enter(vm);
		vm->attention = 1;
	} else if (unlikely(coverage_compares(vm))) {
		debugger_single(vm);
		vm->attention = 1;
	}
	return changed;
}

INTERPOSED bool x86_cpu_exec_interrupt_x86_64(void *cs, int request)
{
	struct vmm *vm = current;

	if (unlikely(!vm || vm->cs != cs))
		return original.exec_interrupt(cs, request);
	vm->translating = TRANSLATING_NOT; /* faults leave a translation by longjmp */
	if (likely(!vm->attention))
		return false;
	return attend(vm);
}

/* HLT: RIP behind it, then stop at the boundary. */
INTERPOSED void helper_hlt_x86_64(void *env, int length)
{
	EIP(env) += length;
	HFLAGS(env) &= ~HF_INHIBIT_IRQ;
	current->stop = STOP_HLT;
	current->attention = 1;
	cpu_loop_exit_noexc_x86_64(cs_of(env));
}

/* MWAIT isn't in our CPUID; were it, it would be a HLT. */
INTERPOSED void helper_mwait_x86_64(void *env, int length)
{
	helper_hlt_x86_64(env, length);
}

/* PAUSE has only to end its block, which gives interrupts a chance. */
INTERPOSED void helper_pause_x86_64(void *env, int length)
{
	EIP(env) += length;
	cpu_loop_exit_noexc_x86_64(cs_of(env));
}

/* A triple fault. */
INTERPOSED void qemu_system_reset_request(void *uc)
{
	struct vmm *vm = current;

	if (!vm || vm->uc != uc) {
		original.reset_request(uc);
		return;
	}
	vm->stop = STOP_SHUTDOWN;
	vm->attention = 1;
	cpu_loop_exit_noexc_x86_64(vm->cs);
}

/* A fault while INT n is delivered must show the address of the INT, which the
 * library has overwritten with that of the next instruction by then. */
INTERPOSED void helper_raise_interrupt_x86_64(void *env, int vector, int length)
{
	if (current) {
		current->int_eip = EIP(env);
		current->int_set = true;
	}
	original.raise_interrupt(env, vector, length);
}

/* Faults push RF, so that the instruction's breakpoint doesn't hit again. */
static bool pushes_rf(u32 vector)
{
	return vector != 1 && vector != 3 && vector != 4 && vector != 8 && vector != 18;
}

static void on_exception(uc_engine *uc, u32 vector, void *data)
{
	struct vmm *vm = data;
	void *env = vm->env;

	(void)uc;
	vm->translating = TRANSLATING_NOT; /* it may come from a fetch */
	if (FIELD(env, ENV_EXCEPTION_IS_INT, int)) {
		if (vm->int_set)
			EIP(env) = vm->int_eip;
	} else if (pushes_rf(vector)) {
		EFLAGS(env) |= RFLAGS_RF;
		if (vector == VECTOR_PF)
			FIELD(env, ENV_ERROR_CODE, u32) =
				decode_fault(vm, FIELD(env, ENV_ERROR_CODE, u32));
	}
	vm->int_set = false;
	time_exception(vm);
	/* May longjmp to the main loop with a nested fault. */
	x86_cpu_do_interrupt_x86_64(vm->cs);
}

/* The library keeps #UD from the hook above; uc_emu_start returns after it. */
static bool on_undefined(uc_engine *uc, void *data)
{
	struct vmm *vm = data;

	(void)uc;
	vm->translating = TRANSLATING_NOT;
	EFLAGS(vm->env) |= RFLAGS_RF;
	time_exception(vm);
	debug_icebp(vm);
	x86_cpu_do_interrupt_x86_64(vm->cs);
	FIELD(vm->cs, CS_EXCEPTION_INDEX, int) = EXCEPTION_NONE;
	return true;
}

int interrupt_open(struct vmm *vm)
{
	uc_hook hook;

	if (uc_ctl_exits_enable(vm->uc) != UC_ERR_OK)
		return -1;
	if (uc_hook_add(vm->uc, &hook, UC_HOOK_INTR, (void *)on_exception, vm, 1, 0))
		return -1;
	if (uc_hook_add(vm->uc, &hook, UC_HOOK_INSN_INVALID, (void *)on_undefined, vm, 1, 0))
		return -1;
	FIELD(vm->uc, UC_NO_EXIT_REQUEST, u8) = 1;
	return 0;
}

/* The library emits this after every memory access; an exit there would run
 * half a block twice. The test at each block's start is the one we use. */
INTERPOSED void check_exit_request_x86_64(void *context)
{
	(void)context;
}
