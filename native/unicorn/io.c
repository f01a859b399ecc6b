/* SPDX-License-Identifier: ISC */
/*
 * io.c: port I/O and MMIO exits.
 *
 * The library has lost the I/O permission check (IOPL, then the bitmap of the
 * task-state segment; Intel SDM vol. 1, 19.5), so it is made here. INS and OUTS
 * use the same helpers, one exit an element.
 */
#define _GNU_SOURCE
#include <string.h>

#include "engine.h"

#define DESC_PRESENT 0x8000u
#define RFLAGS_RF 0x10000ull

/* The bits of [port, port + size) in the TSS must all be clear. */
static void check_bitmap(void *env, u32 port, int size, uintptr_t ra)
{
	struct segment *tr = &FIELD(env, ENV_TR, struct segment);
	u32 type = (tr->flags >> 8) & 15;
	u32 offset;

	if (!(tr->flags & DESC_PRESENT) || (type != 9 && type != 11) || tr->limit < 103)
		engine_fault(env, 13, 0, ra);
	offset = cpu_lduw_mmuidx_ra_x86_64(env, tr->base + 0x66, MMU_KERNEL_NOSMAP, ra);
	offset += port >> 3;
	if (offset + 1 > tr->limit)
		engine_fault(env, 13, 0, ra);
	offset = cpu_lduw_mmuidx_ra_x86_64(env, tr->base + offset, MMU_KERNEL_NOSMAP, ra);
	if (offset >> (port & 7) & ((1u << size) - 1))
		engine_fault(env, 13, 0, ra);
}

static inline void check_port(void *env, u32 port, int size, uintptr_t ra)
{
	u32 hflags = HFLAGS(env);

	if (likely(!(hflags & HF_PE)))
		return;
	if ((hflags & HF_CPL) > ((EFLAGS(env) >> 12) & 3) || (EFLAGS(env) & HF_VM))
		check_bitmap(env, port, size, ra);
}

/* ------------------------------------------------- the end of an instruction */

/* A byte of the instruction at CS:RIP, -1 if there is none. */
static int code_byte(struct vmm *vm, u32 offset)
{
	u64 va = SEG(vm->env, SEG_CS)->base + EIP(vm->env) + offset;
	struct slot *slot;
	u64 gpa;

	if (!(HFLAGS(vm->env) & HF_CS64))
		va = (u32)va;
	gpa = mmu_walk(vm, va);
	slot = gpa == ~0ull ? NULL : mmu_slot(vm, gpa);
	return slot ? slot->host[gpa - slot->gpa] : -1;
}

/* The length of the IN or OUT at CS:RIP, 0 for INS, OUTS and anything else. */
static u32 port_instruction_length(struct vmm *vm)
{
	bool code_64 = HFLAGS(vm->env) & HF_CS64;

	for (u32 length = 0; length < 14; length++) {
		int byte = code_byte(vm, length);

		switch (byte) {
		case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65:
		case 0x66: case 0x67: case 0xf2: case 0xf3:
			continue;
		case 0xe4 ... 0xe7:
			return length + 2;
		case 0xec ... 0xef:
			return length + 1;
		}
		if (!code_64 || (byte & 0xf0) != 0x40)
			return 0;
	}
	return 0;
}

/* Does something wait for the end of this instruction? */
static bool wanted_at_the_end(struct vmm *vm)
{
	/* Another thread's kick must not cut a block that is counted. */
	if ((vm->kick.kicked | vm->kick.fired) && !vm->virtual_time)
		return true;
	return vm->run->immediate_exit || vm->debugger.changed || vm->nmi || vm->interrupt >= 0 ||
	       (vm->run->request_interrupt_window && interrupt_ready(vm));
}

/*
 * Ends IN or OUT here and now, where KVM would report an interrupt or a kick.
 * The translated block would run on to its own end. Returns if it can't.
 */
static void finish_port_instruction(struct vmm *vm, int size, int direction,
				    const void *data, uintptr_t ra)
{
	void *env = vm->env;
	u32 length;

	if (!wanted_at_the_end(vm) || (EFLAGS(env) & HF_TF))
		return;
	cpu_restore_state_x86_64(vm->cs, ra, true);
	length = port_instruction_length(vm);
	if (!length)
		return;
	if (direction == KVM_EXIT_IO_IN) {
		if (size == 4)
			REG(env, RAX) = *(const u32 *)data;
		else
			memcpy(&REG(env, RAX), data, size);
	}
	EIP(env) += length;
	if (!(HFLAGS(env) & HF_CS64))
		EIP(env) &= HFLAGS(env) & HF_CS32 ? 0xffffffff : 0xffff;
	HFLAGS(env) &= ~HF_INHIBIT_IRQ;
	EFLAGS(env) &= ~RFLAGS_RF;
	cpu_loop_exit_noexc_x86_64(vm->cs);
}

