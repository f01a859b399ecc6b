/* SPDX-License-Identifier: ISC */
/* coverage.h: an edge is counted, which each block of a fuzzer's guest does. */
#ifndef VMM_UNICORN_COVERAGE_H
#define VMM_UNICORN_COVERAGE_H

#include "engine.h"

struct coverage {
	struct vmm_coverage shared;
	u32 mask;
	u32 before;	   /* hash of the block before */
	u64 block_before; /* its address, when more than edges is asked for */
	u32 op;		   /* of flags, when they were last looked at */
	u64 result, source;
	u32 *list;
	u8 *counts;
	u8 *seen;
	struct vmm_compare *compare;
	struct vmm_block *block;
};

#pragma GCC visibility push(hidden)
void coverage_more(struct vmm *, u64 address, u32 size);
#pragma GCC visibility pop

/* The edge from the block before to this one. Returns its place. */
static inline u32 coverage_edge(struct coverage *coverage, u64 address)
{
	u32 hash = (address * 0x9e3779b97f4a7c15ull) >> 33;
	u32 place = (hash ^ coverage->before) & coverage->mask;
	u8 count = coverage->counts[place];

	coverage->before = hash >> 1;
	if (!count)
		coverage->list[coverage->shared.touched++] = place;
	coverage->counts[place] = count + (count != 255);
	return place;
}

static inline void coverage_block(struct vmm *vm, u64 address, u32 size)
{
	struct coverage *coverage = vm->coverage;

	if (likely(coverage->shared.flags == VMM_COVERAGE_EDGES && !coverage->shared.ranges))
		coverage_edge(coverage, address);
	else
		coverage_more(vm, address, size);
}

#endif
