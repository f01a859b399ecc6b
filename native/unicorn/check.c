/* SPDX-License-Identifier: ISC */
/*
 * check.c: is the loaded libunicorn the one this engine is made for?
 *
 * Three proofs, once a process: the version; the public API's registers at the
 * offsets of layout.h, on a scratch engine; and, in the library's own
 * relocations, that its calls of each interposed function come to us.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "engine.h"

#define INSTALL "install Debian 12's package libunicorn2, version 2.0.1"
#define WANTED_VERSION 0x020001u /* without the fourth number */

struct originals original;

/* Names that must be ours, and where the library's own goes (or NULL). */
static const struct {
	const char *name;
	void **original;
} interposed[] = {
	{ "memory_mapping", (void **)&original.memory_mapping },
	{ "x86_cpu_tlb_fill_x86_64", (void **)&original.tlb_fill },
	{ "tlb_set_page_with_attrs_x86_64", (void **)&original.set_page },
	{ "tb_invalidate_phys_page_fast_x86_64", (void **)&original.invalidate_page_fast },
	{ "tlb_protect_code_x86_64", (void **)&original.tlb_protect_code },
	{ "tlb_unprotect_code_x86_64", (void **)&original.tlb_unprotect_code },
	{ "tb_flush_x86_64", (void **)&original.tb_flush },
	{ "helper_raise_interrupt_x86_64", (void **)&original.raise_interrupt },
	{ "helper_write_crN_x86_64", (void **)&original.write_cr },
	{ "helper_read_crN_x86_64", (void **)&original.read_cr },
	{ "helper_set_dr_x86_64", (void **)&original.set_dr },
	{ "x86_cpu_exec_interrupt_x86_64", (void **)&original.exec_interrupt },
	{ "x86_ldq_phys_x86_64", (void **)&original.ldq_phys },
	{ "x86_ldl_phys_x86_64", (void **)&original.ldl_phys },
	{ "x86_stl_phys_notdirty_x86_64", (void **)&original.stl_phys_notdirty },
	{ "x86_stq_phys_x86_64", (void **)&original.stq_phys },
	{ "memory_region_dispatch_read_x86_64", (void **)&original.dispatch_read },
	{ "memory_region_dispatch_write_x86_64", (void **)&original.dispatch_write },
	{ "qemu_system_reset_request", (void **)&original.reset_request },
	{ "check_exit_request_x86_64", NULL },
	{ "helper_hlt_x86_64", NULL },
	{ "helper_mwait_x86_64", NULL },
	{ "helper_pause_x86_64", NULL },
	{ "helper_debug_x86_64", NULL },
	{ "helper_cpuid_x86_64", NULL },
	{ "helper_syscall_x86_64", NULL },
	{ "helper_sysenter_x86_64", NULL },
	{ "helper_rdmsr_x86_64", (void **)&original.rdmsr },
	{ "helper_wrmsr_x86_64", (void **)&original.wrmsr },
	{ "helper_rdtsc_x86_64", NULL },
	{ "helper_inb_x86_64", NULL },
	{ "helper_inw_x86_64", NULL },
	{ "helper_inl_x86_64", NULL },
	{ "helper_outb_x86_64", NULL },
	{ "helper_outw_x86_64", NULL },
	{ "helper_outl_x86_64", NULL },
};

#define INTERPOSED_COUNT (sizeof(interposed) / sizeof(interposed[0]))

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

/* ----------------------------------------------------------------- relocations */

#define HASH_SIZE 1024u

/* What of a loaded library is needed, found by an address inside it. */
struct library {
	u64 inside;
	u64 start, end; /* the segment around `inside` */
	u64 base;
	const ElfW(Sym) *symbols;
	const ElfW(Rela) *tables[2];
	size_t counts[2];
};

