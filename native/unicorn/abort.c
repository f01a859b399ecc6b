/* SPDX-License-Identifier: ISC */
/*
 * abort.c: where the library would end the process because of its guest.
 *
 * The translator does so for a few encodings that a processor refuses (a far
 * call through a register): the block is translated again one instruction at a
 * time, and the one that fails gets its #UD. Elsewhere the guest ends:
 * KVM_EXIT_INTERNAL_ERROR, with 1 << 16 in place of a uc_err; so it does when the
 * library finds its lists of blocks broken, at whatever, and these are dropped
 * before anything looks at them again. What the library has to say about it
 * would fill a log at the guest's will, and is dropped. Outside vmm_run the same
 * holds for vmm_written.
 *
 * bind.c puts these in place of libc's functions, in the library alone.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

#define VECTOR_UD 6
#define LISTS "/translate-all.c" /* where the library keeps its blocks in lists */

static void end_guest(struct vmm *vm)
{
	vm->stop = STOP_ERROR;
	vm->error = 1u << 16;
	vm->attention = 1;
}

void abort_guest(void)
{
	struct vmm *vm = current;

	if (vm && vm->escape) {
		vm->code_broken = true;
		end_guest(vm);
		_longjmp(*vm->escape, 1);
	}
	if (!vm || !vm->running)
		abort();
	if (vm->code_broken) {
		vm->translating = TRANSLATING_NOT;
		end_guest(vm);
	} else if (vm->translating == TRANSLATING_ONE) {
		vm->translating = TRANSLATING_NOT;
		engine_fault(vm->env, VECTOR_UD, 0, 0);
	} else if (vm->translating == TRANSLATING_BLOCK) {
		FIELD(vm->cs, CS_CFLAGS_NEXT_TB, u32) = 1;
	} else {
		end_guest(vm);
	}
	cpu_loop_exit_noexc_x86_64(vm->cs);
}

INTERPOSED void cpu_abort_x86_64(void *cs, const char *format, ...)
{
	(void)cs, (void)format;
	abort_guest();
}

INTERPOSED void g_assertion_message_expr(const char *domain, const char *file, int line,
					 const char *function, const char *expression)
{
	size_t length = strlen(file), expected = strlen(LISTS);

	(void)domain, (void)line, (void)function, (void)expression;
	if (current && length >= expected && !strcmp(file + length - expected, LISTS))
		current->code_broken = true;
	abort_guest();
}

void abort_assert(const char *expression, const char *file, u32 line,
		      const char *function)
{
	(void)expression, (void)file, (void)line, (void)function;
	abort_guest();
}

int abort_fprintf(FILE *file, int flag, const char *format, ...)
{
	va_list list;
	int result;

	(void)flag;
	if (current && (current->running || current->escape))
		return 0;
	va_start(list, format);
	result = vfprintf(file, format, list);
	va_end(list);
	return result;
}

size_t abort_fwrite(const void *data, size_t size, size_t count, FILE *file)
{
	if (current && (current->running || current->escape))
		return count;
	return fwrite(data, size, count, file);
}