static inline void *port_exit(void *env, u32 port, int size, int direction, u32 value,
			      uintptr_t ra)
{
	struct vmm *vm = current;
	struct kvm_run *run = vm->run;
	void *data = (char *)run + IO_DATA_OFFSET;

	port &= 0xffff;
	check_port(env, port, size, ra);
	run->exit_reason = KVM_EXIT_IO;
	run->io.direction = direction;
	run->io.size = size;
	run->io.port = port;
	run->io.count = 1;
	run->io.data_offset = IO_DATA_OFFSET;
	*(u32 *)data = value;
	vm->at_port = true;
	engine_wait_inside(vm, ra);
	vm->at_port = false;
	if (unlikely(vm->attention))
		finish_port_instruction(vm, size, direction, data, ra);
	return data;
}

INTERPOSED u64 helper_inb_x86_64(void *env, u32 port)
{
	return *(u8 *)port_exit(env, port, 1, KVM_EXIT_IO_IN, 0, CALLER);
}

INTERPOSED u64 helper_inw_x86_64(void *env, u32 port)
{
	return *(u16 *)port_exit(env, port, 2, KVM_EXIT_IO_IN, 0, CALLER);
}

INTERPOSED u64 helper_inl_x86_64(void *env, u32 port)
{
	return *(u32 *)port_exit(env, port, 4, KVM_EXIT_IO_IN, 0, CALLER);
}

INTERPOSED void helper_outb_x86_64(void *env, u32 port, u32 value)
{
	port_exit(env, port, 1, KVM_EXIT_IO_OUT, value & 0xff, CALLER);
}

INTERPOSED void helper_outw_x86_64(void *env, u32 port, u32 value)
{
	port_exit(env, port, 2, KVM_EXIT_IO_OUT, value & 0xffff, CALLER);
}

INTERPOSED void helper_outl_x86_64(void *env, u32 port, u32 value)
{
	port_exit(env, port, 4, KVM_EXIT_IO_OUT, value, CALLER);
}

/* ------------------------------------------------------------------------ MMIO */

#define OP_SIZE 3u	/* MemOp: log2 of the size */
#define OP_SWAP 8u	/* ... and big-endian (MOVBE) */

static u64 swap(u64 value, u32 size)
{
	return __builtin_bswap64(value) >> (64 - 8 * size);
}

/* A wide access that is split at a page's end or unaligned arrives in parts. */
static u64 mmio_exit(struct vmm *vm, u64 gpa, u32 size, bool write, u64 value)
{
	struct kvm_run *run = vm->run;

	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = gpa;
	memcpy(run->mmio.data, &value, 8);
	run->mmio.len = size;
	run->mmio.is_write = write;
	engine_wait_inside(vm, FIELD(vm->cs, CS_MEM_IO_PC, uintptr_t));
	memcpy(&value, run->mmio.data, 8);
	return size == 8 ? value : value & ((1ull << 8 * size) - 1);
}

INTERPOSED u32 memory_region_dispatch_read_x86_64(void *uc, void *region, u64 gpa,
						  u64 *value, u32 op, u32 attrs)
{
	struct vmm *vm = current;
	u32 size = 1u << (op & OP_SIZE);

	if (unlikely(!vm || vm->uc != uc))
		return original.dispatch_read(uc, region, gpa, value, op, attrs);
	/* An instruction fetch has no generated code to return to. Nothing
	 * outside memory is executable: it reads as the undefined opcode. */
	if (unlikely(!FIELD(vm->cs, CS_MEM_IO_PC, uintptr_t))) {
		*value = ~0ull >> (64 - 8 * size);
		return 0;
	}
	*value = mmio_exit(vm, gpa, size, false, 0);
	if (op & OP_SWAP)
		*value = swap(*value, size);
	return 0;
}

INTERPOSED u32 memory_region_dispatch_write_x86_64(void *uc, void *region, u64 gpa,
						   u64 value, u32 op, u32 attrs)
{
	struct vmm *vm = current;
	u32 size = 1u << (op & OP_SIZE);

	if (unlikely(!vm || vm->uc != uc))
		return original.dispatch_write(uc, region, gpa, value, op, attrs);
	mmio_exit(vm, gpa, size, true, op & OP_SWAP ? swap(value, size) : value);
	return 0;
}
