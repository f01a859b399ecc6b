/* SPDX-License-Identifier: ISC */
/*
 * altstack.so, preloaded behind AddressSanitizer's library when tests run on a build with
 * it. Before every longjmp AddressSanitizer clears its marks of the signal stack and insists
 * that this begins on a multiple of eight; Bun gives its main thread one that doesn't.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

int sigaltstack(const stack_t *restrict ss, stack_t *restrict old_ss)
{
	stack_t aligned;

	if (ss != NULL && (ss->ss_flags & SS_DISABLE) == 0) {
		uintptr_t start = ((uintptr_t)ss->ss_sp + 15) & ~(uintptr_t)15;
		uintptr_t lost = start - (uintptr_t)ss->ss_sp;

		aligned = *ss;
		aligned.ss_sp = (void *)start;
		aligned.ss_size = lost < ss->ss_size ? (ss->ss_size - lost) & ~(size_t)15 : 0;
		ss = &aligned;
	}
	return (int)syscall(SYS_sigaltstack, ss, old_ss);
}
