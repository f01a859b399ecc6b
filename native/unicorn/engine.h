/* SPDX-License-Identifier: ISC */
/*
 * engine.h: what the files of the Unicorn engine share.
 *
 * libunicorn calls its own functions through the PLT, so a function of the
 * same name in this library takes the place of the library's (DT_NEEDED puts
 * us first in lookup order). Those functions are marked INTERPOSED; the one
 * replaced is in struct originals.
 *
 * Time and stacks: the guest runs on a stack of its own. An exit switches to
 * the stack of vmm_run's caller, the next vmm_run switches back. The engine is
 * then either parked (in x86_cpu_exec_interrupt, between two instructions, all
 * state in env) or inside an instruction (port, MMIO, MSR) that waits for its
 * answer.
 */
#ifndef VMM_UNICORN_ENGINE_H
#define VMM_UNICORN_ENGINE_H

#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unicorn/unicorn.h>

#include "kick.h"
#include "layout.h"
#include "point.h"
#include "vmm.h"
#include "vmm_fuzz.h"

#define INTERPOSED __attribute__((visibility("default")))
#define HOT_TLS __thread __attribute__((tls_model("initial-exec")))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define CALLER ((uintptr_t)__builtin_return_address(0))

#define RUN_SIZE (3 * VMM_PAGE)
#define IO_DATA_OFFSET VMM_PAGE
#define STACK_SIZE (1u << 20)
#define CPUID_MAX 100

/* Flat addresses above this are no memory: 44 bits of physical address. */
#define MMIO_WINDOW (1ull << 46)
#define MMIO_WINDOW_SIZE (1ull << 44)

/* A slot, and where it lies in the engine's flat space. */
struct slot {
	u64 gpa;
	u64 size;
	u8 *host;
	u64 flat;
	bool readonly;
};

/* Why the engine handed over the processor. */
enum place {
	PLACE_PARKED,	   /* between two instructions */
	PLACE_INSTRUCTION, /* inside one, waiting for an answer */
};

/* An exit to report at the next stop between instructions. */
enum stop {
	STOP_NONE,
	STOP_HLT,
	STOP_SHUTDOWN,
	STOP_ERROR,
	STOP_DEBUG,
};

/* What the translator is at, to know what its failure means. */
enum translating {
	TRANSLATING_NOT,
	TRANSLATING_BLOCK,
	TRANSLATING_ONE, /* a single instruction */
};

struct breakpoints {
	u32 count;
	struct vmm_breakpoint list[VMM_MAX_BREAKPOINTS];
};

/* debugger.c's */
struct debugger {
	struct breakpoints wanted, set;
	bool changed;  /* ... between the two */
	bool stepping;
	bool started;  /* a block of one instruction is under way, */
	u64 from;      /* ... from here */
	u32 hit;       /* watchpoints, as bits of DR6 */
};

/* TranslatorOps (qemu/include/exec/translator.h): what translates a block. */
struct translator_ops {
	void (*init_disas_context)(void *db, void *cs);
	void *tb_start;
	void (*insn_start)(void *db, void *cs);
	void *breakpoint_check;
	void (*translate_insn)(void *db, void *cs);
	void *last[2];
};

struct vmm {
	uc_engine *uc;
	void *cs;
	void *env;
	struct kvm_run *run;
	struct vmm_clock *clock;

	/* Set, with the translated chain broken, when the engine should look
	 * at the fields below before it runs on; cleared by that look. */
	volatile u32 attention;
	volatile u32 leave; /* virtual time: the block hook breaks the chain */

	/* stacks */
	void *engine_sp;
	void *caller_sp;
	u8 *stack;
	void *sanitizer_caller, *sanitizer_engine;
	const void *caller_bottom;
	size_t caller_size;

	enum place place;
	uintptr_t return_address; /* host code of the waiting instruction */
	bool at_port;		  /* ... is IN or OUT */
	bool abandon;		  /* drop the waiting instruction, and park */
	bool dropped;		  /* drop it when the engine is entered; it counts as parked */
	enum translating translating;
	bool translating_step; /* for a debugger */
	bool code_broken; /* the library's lists of blocks can't be used */
	jmp_buf *escape;  /* from a call of the library while no guest runs */
	bool running; /* on the engine's stack */
	bool closing;
	bool finished;
	enum stop stop;
	u32 error;		  /* uc_err of STOP_ERROR */
	u32 halted;

	/* events */
	s64 interrupt;	 /* vector, -1 = none */
	bool nmi;
	s64 exception;	 /* vector to raise on entry, -1 = none */
	u32 exception_code;
	bool exception_has_code;
	u64 int_eip;	 /* where a software interrupt instruction is */
	bool int_set;

