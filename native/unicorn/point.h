/* SPDX-License-Identifier: ISC */
/* point.h: what a machine goes back to, and the pages that were written since. */
#ifndef VMM_UNICORN_POINT_H
#define VMM_UNICORN_POINT_H

#include "layout.h"
#include "vmm_fuzz.h"

/* Of env, what a run may change: breakpoints' pointers, which lie between the first and the
 * second part, aside. Vector registers are most of the first. */
#define POINT_ENV_VECTORS ENV_XMM
#define POINT_ENV_VECTORS_END ENV_SYSENTER_CS
#define POINT_ENV_FIRST 0x1538
#define POINT_ENV_SECOND 0x1558
#define POINT_ENV_END 0x15a0

#define POINT_WRITES 4096

/* Lines of a page, of 64 bytes each (lines.c). */
#define LINES 64
#define LINE_WRITTEN 0xff

struct lines {
	bool whole; /* so many that a page is copied as a whole */
	u32 count;
	u32 at[LINES]; /* offsets in a page */
};

/* A TLB entry that lets stores through to a flat page. */
struct point_write {
	u32 mmu;
	u32 index;
	u64 page;
};

#define POINT_ROUND 256 /* resets, until it is learnt anew which pages are often written, */
#define POINT_LEARN 8   /* ... by so many runs */
#define POINT_KEPT 64  /* of them, at most */

struct point {
	/* By flat address: what memory held. Half a page off: the same line of many pages and
	 * of their shadows would be more than a cache has places for. */
	u8 *shadow;
	u8 *mapping;
	u64 size;    /* bytes of it */
	u64 *tables; /* a bit a flat page: page tables were read there */
	u32 *pages;  /* flat pages written since, each once */
	u32 count;
	u32 writes;
	u32 round;
	u64 *often; /* a bit a flat page: written by one of the round's first runs, ... */
	u64 *kept;  /* ... and by another: it stays dirty, and in `pages` */
	u32 often_list[POINT_KEPT], often_count;
	bool many_writes; /* more than there is room for */
	struct point_write write[POINT_WRITES];

	/* The CPU: what the library has of it, and what is the engine's. */
	u8 env[POINT_ENV_END];
	u64 apic_base, cr8, tsc_offset, arch_capabilities;
	s64 interrupt, exception;
	u32 exception_code, halted;
	bool exception_has_code, nmi, int_set;
	u64 int_eip;
	double deadline;
	u8 window; /* request_interrupt_window */

	/* The rest of the machine image. */
	u8 *state_at, *state;
	u64 state_size;

	u64 began; /* the block at which the run began */
};

#endif