static void read_dynamic(struct library *library, const ElfW(Dyn) *dynamic)
{
	for (; dynamic->d_tag != DT_NULL; dynamic++) {
		const void *address = (const void *)dynamic->d_un.d_ptr;
		size_t entries = dynamic->d_un.d_val / sizeof(ElfW(Rela));

		if (dynamic->d_tag == DT_SYMTAB)
			library->symbols = address;
		else if (dynamic->d_tag == DT_JMPREL)
			library->tables[0] = address;
		else if (dynamic->d_tag == DT_PLTRELSZ)
			library->counts[0] = entries;
		else if (dynamic->d_tag == DT_RELA)
			library->tables[1] = address;
		else if (dynamic->d_tag == DT_RELASZ)
			library->counts[1] = entries;
	}
}

static int find_library(struct dl_phdr_info *info, size_t size, void *data)
{
	struct library *library = data;
	const ElfW(Dyn) *dynamic = NULL;
	bool found = false;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *header = &info->dlpi_phdr[i];
		u64 start = info->dlpi_addr + header->p_vaddr;

		if (header->p_type == PT_DYNAMIC)
			dynamic = (const void *)start;
		if (header->p_type != PT_LOAD || library->inside - start >= header->p_memsz)
			continue;
		found = true;
		library->start = start;
		library->end = start + header->p_memsz;
	}
	if (!found || !dynamic)
		return 0;
	library->base = info->dlpi_addr;
	read_dynamic(library, dynamic);
	return 1;
}

struct binding {
	u64 address; /* of the library's own function */
	u32 index;   /* into interposed[], plus 1; 0 = free */
};

static struct binding *binding_of(struct binding *table, u64 address)
{
	u32 i = (address >> 4) % HASH_SIZE;

	while (table[i].index && table[i].address != address)
		i = (i + 1) % HASH_SIZE;
	return &table[i];
}

/* The library's name for the first function that doesn't come to us, or NULL. */
static const char *find_unbound(const struct library *library, const struct library *self,
				struct binding *table)
{
	u8 bound[INTERPOSED_COUNT] = { 0 };

	for (int t = 0; t < 2; t++) {
		for (size_t i = 0; i < library->counts[t]; i++) {
			const ElfW(Rela) *rela = &library->tables[t][i];
			u32 symbol = ELF64_R_SYM(rela->r_info);
			struct binding *binding;
			u64 target, own;

			if (!symbol)
				continue;
			own = library->base + library->symbols[symbol].st_value;
			binding = binding_of(table, own);
			if (!binding->index)
				continue;
			target = *(u64 *)(library->base + rela->r_offset);
			if (target >= self->start && target < self->end)
				bound[binding->index - 1] = 1;
			else if (target == own || target < library->start ||
				 target >= library->end)
				return interposed[binding->index - 1].name;
			else /* a PLT slot not used yet */
				bound[binding->index - 1] = 1;
		}
	}
	for (u32 i = 0; i < INTERPOSED_COUNT; i++)
		if (!bound[i])
			return interposed[i].name;
	return NULL;
}

static int check_bindings(char *why, size_t size)
{
	struct library library = { 0 }, self = { .inside = (u64)engine_check };
	static struct binding table[HASH_SIZE];
	const char *unbound;

	for (u32 i = 0; i < INTERPOSED_COUNT; i++) {
		void *own = dlsym(RTLD_NEXT, interposed[i].name);
		struct binding *binding;

		if (!own)
			return fail(why, size, "libunicorn has no function %s",
				    interposed[i].name);
		if (interposed[i].original)
			*interposed[i].original = own;
		binding = binding_of(table, (u64)own);
		binding->address = (u64)own;
		binding->index = i + 1;
		library.inside = (u64)own;
	}
	if (!dl_iterate_phdr(find_library, &self) || !dl_iterate_phdr(find_library, &library) ||
	    !library.symbols || !library.tables[0] || !library.tables[1])
		return fail(why, size, "libunicorn's relocations can't be read");
	unbound = find_unbound(&library, &self, table);
	if (unbound)
		return fail(why, size, "libunicorn calls its own %s, not the engine's",
			    unbound);
	return 0;
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
	int result;

	if (version >> 8 != WANTED_VERSION)
		return fail(why, size, "libunicorn is version %u.%u.%u", version >> 24,
			    (version >> 16) & 255, (version >> 8) & 255);
	result = check_bindings(why, size);
	return result < 0 ? result : check_layout(why, size);
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