	/* memory */
	u32 slots;
	struct slot slot[VMM_MAX_SLOTS];
	u32 last_slot;
	u64 flat_size;
	u64 *dirty;	 /* a bit a flat page */
	u64 *code;
	u64 *touched;	 /* NULL: nobody asks */
	void *ram_region; /* MemoryRegion * that every address claims */
	struct point *point; /* NULL: none is taken */
	struct {
		/* While there is a point: LINE_WRITTEN for what has been since the last reset. */
		u8 written[LINES];
		u8 written_wide[LINES];
	} lines;
	u8 vector_written; /* likewise, registers of SSE */
	struct coverage *coverage; /* NULL: nothing is noted */
	int fill_access;

	/* registers that the library lacks */
	u64 apic_base;
	u64 cr8;
	u64 tsc_offset;
	u32 tsc_khz;
	u64 arch_capabilities;
	u64 old_dr[4];
	bool dr_changed; /* translations with the breakpoints must go */

	struct debugger debugger;

	u32 cpuid_count;
	struct kvm_cpuid_entry2 cpuid[CPUID_MAX];

	/* time */
	struct kick kick;
	u64 deadline_block;
	u64 break_block[VMM_BREAK_BLOCKS]; /* addresses */
	u32 break_blocks;
	bool break_met;
	bool break_passed; /* the block that comes is the one that was met */
	u64 budget_block; /* a run of a fuzzer ends there */
	u64 exception_block; /* `blocks` at the last exception */
	u32 exceptions; /* since then */
	bool virtual_time;
};

/* Our own names stay inside: libunicorn exports 30,000 others. */
#pragma GCC visibility push(hidden)

/* The engine whose guest this thread runs, or whose functions it calls. */
extern HOT_TLS struct vmm *current;

/* MMUAccessType */
enum { ACCESS_LOAD, ACCESS_STORE, ACCESS_FETCH };

/* The library's functions that ours replace. */
struct originals {
	void *(*memory_mapping)(void *, u64);
	bool (*tlb_fill)(void *, u64, int, int, int, bool, uintptr_t);
	void (*set_page)(void *, u64, u64, u32, int, int, u64);
	void (*invalidate_page_fast)(void *, void *, u64, int, uintptr_t);
	void (*tlb_protect_code)(void *, u64);
	void (*tlb_unprotect_code)(void *, u64);
	void (*tb_flush)(void *);
	void (*translator_loop)(const void *, void *, void *, void *, int);
	void *(*temp_new)(void *, int, bool);
	void *(*tb_gen_code)(void *, u64, u64, u32, u32);
	void (*gen_op3)(void *, int, u64, u64, u64);
	void (*stb_mmuidx)(void *, u64, u32, int, uintptr_t);
	void (*stw_mmuidx)(void *, u64, u32, int, uintptr_t);
	void (*stl_mmuidx)(void *, u64, u32, int, uintptr_t);
	void (*stq_mmuidx)(void *, u64, u64, int, uintptr_t);
	void (*raise_interrupt)(void *, int, int);
	void (*write_cr)(void *, int, u64);
	u64 (*read_cr)(void *, int);
	void (*set_dr)(void *, int, u64);
	bool (*exec_interrupt)(void *, int);
	u64 (*ldq_phys)(void *, u64);
	u32 (*ldl_phys)(void *, u64);
	void (*stl_phys_notdirty)(void *, u64, u32);
	void (*stq_phys)(void *, u64, u64);
	u32 (*dispatch_read)(void *, void *, u64, u64 *, u32, u32);
	u32 (*dispatch_write)(void *, void *, u64, u64, u32, u32);
	void (*reset_request)(void *);
	void (*rdmsr)(void *);
	void (*wrmsr)(void *);
	void (*ldmxcsr)(void *, u32);
	void (*pcmpestri)(void *, void *, void *, u32);
	void (*pcmpestrm)(void *, void *, void *, u32);
	void (*pcmpistri)(void *, void *, void *, u32);
	void (*pcmpistrm)(void *, void *, void *, u32);
	void (*cmpxchg8b)(void *, u64);
	void (*cmpxchg8b_unlocked)(void *, u64);
	void (*cmpxchg16b)(void *, u64);
	void (*cmpxchg16b_unlocked)(void *, u64);
	u64 (*rclb)(void *, u64, u64);
	u64 (*rclw)(void *, u64, u64);
	u64 (*rcll)(void *, u64, u64);
	u64 (*rclq)(void *, u64, u64);
	u64 (*rcrb)(void *, u64, u64);
	u64 (*rcrw)(void *, u64, u64);
	u64 (*rcrl)(void *, u64, u64);
	u64 (*rcrq)(void *, u64, u64);
	u32 (*ldl_code)(void *, u64);
};
extern struct originals original;

