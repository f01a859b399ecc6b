/* SPDX-License-Identifier: ISC */
/*
 * check.c: is the loaded libunicorn the one this engine is made for?
 *
 * Three proofs, once a process: the version; the bindings (bind.c); and the
 * public API's registers at the offsets of layout.h, on a scratch engine.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "engine.h"

#define INSTALL "install Debian 12's package libunicorn2, version 2.0.1"
#define WANTED_VERSION 0x020001u /* without the fourth number */

static int fail(char *why, size_t size, const char *format, ...)
{
	va_list list;
	size_t used;

	va_start(list, format);
	vsnprintf(why, size, format, list);
	va_end(list);
	used = strlen(why);
	snprintf(why + used, size - used, "; " INSTALL ".");
	return -ENOTSUP;
}

/* ---------------------------------------------------------------------- layout */

static const int general[16] = {
	UC_X86_REG_RAX, UC_X86_REG_RCX, UC_X86_REG_RDX, UC_X86_REG_RBX,
	UC_X86_REG_RSP, UC_X86_REG_RBP, UC_X86_REG_RSI, UC_X86_REG_RDI,
	UC_X86_REG_R8,	UC_X86_REG_R9,	UC_X86_REG_R10, UC_X86_REG_R11,
	UC_X86_REG_R12, UC_X86_REG_R13, UC_X86_REG_R14, UC_X86_REG_R15,
};

/* Does a write of the register by the public API arrive at `place`? */
static bool same(uc_engine *uc, int reg, u64 value, const void *place, size_t size)
{
	u64 wide[8] = { value, 0x3344 };

	uc_reg_write(uc, reg, wide);
	return memcmp(place, &value, size) == 0;
}

static bool same_table(uc_engine *uc, int reg, void *env, u32 offset)
{
	uc_x86_mmr table = { .selector = 0x28, .base = 0xabcdef, .limit = 0x77,
			     .flags = 0x8b00 };
	struct segment *segment = &FIELD(env, offset, struct segment);

	uc_reg_write(uc, reg, &table);
	return segment->base == 0xabcdef && segment->limit == 0x77;
}

static bool same_msr(uc_engine *uc, u32 index, void *env, u32 offset)
{
	uc_x86_msr msr = { .rid = index, .value = 0x7000000012345678ull ^ index };

	if (index == 0x174)
		msr.value = 0x1234;
	uc_reg_write(uc, UC_X86_REG_MSR, &msr);
	return FIELD(env, offset, u64) == msr.value;
}

/* The first thing that isn't where layout.h has it, or NULL. */
static const char *find_moved(uc_engine *uc)
{
	void *cs, *env;
	u64 rip;

	uc_reg_read(uc, UC_X86_REG_RIP, &rip); /* makes the CPU, which is lazy */
	cs = FIELD(uc, UC_CPU, void *);
	env = env_of(cs);
	if (FIELD(cs, CS_ENV_PTR, void *) != env || FIELD(env, ENV_UC, void *) != uc ||
	    FIELD(cs, CS_UC, void *) != uc)
		return "the CPU";
	for (int i = 0; i < 16; i++)
		if (!same(uc, general[i], 0x1111111111111111ull * i + 7, &REG(env, i), 8))
			return "a general register";
	if (!same(uc, UC_X86_REG_FS_BASE, 0x123456781234, &SEG(env, SEG_FS)->base, 8) ||
	    !same(uc, UC_X86_REG_GS_BASE, 0x123456785678, &SEG(env, SEG_GS)->base, 8))
		return "a segment base";
	if (!same_table(uc, UC_X86_REG_TR, env, ENV_TR) ||
	    !same_table(uc, UC_X86_REG_LDTR, env, ENV_LDT) ||
	    !same_table(uc, UC_X86_REG_GDTR, env, ENV_GDT) ||
	    !same_table(uc, UC_X86_REG_IDTR, env, ENV_IDT))
		return "a descriptor table register";
	if (!same(uc, UC_X86_REG_CR3, 0x5000, &CR(env, 3), 8) ||
	    !same(uc, UC_X86_REG_CR2, 0x777, &CR(env, 2), 8))
		return "a control register";
	if (!same(uc, UC_X86_REG_MXCSR, 0x1fa0, (char *)env + ENV_MXCSR, 4) ||
	    !same(uc, UC_X86_REG_FPCW, 0x27f, (char *)env + ENV_FPUC, 2) ||
	    !same(uc, UC_X86_REG_XMM3, 0x1122, (char *)env + ENV_XMM + 64 * 3, 8))
		return "the FPU";
	if (!same_msr(uc, 0x174, env, ENV_SYSENTER_CS) ||
	    !same_msr(uc, 0x175, env, ENV_SYSENTER_ESP) ||
	    !same_msr(uc, 0x176, env, ENV_SYSENTER_EIP) ||
	    !same_msr(uc, 0xc0000081, env, ENV_STAR) ||
	    !same_msr(uc, 0xc0000082, env, ENV_LSTAR) ||
	    !same_msr(uc, 0xc0000083, env, ENV_CSTAR) ||
	    !same_msr(uc, 0xc0000084, env, ENV_FMASK) ||
	    !same_msr(uc, 0xc0000102, env, ENV_KERNELGSBASE) ||
	    !same_msr(uc, 0x277, env, ENV_PAT))
		return "a model-specific register";
	if ((HFLAGS(env) & 0xc0b0) != 0xc0b0 || FEATURE(env, FEATURE_1_ECX) != 0x02182200 ||
	    !(FEATURE(env, FEATURE_EXT_EDX) >> 29 & 1))
		return "the CPU's flags";
	if (!same(uc, UC_X86_REG_RIP, 0x4242, &EIP(env), 8))
		return "the instruction pointer";
	return NULL;
}

