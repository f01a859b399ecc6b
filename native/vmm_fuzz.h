/* SPDX-License-Identifier: ISC */
/*
 * vmm_fuzz.h: the part of vmm.h's contract that is for fuzzers: a point that a machine
 * goes back to, what code its guest entered since, and a run from the point.
 */
#ifndef VMM_FUZZ_H
#define VMM_FUZZ_H

#include "vmm.h"

/*
 * A point that a machine goes back to, as often as is wanted, with what its guest did
 * since it was there: for fuzzing. All memory, the CPU, the clock and what `state` names
 * (the machine image's registers) are at the point again after vmm_point_reset, at the
 * cost of the pages that were written since. While there is a point, vmm_dirty has none.
 * The engine must be between two instructions (any exit but a port's, MMIO's or MSR's).
 */
int vmm_point_take(struct vmm *, uint64_t state, uint64_t size);
void vmm_point_drop(struct vmm *);
/* Returns the number of pages that were copied back. */
int vmm_point_reset(struct vmm *);
/* Is all as it was at the point? 0, or 1 and a sentence that says what isn't. It reads
 * all memory. */
int vmm_point_check(struct vmm *, char *why, size_t size);
/* The guest-physical pages that were written since the last reset, or are by many runs, in
 * that order; what a host wrote is among them when vmm_written reported it. Returns how
 * many there are. */
uint32_t vmm_point_pages(struct vmm *, uint64_t *pages, uint32_t max);

/*
 * Which code a guest enters. Each pair of translated blocks that follow one another has a
 * place in a map, by a hash of their linear addresses; a byte counts. Virtual time only.
 */
#define VMM_COVERAGE_RANGES 8
#define VMM_COVERAGE_COMPARES 4096
#define VMM_COVERAGE_BLOCKS 65536

enum vmm_coverage_flags {
	VMM_COVERAGE_EDGES = 1,
	VMM_COVERAGE_COMPARES_TOO = 2, /* note comparisons; a block is one instruction then */
	VMM_COVERAGE_TRACE = 4,	       /* note blocks, in their order */
};

/* A comparison or subtraction. */
struct vmm_compare {
	uint64_t at; /* linear address of the instruction */
	uint64_t left;
	uint64_t right;
	uint32_t size; /* bytes */
	uint32_t reserved;
};

struct vmm_block {
	uint64_t address;
	uint32_t size; /* bytes of code */
	uint32_t edge; /* its place in the map */
};

struct vmm_coverage {
	uint32_t flags;	  /* enum vmm_coverage_flags; the caller's */
	uint32_t places;  /* a power of two */
	uint32_t touched; /* places of this run, in `list` */
	uint32_t seen;	  /* places that vmm_coverage_novelty has seen so far */
	uint32_t compares;
	uint32_t blocks;
	uint32_t ranges; /* the caller's: only blocks in them count; 0: all do */
	uint32_t reserved;
	struct { /* linear, the end not in it */
		uint64_t from, to;
	} range[VMM_COVERAGE_RANGES];
	uint64_t counts; /* host addresses: u8[places] */
	uint64_t list;	 /* u32[places] */
	uint64_t compare; /* struct vmm_compare[VMM_COVERAGE_COMPARES]; 0: there are none */
	uint64_t block;	  /* struct vmm_block[VMM_COVERAGE_BLOCKS]; 0: there are none */
};

/* Where a block of code begins. */
struct vmm_trap {
	uint64_t address; /* linear */
	uint64_t gpa;	  /* where its first byte lies */
};

/*
 * NULL: no memory, or it can't be had. With virtual time every block is told of. Without it
 * (KVM) only those of vmm_coverage_traps are, each when it is entered for the first time
 * ever: its first byte is another one until then, in the memory of the point, too. The
 * block's place is its number among the traps, and there are no comparisons and edges.
 */
struct vmm_coverage *vmm_coverage_open(struct vmm *, uint32_t places);
/* The instruction that traps are: 0xcc, INT3; 0xf4, HLT, which is none in code of the lowest
 * privilege; 0: there are none. Found out once, on a machine of its own. */
uint32_t vmm_coverage_instruction(struct vmm *);
/* Takes the place of earlier traps. There has to be a point. -EINVAL: more than there are
 * places, or not in memory; -ENOTSUP: the engine needs none. */
int vmm_coverage_traps(struct vmm *, const struct vmm_trap *, uint32_t count);
/* A new run begins: nothing is counted yet. */
void vmm_coverage_begin(struct vmm *);
/* What of this run was never seen: 0 nothing, 1 a place more or less often (in the buckets
 * 1, 2, 3, 4-7, 8-15, 16-31, 32-127, 128-255), 2 a place; it is seen from now on. */
int vmm_coverage_novelty(struct vmm *);
/* A hash of this run's places and buckets, of 32 bits. */
uint32_t vmm_coverage_hash(struct vmm *);

/*
 * One run of a fuzzer: back to the point, in with the input, on until something is to be
 * decided. All that is asked for lies in struct vmm_fuzz, and all that came.
 */
#define VMM_FUZZ_SEGMENTS 256

enum vmm_fuzz_flags {
	VMM_FUZZ_CONTINUE = 1, /* the last exit is answered: no reset, no input */
	VMM_FUZZ_CHECK = 2,    /* vmm_point_check between reset and input */
	VMM_FUZZ_BEGIN = 4,    /* only counters and the budget begin: no reset, no input, no run */
	VMM_FUZZ_LIGHT = 8,    /* of `state` only the clock has changed since the point */
	VMM_FUZZ_SPENT = 16,   /* only `spent` is told: the caller let the guest go on by itself */
};

enum vmm_fuzz_reason {
	VMM_FUZZ_EXIT = 0,     /* an exit that the caller answers, in the run page */
	VMM_FUZZ_PORT = 1,     /* OUT to `port`; `value` is what was written */
	VMM_FUZZ_STOP = 2,     /* a breakpoint of vmm_debug; `value` is its linear address */
	VMM_FUZZ_BUDGET = 3,   /* `budget` is used up */
	VMM_FUZZ_SHUTDOWN = 4, /* a triple fault */
	VMM_FUZZ_FAILED = 5,   /* the engine can't go on */
};

struct vmm_fuzz {
	uint32_t flags;
	uint32_t reason;
	uint64_t value;
	double budget;	/* that a run may take: translated blocks, or real ns of guest time */
	double spent;	/* of it, so far */
	uint32_t pages; /* copied back by the reset */
	uint32_t check; /* 1: VMM_FUZZ_CHECK found a difference */
	uint32_t port;	/* of 16 bits; above: none */
	uint32_t length;
	uint64_t input; /* host address */
	uint64_t length_gpa;
	uint32_t length_size;	  /* bytes at length_gpa: 0, 4 or 8 */
	int32_t length_register; /* number of a general register, in the encoding's order; -1: none */
	uint32_t segments;
	uint32_t reserved;
	struct { /* where the input goes, in turn */
		uint64_t gpa;
		uint64_t length;
	} segment[VMM_FUZZ_SEGMENTS];
};

/* 0 or -errno. */
int vmm_fuzz_run(struct vmm *, struct vmm_fuzz *);

#endif
