/* SPDX-License-Identifier: ISC */
/*
 * bind.c: do the library's calls of the interposed functions come to us?
 *
 * Read from its own relocations, which the dynamic linker has all resolved
 * (libunicorn is linked with -z now). The same walk puts our functions in place
 * of abort and its like, which the process's libc would otherwise keep: some of
 * the translator's are within a guest's reach (abort.c).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "engine.h"

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
	{ "tb_gen_code_x86_64", (void **)&original.tb_gen_code },
	{ "translator_loop_x86_64", (void **)&original.translator_loop },
	{ "tcg_temp_new_internal_x86_64", (void **)&original.temp_new },
	{ "tcg_gen_op3_x86_64", (void **)&original.gen_op3 },
	{ "cpu_stb_mmuidx_ra_x86_64", (void **)&original.stb_mmuidx },
	{ "cpu_stw_mmuidx_ra_x86_64", (void **)&original.stw_mmuidx },
	{ "cpu_stl_mmuidx_ra_x86_64", (void **)&original.stl_mmuidx },
	{ "cpu_stq_mmuidx_ra_x86_64", (void **)&original.stq_mmuidx },
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
	{ "cpu_abort_x86_64", NULL },
	{ "g_assertion_message_expr", NULL },
	{ "helper_hlt_x86_64", NULL },
	{ "helper_mwait_x86_64", NULL },
	{ "helper_pause_x86_64", NULL },
	{ "helper_debug_x86_64", NULL },
	{ "cpu_watchpoint_address_matches_x86_64", NULL },
	{ "cpu_check_watchpoint_x86_64", NULL },
	{ "helper_cpuid_x86_64", NULL },
	{ "helper_syscall_x86_64", NULL },
	{ "helper_sysenter_x86_64", NULL },
	{ "helper_rdmsr_x86_64", (void **)&original.rdmsr },
	{ "helper_wrmsr_x86_64", (void **)&original.wrmsr },
	{ "helper_ldmxcsr_x86_64", (void **)&original.ldmxcsr },
	{ "helper_pcmpestri_xmm_x86_64", (void **)&original.pcmpestri },
	{ "helper_pcmpestrm_xmm_x86_64", (void **)&original.pcmpestrm },
	{ "helper_pcmpistri_xmm_x86_64", (void **)&original.pcmpistri },
	{ "helper_pcmpistrm_xmm_x86_64", (void **)&original.pcmpistrm },
	{ "helper_cmpxchg8b_x86_64", (void **)&original.cmpxchg8b },
	{ "helper_cmpxchg8b_unlocked_x86_64", (void **)&original.cmpxchg8b_unlocked },
	{ "helper_cmpxchg16b_x86_64", (void **)&original.cmpxchg16b },
	{ "helper_cmpxchg16b_unlocked_x86_64", (void **)&original.cmpxchg16b_unlocked },
	{ "helper_rclb_x86_64", (void **)&original.rclb },
	{ "helper_rclw_x86_64", (void **)&original.rclw },
	{ "helper_rcll_x86_64", (void **)&original.rcll },
	{ "helper_rclq_x86_64", (void **)&original.rclq },
	{ "helper_rcrb_x86_64", (void **)&original.rcrb },
	{ "helper_rcrw_x86_64", (void **)&original.rcrw },
	{ "helper_rcrl_x86_64", (void **)&original.rcrl },
	{ "helper_rcrq_x86_64", (void **)&original.rcrq },
	{ "cpu_ldl_code_x86_64", (void **)&original.ldl_code },
	{ "helper_rdtsc_x86_64", NULL },
	{ "helper_rdpmc_x86_64", NULL },
	{ "helper_inb_x86_64", NULL },
	{ "helper_inw_x86_64", NULL },
	{ "helper_inl_x86_64", NULL },
	{ "helper_outb_x86_64", NULL },
	{ "helper_outw_x86_64", NULL },
	{ "helper_outl_x86_64", NULL },
};

#define INTERPOSED_COUNT (sizeof(interposed) / sizeof(interposed[0]))

#define HASH_SIZE 1024u

/* What of a loaded library is needed, found by an address inside it. */
struct library {
	u64 inside;
	u64 start, end; /* the segment around `inside` */
	u64 base;
	const ElfW(Sym) *symbols;
	const char *strings;
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
		else if (dynamic->d_tag == DT_STRTAB)
			library->strings = address;
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
			else
				return interposed[binding->index - 1].name;
		}
	}
	for (u32 i = 0; i < INTERPOSED_COUNT; i++)
		if (!bound[i])
			return interposed[i].name;
	return NULL;
}

static void replace_slot(u64 *slot, void *function)
{
	void *page = (void *)((u64)slot & ~(u64)(VMM_PAGE - 1));

	/* Read-only after relocation, so make it writable for the moment. */
	if (mprotect(page, VMM_PAGE, PROT_READ | PROT_WRITE) < 0)
		return;
	*slot = (u64)function;
	mprotect(page, VMM_PAGE, PROT_READ);
}

static const struct {
	const char *name;
	void *ours;
} replaced[] = {
	{ "abort", abort_guest },
	{ "__assert_fail", abort_assert },
	{ "__fprintf_chk", abort_fprintf },
	{ "fwrite", abort_fwrite },
};

static void replace_aborts(const struct library *library)
{
	for (size_t i = 0; i < library->counts[0]; i++) {
		const ElfW(Rela) *rela = &library->tables[0][i];
		const ElfW(Sym) *symbol = &library->symbols[ELF64_R_SYM(rela->r_info)];
		u64 *slot = (u64 *)(library->base + rela->r_offset);

		if (symbol->st_shndx != SHN_UNDEF)
			continue;
		for (u32 r = 0; r < sizeof(replaced) / sizeof(replaced[0]); r++)
			if (strcmp(library->strings + symbol->st_name, replaced[r].name) == 0)
				replace_slot(slot, replaced[r].ours);
	}
}

/* NULL, or what is wrong. Fills `original`. */
const char *bind_check(char *text, size_t size)
{
	struct library library = { 0 }, self = { .inside = (u64)bind_check };
	static struct binding table[HASH_SIZE];
	const char *unbound;

	for (u32 i = 0; i < INTERPOSED_COUNT; i++) {
		void *own = dlsym(RTLD_NEXT, interposed[i].name);
		struct binding *binding;

		if (!own) {
			snprintf(text, size, "libunicorn has no function %s",
				 interposed[i].name);
			return text;
		}
		if (interposed[i].original)
			*interposed[i].original = own;
		binding = binding_of(table, (u64)own);
		binding->address = (u64)own;
		binding->index = i + 1;
		library.inside = (u64)own;
	}
	if (!dl_iterate_phdr(find_library, &self) || !dl_iterate_phdr(find_library, &library) ||
	    !library.symbols || !library.tables[0] || !library.tables[1])
		return "libunicorn's relocations can't be read";
	unbound = find_unbound(&library, &self, table);
	if (unbound) {
		snprintf(text, size, "libunicorn calls its own %s, not the engine's", unbound);
		return text;
	}
	replace_aborts(&library);
	return NULL;
}