struct seen {
	void *env;
	bool right;
};

static void on_interrupt(uc_engine *uc, u32 vector, void *data)
{
	struct seen *seen = data;
	void *env = seen->env;

	seen->right = vector == 0x55 &&
		      FIELD(cs_of(env), CS_EXCEPTION_INDEX, u32) == vector &&
		      FIELD(env, ENV_EXCEPTION_IS_INT, u32) == 1 &&
		      FIELD(env, ENV_EXCEPTION_NEXT_EIP, u64) == 0x2;
	uc_emu_stop(uc);
}

/* Runs INT 0x55 and looks at what the library notes of it. */
static bool exceptions_are_right(uc_engine *uc, u8 *page)
{
	struct seen seen = { .env = env_of(FIELD(uc, UC_CPU, void *)) };
	uc_hook hook;
	u64 cr0 = 0;

	page[0] = 0xcd;
	page[1] = 0x55;
	uc_reg_write(uc, UC_X86_REG_CR0, &cr0);
	uc_mem_map_ptr(uc, 0, VMM_PAGE, UC_PROT_ALL, page);
	uc_hook_add(uc, &hook, UC_HOOK_INTR, (void *)on_interrupt, &seen, 1, 0);
	uc_emu_start(uc, 0, 0x800, 0, 0);
	return seen.right;
}

static int check_layout(char *why, size_t size)
{
	struct vmm *before = current;
	const char *moved = NULL;
	uc_engine *uc;
	u8 *page;

	page = mmap(NULL, VMM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return -ENOMEM;
	current = NULL;
	if (uc_open(UC_ARCH_X86, UC_MODE_64, &uc) != UC_ERR_OK) {
		moved = "its engine (it doesn't open)";
	} else {
		moved = find_moved(uc);
		if (!moved && !exceptions_are_right(uc, page))
			moved = "the exception state";
		uc_close(uc);
	}
	current = before;
	munmap(page, VMM_PAGE);
	if (moved)
		return fail(why, size, "libunicorn keeps %s elsewhere", moved);
	return 0;
}

/* --------------------------------------------------------------------- verdict */

static int check(char *why, size_t size)
{
	unsigned int version = uc_version(NULL, NULL);
	char text[120];
	const char *unbound;

	if (version >> 8 != WANTED_VERSION)
		return fail(why, size, "libunicorn is version %u.%u.%u", version >> 24,
			    (version >> 16) & 255, (version >> 8) & 255);
	unbound = bind_check(text, sizeof(text));
	if (unbound)
		return fail(why, size, "%s", unbound);
	return check_layout(why, size);
}

/* 0, or -errno and a sentence. The first call's verdict is the process's. */
int engine_check(char *why, size_t size)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static char sentence[200];
	static bool done;
	static int verdict;

	pthread_mutex_lock(&lock);
	if (!done) {
		verdict = check(sentence, sizeof(sentence));
		done = true;
	}
	pthread_mutex_unlock(&lock);
	if (verdict < 0)
		snprintf(why, size, "%s", sentence);
	return verdict;
}
