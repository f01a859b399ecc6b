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
	engine_wait_inside(vm, ra);
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