#pragma GCC visibility pop

/* Functions of the library that we call as they are. */
void x86_cpu_do_interrupt_x86_64(void *cs);
void do_interrupt_x86_hardirq_x86_64(void *env, int vector, int is_hw);
void raise_exception_err_ra_x86_64(void *env, int vector, int code, uintptr_t ra);
u64 helper_read_eflags_x86_64(void *env);
void helper_write_eflags_x86_64(void *env, u64 value, u32 mask);
void tlb_flush_x86_64(void *cs);
void tlb_reset_dirty_x86_64(void *cs, u64 host, u64 length);
void tb_invalidate_phys_range_x86_64(void *uc, u64 start, u64 end);
void cpu_loop_exit_noexc_x86_64(void *cs);
bool cpu_restore_state_x86_64(void *cs, uintptr_t ra, bool will_exit);
u32 cpu_lduw_mmuidx_ra_x86_64(void *env, u64 address, int mmu, uintptr_t ra);
void update_mxcsr_status_x86_64(void *env);
void update_fp_status_x86_64(void *env);
u64 qemu_ram_addr_from_host_x86_64(void *uc, void *host);
s64 tcg_const_i64_x86_64(void *tcg, s64 value);
void tcg_gen_addi_i64_x86_64(void *tcg, s64 to, s64 from, s64 value);
void tcg_gen_andi_i64_x86_64(void *tcg, s64 to, s64 from, s64 value);
void tcg_gen_shri_i64_x86_64(void *tcg, s64 to, s64 from, s64 value);
void tcg_temp_free_internal_x86_64(void *tcg, void *temp);

#pragma GCC visibility push(hidden)

/* bind.c */
const char *bind_check(char *text, size_t size);

/* abort.c */
void abort_guest(void);
void abort_assert(const char *expression, const char *file, u32 line, const char *function);
int abort_fprintf(FILE *file, int flag, const char *format, ...);
size_t abort_fwrite(const void *data, size_t size, size_t count, FILE *file);

/* check.c */
int engine_check(char *why, size_t size);

/* switch.S */
int vmm_switch(void **save, void *to);

/* engine.c */
void engine_publish(struct vmm *);
void engine_park(struct vmm *);
void engine_abandon(struct vmm *);
void engine_drop(struct vmm *);
void engine_fault(void *env, int vector, int code, uintptr_t ra)
	__attribute__((noreturn));

/* Asks for a look at the event fields before the next block. */
static inline void engine_attend(struct vmm *vm)
{
	__atomic_store_n(&vm->attention, 1, __ATOMIC_SEQ_CST);
	if (vm->virtual_time)
		__atomic_store_n(&vm->leave, 1, __ATOMIC_SEQ_CST);
	else
		__atomic_store_n(&FIELD(vm->cs, CS_ICOUNT_HIGH, u16), 0xffff,
				 __ATOMIC_SEQ_CST);
}

static inline bool test_bit(const u64 *map, u64 bit)
{
	return map[bit >> 6] >> (bit & 63) & 1;
}

static inline void set_bit(u64 *map, u64 bit)
{
	map[bit >> 6] |= 1ull << (bit & 63);
}

static inline void clear_bit(u64 *map, u64 bit)
{
	map[bit >> 6] &= ~(1ull << (bit & 63));
}

#pragma GCC visibility push(hidden)
void point_page(struct vmm *, u64 page);
#pragma GCC visibility pop

/* A flat page is written. */
static inline void mark_dirty(struct vmm *vm, u64 page)
{
	if (test_bit(vm->dirty, page))
		return;
	set_bit(vm->dirty, page);
	if (vm->point)
		point_page(vm, page);
}

static inline struct tlb_entry *tlb_table(void *cs, int mmu, u64 *count)
{
	char *fast = (char *)cs + CS_TLB_FAST(mmu);

	*count = (FIELD(fast, FAST_MASK, u64) >> 5) + 1;
	return FIELD(fast, FAST_TABLE, struct tlb_entry *);
}

/* Entries that others have taken the place of; VICTIMS of them. */
static inline struct tlb_entry *tlb_victims(void *cs, int mmu)
{
	return &FIELD((char *)cs + CS_TLB_DESC(mmu), DESC_VICTIMS, struct tlb_entry);
}

