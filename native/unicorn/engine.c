/* SPDX-License-Identifier: ISC */
/*
 * engine.c: opening, closing and running a machine; exits.
 *
 * The run page is Linux's struct kvm_run, the page behind it holds port data
 * (io.data_offset 4096). What differs from KVM:
 *  - A port, MMIO or MSR exit is inside an instruction: RIP is that
 *    instruction's. The next vmm_run completes it; with immediate_exit (or a
 *    kick) KVM_EXIT_INTR follows: for IN and OUT right behind the instruction,
 *    for the others at the end of their translated block, unless that has
 *    another exit in it.
 *  - ready_for_interrupt_injection is 0 at MMIO and MSR exits.
 *  - vmm_set_cpu inside an instruction drops it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

HOT_TLS struct vmm *current;

/* ------------------------------------------------------------ the two stacks */

static void to_engine(struct vmm *vm)
{
#if defined(__SANITIZE_ADDRESS__)
	__sanitizer_start_switch_fiber(&vm->sanitizer_caller, vm->stack, STACK_SIZE);
#endif
	vm->running = true;
	vmm_switch(&vm->caller_sp, vm->engine_sp);
#if defined(__SANITIZE_ADDRESS__)
	__sanitizer_finish_switch_fiber(vm->sanitizer_caller, NULL, NULL);
#endif
}

/* What the guest's processor shows of itself in the run page, at each exit and
 * after vmm_set_cpu. */
void engine_publish(struct vmm *vm)
{
	struct kvm_run *run = vm->run;

	run->if_flag = (EFLAGS(vm->env) >> 9) & 1;
	run->cr8 = vm->cr8;
	run->apic_base = vm->apic_base;
	run->ready_for_interrupt_injection =
		(vm->place == PLACE_PARKED || vm->at_port) && interrupt_ready(vm);
	if (likely(!run->kvm_valid_regs))
		return;
	if (vm->place == PLACE_INSTRUCTION && vm->return_address)
		cpu_restore_state_x86_64(vm->cs, vm->return_address, false);
	if (run->kvm_valid_regs & KVM_SYNC_X86_REGS)
		cpu_get_regs(vm, &run->s.regs.regs);
	if (run->kvm_valid_regs & KVM_SYNC_X86_SREGS)
		cpu_get_sregs(vm, &run->s.regs.sregs);
}

/* An exit between two instructions. Called on the engine's stack. */
void engine_park(struct vmm *vm)
{
	vm->place = PLACE_PARKED;
	engine_publish(vm);
	to_caller(vm);
}

/* Leaves a waiting instruction undone, so that the CPU's state may change. */
void engine_abandon(struct vmm *vm)
{
	if (vm->place == PLACE_PARKED)
		return;
	vm->abandon = true;
	engine_attend(vm);
	to_engine(vm);
}

/* The same with no way to the engine's stack and back: the instruction goes when the engine
 * is entered. Whoever calls this sets all of the CPU's state. */
void engine_drop(struct vmm *vm)
{
	if (vm->place == PLACE_PARKED)
		return;
	vm->dropped = true;
	vm->at_port = false;
	vm->place = PLACE_PARKED;
}

void engine_fault(void *env, int vector, int code, uintptr_t ra)
{
	raise_exception_err_ra_x86_64(env, vector, code, ra);
	abort(); /* it has longjmped */
}

/*
 * The engine's stack starts here. uc_emu_start returns after an undefined
 * opcode (its exception is already delivered) and on errors of the library.
 */
static void engine_main(void)
{
	struct vmm *vm = current;
	uc_err error;

#if defined(__SANITIZE_ADDRESS__)
	__sanitizer_finish_switch_fiber(NULL, &vm->caller_bottom, &vm->caller_size);
#endif
	for (;;) {
		error = uc_emu_start(vm->uc, EIP(vm->env), 0, 0, 0);
		if (vm->closing)
			break;
		if (error != UC_ERR_OK) {
			vm->stop = STOP_ERROR;
			vm->error = error;
			engine_attend(vm);
		}
		FIELD(vm->cs, CS_INTERRUPT_REQUEST, u32) = CPU_INTERRUPT_HARD;
	}
	vm->finished = true;
	to_caller(vm);
	abort();
}

