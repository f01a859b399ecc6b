/* SPDX-License-Identifier: ISC */
/*
 * time.c: what the guest's clock, deadlines and kicks (kick.h) are to this
 * engine.
 *
 * Real time: a kick or the timer breaks the chain of translated blocks.
 *
 * Virtual time: each block counts. The block hook runs before the block tests
 * whether to leave; a block that is about to leave isn't counted, as it comes
 * again. Kicks are looked at there, so that another thread's doesn't disturb
 * the count.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "coverage.h"

double vmm_now(struct vmm *vm)
{
	return kick_now(&vm->kick);
}

u64 time_tsc(struct vmm *vm)
{
	u64 now = kick_now(&vm->kick);

	if (vm->tsc_khz != TSC_KHZ)
		now = (u64)((unsigned __int128)now * vm->tsc_khz / TSC_KHZ);
	return now + vm->tsc_offset;
}

uint32_t vmm_tsc_khz(struct vmm *vm)
{
	return vm->tsc_khz;
}

int vmm_set_tsc_khz(struct vmm *vm, uint32_t khz)
{
	vm->tsc_khz = khz;
	return 0;
}

/* With virtual time time_prepare turns it into a block's number. */
int vmm_set_deadline(struct vmm *vm, double guest)
{
	kick_deadline(&vm->kick, guest);
	return 0;
}

/* At an instruction boundary: has the deadline passed? */
bool time_due(struct vmm *vm)
{
	if (!vm->virtual_time)
		return kick_due(&vm->kick);
	if (vm->break_met) {
		vm->break_met = false;
		vm->break_passed = true;
		return true;
	}
	if (vm->clock->blocks < vm->deadline_block)
		return false;
	if (vm->clock->blocks >= vm->budget_block)
		return true; /* the timers' deadline stays */
	vm->deadline_block = ~0ull; /* until vmm_run prepares again */
	vm->kick.deadline = INFINITY;
	return true;
}

int vmm_break_blocks(struct vmm *vm, const uint64_t *addresses, uint32_t count)
{
	if (!vm->virtual_time)
		return -ENOTSUP;
	if (count > VMM_BREAK_BLOCKS)
		return -ENOSPC;
	memcpy(vm->break_block, addresses, count * sizeof(*addresses));
	vm->break_blocks = count;
	return 0;
}

/* Whoever asked for it goes on with the block that was met. */
static bool breaks_at(struct vmm *vm, u64 address, u32 size)
{
	if (vm->break_passed)
		return false;
	for (u32 i = 0; i < vm->break_blocks; i++)
		if (vm->break_block[i] - address < (size ? size : 1))
			return true;
	return false;
}

static void on_block(uc_engine *uc, uint64_t address, uint32_t size, void *data)
{
	struct vmm *vm = data;

	(void)uc;
	if (unlikely(vm->leave || vm->clock->blocks >= vm->deadline_block)) {
		/* This block leaves at once and comes again. */
		vm->attention = 1;
		FIELD(vm->cs, CS_ICOUNT_HIGH, u16) = 0xffff;
		return;
	}
	if (unlikely(vm->break_blocks)) {
		if (breaks_at(vm, address, size)) {
			vm->break_met = true;
			vm->attention = 1;
			FIELD(vm->cs, CS_ICOUNT_HIGH, u16) = 0xffff;
			return;
		}
		vm->break_passed = false;
	}
	vm->clock->blocks++;
	if (unlikely(vm->coverage))
		coverage_block(vm, address, size);
}

/* A guest that is well never has so many exceptions and no block between them. */
#define EXCEPTIONS 64

/*
 * A handler whose first instruction can't be fetched faults for ever and enters no block, so
 * that no time would pass: behind so many exceptions in a row each is worth a block.
 */
void time_exception(struct vmm *vm)
{
	if (!vm->virtual_time)
		return;
	if (vm->exception_block != vm->clock->blocks) {
		vm->exception_block = vm->clock->blocks;
		vm->exceptions = 0;
		return;
	}
	if (++vm->exceptions < EXCEPTIONS)
		return;
	vm->exception_block = ++vm->clock->blocks;
	if (vm->clock->blocks >= vm->deadline_block)
		engine_attend(vm);
}

/* The deadline as a number of blocks; the caller may have warped the clock. */
void time_prepare(struct vmm *vm)
{
	vm->exception_block = ~0ull; /* what goes on from here does so in each run */

	double blocks = (vm->kick.deadline - vm->clock->warp) / vm->clock->ns_per_block;

	if (blocks <= 0)
		vm->deadline_block = 0;
	else if (blocks >= 0x1p62)
		vm->deadline_block = ~0ull;
	else
		vm->deadline_block = (u64)blocks + (blocks > (u64)blocks);
	if (vm->deadline_block > vm->budget_block)
		vm->deadline_block = vm->budget_block;
}

void vmm_kick(struct vmm *vm)
{
	kick_thread(&vm->kick);
}

void vmm_nudge(struct vmm *vm)
{
	kick_thread(&vm->kick);
}

int vmm_wait(struct vmm *vm, double until, const int32_t *fds, uint32_t count)
{
	return kick_wait(&vm->kick, until, fds, count);
}

int time_open(struct vmm *vm, char *why, size_t size)
{
	uc_hook hook;
	int error;

	vm->tsc_khz = TSC_KHZ;
	vm->deadline_block = vm->budget_block = ~0ull;
	vm->virtual_time = vm->clock->mode == VMM_CLOCK_VIRTUAL;
	if (vm->virtual_time && !vm->clock->ns_per_block) {
		snprintf(why, size, "A virtual clock needs ns_per_block.");
		return -EINVAL;
	}
	error = kick_open(&vm->kick, vm->clock, KICK_SIGNAL_UNICORN, engine_attend, vm);
	if (error) {
		snprintf(why, size, "No timer: %s.", strerror(-error));
		return error;
	}
	if (vm->virtual_time)
		uc_hook_add(vm->uc, &hook, UC_HOOK_BLOCK, (void *)on_block, vm, 1, 0);
	return 0;
}

void time_close(struct vmm *vm)
{
	coverage_close(vm);
	kick_close(&vm->kick);
}
