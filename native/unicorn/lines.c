/* SPDX-License-Identifier: ISC */
/*
 * lines.c: which parts of the pages that were written a reset copies back.
 *
 * A page has 64 lines of 64 bytes. While there is a point, each store of the guest, and
 * each of the library and the host for it, notes its line's number, whatever the page: an
 * offset in a page is the same in linear and physical addresses, so that nothing needs to
 * be looked up. What no run has written in any page is as it was in all of them.
 *
 * Stores of translated code are seen where the translator notes them down: before each it
 * gets what stores a byte here. Translations from before there was a point have no such
 * thing, so vmm_point_take throws them away. Stores of the library's own helpers all come
 * through cpu_st*_mmuidx_ra, or (page tables) through mmu.c. What compares and exchanges on
 * several processors at once writes by itself, and is never asked for.
 *
 * A store of translated code that is wider than a byte is noted apart: it may go on in the
 * line behind its first one, or in the next page's first line.
 */
#define _GNU_SOURCE
#include <emmintrin.h>
#include <string.h>

#include "engine.h"

/* TCGOpcode */
#define OP_ST8_I64 0x4a
#define OP_QEMU_ST_I32 0x86
#define OP_QEMU_ST_I64 0x88

/* TCGMemOpIdx: where log2 of the size is */
#define OI_SIZE 4

#define TCG_TYPE_I64 1
#define LINE_SHIFT 6
/* From as many lines on it's cheaper to copy the page as a whole. */
#define LINES_MANY 40

_Static_assert(LINES << LINE_SHIFT == VMM_PAGE, "a page is made of lines");

/* A store of this many bytes at a flat or linear address. */
void lines_mark(struct vmm *vm, u64 address, u64 length)
{
	u64 first = address >> LINE_SHIFT, last = (address + length - 1) >> LINE_SHIFT;

	if (last - first >= LINES) {
		memset(vm->lines.written, LINE_WRITTEN, LINES);
		return;
	}
	for (; first <= last; first++)
		vm->lines.written[first % LINES] = LINE_WRITTEN;
}

/* A bit for each line that is noted; none is any more. */
static inline u64 take(u8 *noted)
{
	u64 mask = 0;

	for (u32 i = 0; i < LINES; i += sizeof(__m128i)) {
		__m128i *place = (__m128i *)(noted + i);

		mask |= (u64)_mm_movemask_epi8(_mm_loadu_si128(place)) << i;
		_mm_storeu_si128(place, _mm_setzero_si128());
	}
	return mask;
}

/* The lines that were written since the last time. */
void lines_take(struct vmm *vm, struct lines *lines)
{
	u64 wide = take(vm->lines.written_wide);
	u64 mask = take(vm->lines.written) | wide | wide << 1 | wide >> (LINES - 1);

	lines->count = 0;
	for (; mask; mask &= mask - 1)
		lines->at[lines->count++] = (u32)__builtin_ctzll(mask) << LINE_SHIFT;
	lines->whole = lines->count >= LINES_MANY;
}

/* ------------------------------------------------------------------ translation */

/* Translated code that stores 0xff to a byte of ours. */
void lines_note(struct vmm *vm, u8 *place)
{
	void *tcg = FIELD(vm->uc, UC_TCG, void *);
	s64 address = tcg_const_i64_x86_64(tcg, (s64)place);
	s64 written = tcg_const_i64_x86_64(tcg, LINE_WRITTEN);

	original.gen_op3(tcg, OP_ST8_I64, (u64)tcg + written, (u64)tcg + address, 0);
	tcg_temp_free_internal_x86_64(tcg, (char *)tcg + written);
	tcg_temp_free_internal_x86_64(tcg, (char *)tcg + address);
}

/* Translated code that notes the line of a store to come. */
static void note_store(void *tcg, char *address, u8 *noted)
{
	char *place = original.temp_new(tcg, TCG_TYPE_I64, false);
	s64 at = place - (char *)tcg; /* how the translator names a variable */
	s64 written = tcg_const_i64_x86_64(tcg, LINE_WRITTEN);

	tcg_gen_shri_i64_x86_64(tcg, at, address - (char *)tcg, LINE_SHIFT);
	tcg_gen_andi_i64_x86_64(tcg, at, at, LINES - 1);
	tcg_gen_addi_i64_x86_64(tcg, at, at, (s64)noted);
	original.gen_op3(tcg, OP_ST8_I64, (u64)tcg + written, (u64)place, 0);
	tcg_temp_free_internal_x86_64(tcg, (char *)tcg + written);
	tcg_temp_free_internal_x86_64(tcg, place);
}

INTERPOSED void tcg_gen_op3_x86_64(void *tcg, int op, u64 first, u64 second, u64 third)
{
	struct vmm *vm = current;

	if ((op == OP_QEMU_ST_I32 || op == OP_QEMU_ST_I64) && vm && vm->point)
		note_store(tcg, (char *)second,
			   third >> OI_SIZE & 3 ? vm->lines.written_wide : vm->lines.written);
	original.gen_op3(tcg, op, first, second, third);
}

/* ---------------------------------------------------------- the library's helpers */

static inline void mark_store(u64 address, u32 size)
{
	struct vmm *vm = current;

	if (vm && vm->point)
		lines_mark(vm, address, size);
}

INTERPOSED void cpu_stb_mmuidx_ra_x86_64(void *env, u64 address, u32 value, int mmu,
					 uintptr_t ra)
{
	mark_store(address, 1);
	original.stb_mmuidx(env, address, value, mmu, ra);
}

INTERPOSED void cpu_stw_mmuidx_ra_x86_64(void *env, u64 address, u32 value, int mmu,
					 uintptr_t ra)
{
	mark_store(address, 2);
	original.stw_mmuidx(env, address, value, mmu, ra);
}

INTERPOSED void cpu_stl_mmuidx_ra_x86_64(void *env, u64 address, u32 value, int mmu,
					 uintptr_t ra)
{
	mark_store(address, 4);
	original.stl_mmuidx(env, address, value, mmu, ra);
}

INTERPOSED void cpu_stq_mmuidx_ra_x86_64(void *env, u64 address, u64 value, int mmu,
					 uintptr_t ra)
{
	mark_store(address, 8);
	original.stq_mmuidx(env, address, value, mmu, ra);
}