/* code.c */
int code_open(struct vmm *);
void code_close(struct vmm *);
u8 *code_host(struct vmm *, u64 flat);
void code_forget(struct vmm *, u64 va);
void code_repair(struct vmm *);
void code_written(struct vmm *, u64 flat, u64 end);

/* mmu.c */
int mmu_open(struct vmm *, const struct vmm_config *, char *why, size_t size);
void mmu_close(struct vmm *);
struct slot *mmu_slot(struct vmm *, u64 gpa);
u64 mmu_walk(struct vmm *, u64 va);
void mmu_touch_code(struct vmm *);

u64 mmu_gpa(struct vmm *, u64 flat);

/* lines.c */
void lines_mark(struct vmm *, u64 address, u64 length);
void lines_note(struct vmm *, u8 *place);
void lines_take(struct vmm *, struct lines *);

/* point.c */
void point_writable(struct vmm *, u32 mmu, u64 index, u64 page);

/* coverage.c */
void coverage_close(struct vmm *);
bool coverage_compares(struct vmm *);

/* interrupt.c */
int interrupt_open(struct vmm *);
bool interrupt_ready(struct vmm *);

/* control.c */
void control_set_efer(struct vmm *, u64 value);
void control_update_hflags(void *env);

/* msr.c */
bool msr_get(struct vmm *, u32 index, u64 *value);
bool msr_set(struct vmm *, u32 index, u64 value);

/* decode.c */
struct translator_ops decode_ops(const struct translator_ops *);
u32 decode_fault(struct vmm *, u32 error);

/* flags.c */
bool flags_rotated(void);
void flags_unrotate(void *env);

/* cpuid.c */
void cpuid_open(struct vmm *);

/* debug.c */
void debug_changes(struct vmm *);
void debug_close(struct vmm *);
void debug_refresh(struct vmm *);
void debug_icebp(struct vmm *);
void debug_set(struct vmm *, const struct kvm_debugregs *);

/* cpu.c */
void cpu_reset(struct vmm *);
void cpu_get_regs(struct vmm *, struct kvm_regs *);
void cpu_get_sregs(struct vmm *, struct kvm_sregs *);
void cpu_set_regs(struct vmm *, const struct kvm_regs *);
void cpu_set_sregs(struct vmm *, const struct kvm_sregs *);
u64 cpu_rflags(void *env);

/* debugger.c */
bool debugger_is_step(u32 cflags);
void debugger_close(struct vmm *);
void debugger_debug(struct vmm *);
void debugger_enter(struct vmm *);
void debugger_pass(struct vmm *);
void debugger_refresh(struct vmm *);
void debugger_report(struct vmm *);
void debugger_single(struct vmm *);
void debugger_translate(const struct translator_ops *ops, void *db, void *cs, void *tb, int max);

/* time.c */
int time_open(struct vmm *, char *why, size_t size);
void time_close(struct vmm *);
void time_prepare(struct vmm *);
void time_exception(struct vmm *vm);
bool time_due(struct vmm *);
/* The TSC counts guest nanoseconds, unless it is told otherwise. */
#define TSC_KHZ 1000000u
u64 time_tsc(struct vmm *);

#pragma GCC visibility pop

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

static inline void to_caller(struct vmm *vm)
{
#if defined(__SANITIZE_ADDRESS__)
	__sanitizer_start_switch_fiber(vm->finished ? NULL : &vm->sanitizer_engine,
				       vm->caller_bottom, vm->caller_size);
#endif
	vm->running = false;
	vmm_switch(&vm->engine_sp, vm->caller_sp);
#if defined(__SANITIZE_ADDRESS__)
	__sanitizer_finish_switch_fiber(vm->sanitizer_engine, &vm->caller_bottom,
					&vm->caller_size);
#endif
}

/*
 * An exit inside an instruction, from the helper that generated code called
 * and that returns to `ra` (0: registers are precise as they are). Returns
 * when the answer is in the run page; not at all when the instruction is
 * dropped. Called on the engine's stack, holding nothing. Inline, since each
 * RET on the way back to generated code is mispredicted.
 */
static inline void engine_wait_inside(struct vmm *vm, uintptr_t ra)
{
	vm->place = PLACE_INSTRUCTION;
	vm->return_address = ra;
	engine_publish(vm);
	to_caller(vm);
	vm->place = PLACE_PARKED;
	if (vm->abandon | vm->dropped) {
		vm->dropped = false;
		vm->at_port = false;
		cpu_loop_exit_noexc_x86_64(vm->cs);
	}
}

#endif
