/* SPDX-License-Identifier: ISC */
/*
 * layout.h: where libunicorn 2.0.1 keeps the x86 CPU.
 *
 * The public API can't run a whole machine, so the engine reads and writes the
 * library's CPU state in place. The offsets hold for Debian 12's libunicorn2
 * 2.0.1 on x86-64 and nothing else; check.c proves them on a scratch engine
 * before the first machine opens. Names follow the library's source
 * (qemu/target/i386/cpu.h, qemu/include/hw/core/cpu.h, cpu-defs.h).
 */
#ifndef VMM_UNICORN_LAYOUT_H
#define VMM_UNICORN_LAYOUT_H

#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;

#define FIELD(base, offset, type) (*(type *)((char *)(base) + (offset)))

/* struct uc_struct */
#define UC_CPU 0x180		/* CPUState * */
#define UC_NO_EXIT_REQUEST 0x78a /* no exit check after each memory access */

#define UC_TCG 0x2c0		/* TCGContext * */

/* TCGContext: the buffer of translated code, which is one region */
#define TCG_TEMPS 0x30
#define TCG_CODE_START 0xa0
#define TCG_CODE_SIZE 0xb8
#define TCG_CODE_NEXT 0xc0
#define TCG_CODE_LIMIT 0xd0
#define TCG_REGION_START 0x98f8
#define TCG_REGION_END 0x9908
#define TCG_REGION_COUNT 0x9910
#define TCG_REGIONS_GIVEN 0x9928 /* how many of them are in use */
#define TCG_MARGIN 0x400u

/* CPUState; the architecture's state follows it */
#define CS_ENV 0x8750
#define CS_CFLAGS_NEXT_TB 0x18
#define CS_INTERRUPT_REQUEST 0x1c
#define CS_SINGLESTEP 0x20 /* a translation of one instruction, for a debugger */
#define CS_ENV_PTR 0x128
#define CS_MEM_IO_PC 0x8178
#define CS_EXCEPTION_INDEX 0x81a0
#define CS_UC 0x81a8
#define CS_TLB_DESC(mmu) (0x81c0 + 0x20 + 0x1b8 * (mmu))
#define CS_TLB_FAST(mmu) (0x81c0 + 0x550 + 0x10 * (mmu))
#define CS_ICOUNT_HIGH 0x8742

/* CPUTLBDesc, CPUTLBDescFast, CPUTLBEntry, CPUIOTLBEntry */
#define DESC_VICTIMS 0x30 /* entries that others have taken the place of */
#define VICTIMS 8
#define DESC_IOTLB 0x1b0
#define FAST_MASK 0x0
#define FAST_TABLE 0x8
#define MMU_MODES 3
#define MMU_KERNEL_NOSMAP 2

struct tlb_entry {
	u64 addr_read;
	u64 addr_write;
	u64 addr_code;
	u64 addend;
};

struct iotlb_entry {
	u64 addr;
	u64 attrs;
};

#define TLB_NOTDIRTY 0x400ull
#define TLB_MMIO 0x200ull
#define TLB_FLAGS 0xfffull