static int stack_open(struct vmm *vm)
{
	size_t whole = STACK_SIZE + VMM_PAGE;
	u8 *memory = mmap(NULL, whole, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
	u64 *top;

	if (memory == MAP_FAILED)
		return -ENOMEM;
	mprotect(memory, VMM_PAGE, PROT_NONE); /* an overflow faults */
	vm->stack = memory + VMM_PAGE;

	/* What vmm_switch takes off: six registers, the return address; then
	 * alignment as after a call. */
	top = (u64 *)(vm->stack + STACK_SIZE);
	*--top = 0;
	*--top = (u64)engine_main;
	for (int i = 0; i < 6; i++)
		*--top = 0;
	vm->engine_sp = top;
	return 0;
}

/* ------------------------------------------------------------------ contract */

uint32_t vmm_abi(void)
{
	return VMM_ABI;
}

int vmm_probe(char *why, size_t size)
{
	return engine_check(why, size);
}

int vmm_version(char *text, size_t size)
{
	unsigned int version = uc_version(NULL, NULL);

	snprintf(text, size, "libunicorn %u.%u.%u", version >> 24,
		 (version >> 16) & 255, (version >> 8) & 255);
	return 0;
}

uint32_t vmm_capabilities(struct vmm *vm)
{
	return VMM_CAP_DIRTY_LOG | VMM_CAP_EXACT_DIRTY | VMM_CAP_VIRTUAL_TIME |
	       VMM_CAP_MSR_EXITS | VMM_CAP_SYNC_REGS | VMM_CAP_DEBUG |
	       VMM_CAP_WATCHPOINTS | VMM_CAP_READ_WATCHPOINTS | VMM_CAP_TOUCHED |
	       (vm->virtual_time ? VMM_CAP_POINT | VMM_CAP_COVERAGE : 0);
}

struct kvm_run *vmm_run_page(struct vmm *vm)
{
	return vm->run;
}

uint32_t vmm_run_size(struct vmm *vm)
{
	(void)vm;
	return RUN_SIZE;
}

static struct vmm *open_failed(struct vmm *vm)
{
	vmm_close(vm);
	return NULL;
}

struct vmm *vmm_open(const struct vmm_config *config, char *why, size_t size)
{
	struct vmm *vm;
	uc_err error;
	u64 rip;

	if (config->abi != VMM_ABI) {
		snprintf(why, size, "The caller speaks version %u of vmm.h, this engine %u.",
			 config->abi, VMM_ABI);
		return NULL;
	}
	if (!config->clock) {
		snprintf(why, size, "A machine needs a clock.");
		return NULL;
	}
	if (engine_check(why, size) < 0)
		return NULL;
	vm = calloc(1, sizeof(*vm));
	if (!vm) {
		snprintf(why, size, "Out of memory.");
		return NULL;
	}
	vm->interrupt = -1;
	vm->exception = -1;
	vm->clock = (struct vmm_clock *)(uintptr_t)config->clock;
	vm->run = mmap(NULL, RUN_SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vm->run == MAP_FAILED || stack_open(vm) < 0) {
		snprintf(why, size, "Out of memory.");
		return open_failed(vm);
	}
	current = vm;
	error = uc_open(UC_ARCH_X86, UC_MODE_64, &vm->uc);
	if (error != UC_ERR_OK) {
		snprintf(why, size, "libunicorn can't open an engine: %s.", uc_strerror(error));
		return open_failed(vm);
	}
	uc_reg_read(vm->uc, UC_X86_REG_RIP, &rip); /* makes the CPU, which is lazy */
	vm->cs = FIELD(vm->uc, UC_CPU, void *);
	vm->env = env_of(vm->cs);
	if (mmu_open(vm, config, why, size) < 0 || time_open(vm, why, size) < 0)
		return open_failed(vm);
	if (code_open(vm) < 0) {
		snprintf(why, size, "libunicorn keeps its translations elsewhere.");
		return open_failed(vm);
	}
	if (interrupt_open(vm) < 0) {
		snprintf(why, size, "libunicorn refuses its hooks.");
		return open_failed(vm);
	}
	cpuid_open(vm);
	cpu_reset(vm);

	/* Enter the library's main loop once, so that from now on the state is
	 * always that of a running CPU (EFLAGS split and all). */
	FIELD(vm->cs, CS_INTERRUPT_REQUEST, u32) = CPU_INTERRUPT_HARD;
	vm->abandon = true;
	engine_attend(vm);
	to_engine(vm);
	memset(vm->run, 0, sizeof(*vm->run));
	vm->run->apic_base = vm->apic_base;
	return vm;
}

void vmm_close(struct vmm *vm)
{
	if (!vm)
		return;
	current = vm;
	time_close(vm);
	if (vm->uc) {
		if (vm->caller_sp) {
			engine_abandon(vm);
			debug_close(vm);
			vm->closing = true;
			engine_attend(vm);
			to_engine(vm);
			code_close(vm);
		}
		uc_close(vm->uc);
	}
	current = NULL;
	mmu_close(vm);
	if (vm->stack)
		munmap(vm->stack - VMM_PAGE, STACK_SIZE + VMM_PAGE);
	if (vm->run && vm->run != MAP_FAILED)
		munmap(vm->run, RUN_SIZE);
	free(vm);
}

static void take_dirty_registers(struct vmm *vm)
{
	struct kvm_run *run = vm->run;

	if (run->kvm_dirty_regs & KVM_SYNC_X86_SREGS)
		cpu_set_sregs(vm, &run->s.regs.sregs);
	if (run->kvm_dirty_regs & KVM_SYNC_X86_REGS)
		cpu_set_regs(vm, &run->s.regs.regs);
	run->kvm_dirty_regs = 0;
}

int vmm_run(struct vmm *vm)
{
	struct kvm_run *run = vm->run;

	current = vm;
	vm->cr8 = run->cr8;
	if (unlikely(run->kvm_dirty_regs) && vm->place == PLACE_PARKED)
		take_dirty_registers(vm);
	if (unlikely(vm->virtual_time))
		time_prepare(vm);
	if (unlikely(vm->touched))
		mmu_touch_code(vm);
	if (unlikely(run->immediate_exit | run->request_interrupt_window | vm->attention |
		     vm->nmi) || vm->interrupt >= 0)
		engine_attend(vm);
#if defined(__SANITIZE_ADDRESS__)
	to_engine(vm);
	return 0;
#else
	vm->running = true;
	return vmm_switch(&vm->caller_sp, vm->engine_sp); /* a tail call: no RET of ours */
#endif
}
