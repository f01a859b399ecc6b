/* SPDX-License-Identifier: ISC */
/*
 * coverage.c: which blocks of code a guest enters, as the block hook of time.c tells.
 *
 * The map is AFL's: a byte for each pair of blocks that followed one another, found by a
 * hash. A run's places are listed as they are touched, so that what is to be done at its
 * end costs by them and not by the map.
 *
 * Comparisons: the translator computes flags when they are needed, and keeps the operands
 * of the last instruction that set them until then. While comparisons are wanted, blocks are
 * of one instruction, as for a debugger's steps, so that each is seen; such blocks are kept
 * beside the others, and nothing is translated anew.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "coverage.h"

/* enum CCOp: how flags follow from what is kept; CC_OP_SUBB to CC_OP_SUBQ. */
#define CC_OP_SUBB 14
#define CC_OP_SUBQ 17

static bool counts_here(const struct vmm_coverage *shared, u64 address)
{
	for (u32 i = 0; i < shared->ranges && i < VMM_COVERAGE_RANGES; i++)
		if (address - shared->range[i].from < shared->range[i].to - shared->range[i].from)
			return true;
	return !shared->ranges;
}

/* The last instruction that set flags subtracted: to compare, most likely. */
static void note_compare(struct vmm *vm, struct coverage *coverage)
{
	struct vmm_coverage *shared = &coverage->shared;
	u32 op = FIELD(vm->env, ENV_CC_OP, u32);
	u64 result = FIELD(vm->env, ENV_CC_DST, u64), source = FIELD(vm->env, ENV_CC_SRC, u64);
	u64 right, left, mask;
	u32 size;

	/* Flags that nothing has set since. */
	if (op == coverage->op && result == coverage->result && source == coverage->source)
		return;
	coverage->op = op;
	coverage->result = result;
	coverage->source = source;
	if (op < CC_OP_SUBB || op > CC_OP_SUBQ || shared->compares >= VMM_COVERAGE_COMPARES)
		return;
	size = 1u << (op - CC_OP_SUBB);
	mask = size == 8 ? ~0ull : (1ull << 8 * size) - 1;
	right = source & mask;
	left = (result + right) & mask;
	coverage->compare[shared->compares++] = (struct vmm_compare){
		.at = coverage->block_before, .left = left, .right = right, .size = size,
	};
}

/* More is asked for than edges. */
void coverage_more(struct vmm *vm, u64 address, u32 size)
{
	struct coverage *coverage = vm->coverage;
	struct vmm_coverage *shared = &coverage->shared;
	u32 place;

	if (shared->ranges && !counts_here(shared, address))
		return;
	if (shared->flags & VMM_COVERAGE_COMPARES_TOO)
		note_compare(vm, coverage);
	place = coverage_edge(coverage, address);
	coverage->block_before = address;
	if (shared->flags & VMM_COVERAGE_TRACE && shared->blocks < VMM_COVERAGE_BLOCKS)
		coverage->block[shared->blocks++] =
			(struct vmm_block){ address, size, place };
}

bool coverage_compares(struct vmm *vm)
{
	return vm->coverage && vm->coverage->shared.flags & VMM_COVERAGE_COMPARES_TOO;
}

void coverage_close(struct vmm *vm)
{
	struct coverage *coverage = vm->coverage;

	vm->coverage = NULL;
	if (!coverage)
		return;
	free(coverage->list);
	free(coverage->counts);
	free(coverage->seen);
	free(coverage->compare);
	free(coverage->block);
	free(coverage);
}

struct vmm_coverage *vmm_coverage_open(struct vmm *vm, uint32_t places)
{
	struct coverage *coverage;

	if (!vm->virtual_time || !places || places & (places - 1))
		return NULL;
	coverage_close(vm);
	coverage = calloc(1, sizeof(*coverage));
	if (!coverage)
		return NULL;
	vm->coverage = coverage;
	coverage->mask = places - 1;
	coverage->list = malloc(places * sizeof(*coverage->list));
	coverage->counts = calloc(places, 1);
	coverage->seen = calloc(places, 1);
	coverage->compare = malloc(VMM_COVERAGE_COMPARES * sizeof(*coverage->compare));
	coverage->block = malloc(VMM_COVERAGE_BLOCKS * sizeof(*coverage->block));
	if (!coverage->list || !coverage->counts || !coverage->seen || !coverage->compare ||
	    !coverage->block) {
		coverage_close(vm);
		return NULL;
	}
	coverage->shared = (struct vmm_coverage){
		.flags = VMM_COVERAGE_EDGES,
		.places = places,
		.counts = (u64)coverage->counts,
		.list = (u64)coverage->list,
		.compare = (u64)coverage->compare,
		.block = (u64)coverage->block,
	};
	return &coverage->shared;
}

uint32_t vmm_coverage_instruction(struct vmm *vmm)
{
	(void)vmm;
	return 0;
}

int vmm_coverage_traps(struct vmm *vm, const struct vmm_trap *traps, uint32_t count)
{
	(void)vm, (void)traps, (void)count;
	return -ENOTSUP;
}

void vmm_coverage_begin(struct vmm *vm)
{
	struct coverage *coverage = vm->coverage;

	if (!coverage)
		return;
	for (u32 i = 0; i < coverage->shared.touched; i++)
		coverage->counts[coverage->list[i]] = 0;
	coverage->shared.touched = 0;
	coverage->shared.compares = 0;
	coverage->shared.blocks = 0;
	coverage->before = 0;
	coverage->block_before = 0;
	coverage->op = 0;
	if (coverage_compares(vm))
		engine_attend(vm);
}

static u8 bucket(u8 count)
{
	if (count < 4)
		return 1u << (count - 1);
	if (count < 16)
		return count < 8 ? 8 : 16;
	return count < 32 ? 32 : count < 128 ? 64 : 128;
}

int vmm_coverage_novelty(struct vmm *vm)
{
	struct coverage *coverage = vm->coverage;
	int novelty = 0;

	if (!coverage)
		return 0;
	for (u32 i = 0; i < coverage->shared.touched; i++) {
		u32 place = coverage->list[i];
		u8 bit = bucket(coverage->counts[place]), *seen = &coverage->seen[place];

		if (likely(*seen & bit))
			continue;
		if (!*seen) {
			novelty = 2;
			coverage->shared.seen++;
		} else if (!novelty) {
			novelty = 1;
		}
		*seen |= bit;
	}
	return novelty;
}

uint32_t vmm_coverage_hash(struct vmm *vm)
{
	struct coverage *coverage = vm->coverage;
	u64 hash = 0;

	if (!coverage)
		return 0;
	/* A sum: the order in which places were touched follows from the run as well, but
	 * what is said is only which and how often. */
	for (u32 i = 0; i < coverage->shared.touched; i++) {
		u64 place = coverage->list[i];
		u64 one = (place << 8 | bucket(coverage->counts[place])) + 1;

		one *= 0x9e3779b97f4a7c15ull;
		one ^= one >> 29;
		hash += one * 0xbf58476d1ce4e5b9ull;
	}
	return hash ^ hash >> 32;
}