/* CPUX86State */
#define ENV_REGS 0x0
#define ENV_EIP 0x80
#define ENV_EFLAGS 0x88
#define ENV_CC_DST 0x90 /* flags that are not computed yet: result, ... */
#define ENV_CC_SRC 0x98 /* ... operand, ... */
#define ENV_CC_OP 0xa8	/* ... and what was done */
#define ENV_HFLAGS 0xb0
#define ENV_HFLAGS2 0xb4
#define ENV_SEGS 0xb8
#define ENV_LDT 0x148
#define ENV_TR 0x160
#define ENV_GDT 0x178
#define ENV_IDT 0x190
#define ENV_CR 0x1a8
#define ENV_A20_MASK 0x1d0
#define ENV_EFER 0x230
#define ENV_FPSTT 0x23c
#define ENV_FPUS 0x240
#define ENV_FPUC 0x242
#define ENV_FPTAGS 0x244
#define ENV_FPREGS 0x250
#define ENV_FPOP 0x2d0
#define ENV_FPIP 0x2d8
#define ENV_FPDP 0x2e0
#define ENV_MXCSR 0x310
#define ENV_XMM 0x318
#define ENV_SYSENTER_CS 0x12a0
#define ENV_SYSENTER_ESP 0x12a8
#define ENV_SYSENTER_EIP 0x12b0
#define ENV_STAR 0x12b8
#define ENV_LSTAR 0x12c8
#define ENV_CSTAR 0x12d0
#define ENV_FMASK 0x12d8
#define ENV_KERNELGSBASE 0x12e0
#define ENV_TSC_AUX 0x1300
#define ENV_MISC_ENABLE 0x1318
#define ENV_PAT 0x1480
#define ENV_ERROR_CODE 0x14e8
#define ENV_EXCEPTION_IS_INT 0x14ec
#define ENV_EXCEPTION_NEXT_EIP 0x14f0
#define ENV_DR 0x14f8
#define ENV_OLD_EXCEPTION 0x1558
#define ENV_CPUID_VENDOR 0x15d0 /* three u32, in the order EBX EDX ECX */
#define ENV_FEATURES 0x15e0
#define ENV_UC 0x1b38

/* SegmentCache */
#define SEGMENT_SIZE 0x18

struct segment {
	u32 selector;
	u32 pad;
	u64 base;
	u32 limit;
	u32 flags;
};

enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS };
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R11 = 11 };

/* enum FeatureWord: an index into ENV_FEATURES, u64 each */
enum {
	FEATURE_1_EDX = 0,
	FEATURE_1_ECX = 1,
	FEATURE_7_EBX = 2,
	FEATURE_7_ECX = 3,
	FEATURE_7_EDX = 4,
	FEATURE_EXT_EDX = 6,
	FEATURE_EXT_ECX = 7,
	FEATURE_XSAVE = 0x13,
};

/* hflags */
#define HF_CPL 3u
#define HF_INHIBIT_IRQ (1u << 3)
#define HF_CS32 (1u << 4)
#define HF_SS32 (1u << 5)
#define HF_ADDSEG (1u << 6)
#define HF_PE (1u << 7)
#define HF_TF (1u << 8)
#define HF_MP_EM_TS (7u << 9)
#define HF_IOPL (3u << 12)
#define HF_LMA (1u << 14)
#define HF_CS64 (1u << 15)
#define HF_VM (1u << 17)
#define HF_OSFXSR (1u << 22)
#define HF_SMAP (1u << 23)

/* hflags2 */
#define HF2_GIF (1u << 0)
#define HF2_NMI (1u << 2)

/* interrupt_request */
#define CPU_INTERRUPT_HARD 2u

static inline void *env_of(void *cs)
{
	return (char *)cs + CS_ENV;
}

static inline void *cs_of(void *env)
{
	return (char *)env - CS_ENV;
}

#define REG(env, n) FIELD(env, ENV_REGS + 8 * (n), u64)
#define EIP(env) FIELD(env, ENV_EIP, u64)
#define EFLAGS(env) FIELD(env, ENV_EFLAGS, u64)
#define HFLAGS(env) FIELD(env, ENV_HFLAGS, u32)
#define HFLAGS2(env) FIELD(env, ENV_HFLAGS2, u32)
#define CR(env, n) FIELD(env, ENV_CR + 8 * (n), u64)
#define DR(env, n) FIELD(env, ENV_DR + 8 * (n), u64)
#define EFER(env) FIELD(env, ENV_EFER, u64)
#define SEG(env, n) (&FIELD(env, ENV_SEGS + SEGMENT_SIZE * (n), struct segment))
#define FEATURE(env, n) FIELD(env, ENV_FEATURES + 8 * (n), u64)

#endif
