/* SPDX-License-Identifier: ISC */
/*
 * vmd-fuzz.h: how a program in a guest talks to `vctl fuzz`: by port 0x5f0, at any
 * privilege that may use it (Linux: a kernel, or a process after iopl(3)).
 *
 *	static char buffer[4096];
 *	size_t length = vmd_fuzz_ready(buffer, sizeof(buffer));
 *	parse(buffer, length);
 *	vmd_fuzz_done();
 *
 * Each run begins where vmd_fuzz_ready returns, with another input in the buffer, and
 * with everything else as it was there. The buffer's pages must exist: write to them
 * before. Without a fuzzer nothing answers, and the buffer stays what it is.
 */
#ifndef VMD_FUZZ_H
#define VMD_FUZZ_H

#include <stddef.h>

#define VMD_FUZZ_PORT 0x5f0

enum vmd_fuzz_command { VMD_FUZZ_READY = 1, VMD_FUZZ_DONE = 2, VMD_FUZZ_CRASH = 3, VMD_FUZZ_CRASH_AT = 4 };

/* An input of at most `size` bytes is wanted. Returns its length. */
static inline size_t vmd_fuzz_ready(void *buffer, size_t size)
{
	__asm__ volatile("outl %%eax, %%dx"
			 : "+c"(size)
			 : "a"(VMD_FUZZ_READY), "d"(VMD_FUZZ_PORT), "b"(buffer)
			 : "memory");
	return size;
}

/* The input is used up: this run is over. */
static inline void vmd_fuzz_done(void)
{
	__asm__ volatile("outl %%eax, %%dx" : : "a"(VMD_FUZZ_DONE), "d"(VMD_FUZZ_PORT) : "memory");
}

/* Here is what was to be found; `code` says what. */
static inline void vmd_fuzz_crash(unsigned long code)
{
	__asm__ volatile("outl %%eax, %%dx"
			 :
			 : "a"(VMD_FUZZ_CRASH), "d"(VMD_FUZZ_PORT), "b"(code)
			 : "memory");
}

/* The same, from a handler: it happened at `rip`, whose frame pointer was `rbp`. */
static inline void vmd_fuzz_crash_at(unsigned long code, unsigned long rip, unsigned long rbp)
{
	__asm__ volatile("outl %%eax, %%dx"
			 :
			 : "a"(VMD_FUZZ_CRASH_AT), "d"(VMD_FUZZ_PORT), "b"(code), "S"(rip), "D"(rbp)
			 : "memory");
}

#endif
