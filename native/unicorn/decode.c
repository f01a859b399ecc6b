/* SPDX-License-Identifier: ISC */
/*
 * decode.c: what the library's translator doesn't look at in an instruction.
 *
 *  - LOCK where it isn't allowed: #UD (Intel SDM vol. 2A, LOCK). The library
 *    runs the instruction.
 *  - A read that is the first half of a read-modify-write faults as a write, as
 *    processors do it. The library has a read there.
 *  - Far calls and jumps through a register: #UD. The library reads memory.
 *  - MOVNTI, FXSAVE and their group, the fences behind a prefix that they don't have
 *    (NP in SDM vol. 2), MOVLPD and MOVHPD of a register: #UD. The library runs them.
 *  - XBEGIN and XABORT, as there are no transactions: #UD. The library runs them.
 *  - MOVBE and CRC32 are of general registers, whatever CR0.EM, CR0.TS and CR4.OSFXSR
 *    say. The library asks as for SSE's.
 *  - SHLD and SHRD by an immediate, of memory relative to RIP: the library forgets
 *    the immediate's byte, so takes the address for one less.
 *  - LOOPE and LOOPNE that end by their count: the library loses flags that it hasn't
 *    written back yet, but has none at a block's start.
 *  - SSSE3's instructions on MMX registers behind REX.R: the library takes MM8 to
 *    MM15, which don't exist, and writes to what lies behind MM7.
 *  - LAHF and SAHF behind REX: the library takes SPL for AH.
 *  - LOCK NEG: the library sets flags by the operand, not by the result.
 *  - An instruction over the end of a page of which the next isn't there: the library
 *    faults at its block's start, before what is in front of it has run.
 *  - SETcc, RCL and RCR bring the flags to another form before they fault; what
 *    restores them then takes them for what they were before.
 */
#define _GNU_SOURCE
#include "decode.h"
#include "engine.h"

/* enum CCOp */
enum {
	CC_OP_DYNAMIC,
	CC_OP_EFLAGS,
	CC_OP_SUBB = 14,
	CC_OP_SUBQ = 17,
	CC_OP_ADOX = 47,
};

/* Of DisasContextBase: the linear addresses of the block and of the instruction to
 * translate, and whether that ends the block. */
#define DB_PC_FIRST 8
#define DB_PC_NEXT 16
#define DB_IS_JMP 24
#define TOO_MANY 1u /* ... before it */
/* Of DisasContext: in which form the flags are; the mode, as HFLAGS. */
#define DB_CC_OP 0x74
#define DB_FLAGS 0xa8
#define PF_WRITE 2u

/* Opcodes with a ModRM byte that change their operand, as bits; LOCK may be before the
 * first kind. By /digit where only some of a group do. */
enum kind { KIND_NONE, KIND_LOCKABLE, KIND_CHANGES };

struct found {
	bool locked;
	enum kind kind;
	bool in_memory;
	bool whole; /* everything that tells these was there */
	bool undefined;
	bool sets;    /* SETcc to memory, */
	u8 condition; /* ... of this one */
	bool rotates; /* through carry, in memory */
	bool loops;   /* LOOPE, LOOPNE */
	bool general; /* MOVBE, CRC32 */
	bool shifts_relative; /* SHLD, SHRD by an immediate, of memory relative to RIP */
	u32 skip; /* prefixes that are to be left out */
	bool narrowed;	/* behind 66 */
	bool repeated;	/* behind F2 or F3 */
	u8 rex;		/* right before the opcode */
};

void read_code(struct vmm *vm, u64 va, struct code *code)
{
	const u8 *page = NULL;

	for (code->length = 0; code->length < LONGEST; code->length++, va++) {
		if (!page || !(va & 0xfff)) {
			u64 gpa = mmu_walk(vm, va);
			struct slot *slot = gpa == ~0ull ? NULL : mmu_slot(vm, gpa);

			if (!slot)
				return;
			page = slot->host + (gpa - slot->gpa) - (va & 0xfff);
		}
		code->bytes[code->length] = page[va & 0xfff];
	}
}

bool is_prefix(u8 byte, bool wide)
{
	switch (byte) {
	case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65:
	case 0x66: case 0x67: case 0xf0: case 0xf2: case 0xf3:
		return true;
	}
	return wide && (byte & 0xf0) == 0x40;
}

static enum kind kind_of(u8 opcode, u32 digit)
{
	if (opcode < 0x38 && (opcode & 7) < 2)
		return KIND_LOCKABLE; /* ADD OR ADC SBB AND SUB XOR */
	switch (opcode) {
	case 0x80: case 0x81: case 0x82: case 0x83:
		return digit != 7 ? KIND_LOCKABLE : KIND_NONE;
	case 0x86: case 0x87: /* XCHG */
		return KIND_LOCKABLE;
	case 0xf6: case 0xf7: /* NOT NEG */
		return digit == 2 || digit == 3 ? KIND_LOCKABLE : KIND_NONE;
	case 0xfe: case 0xff: /* INC DEC */
		return digit < 2 ? KIND_LOCKABLE : KIND_NONE;
	case 0xc0: case 0xc1: case 0xd0: case 0xd1: case 0xd2: case 0xd3:
		return KIND_CHANGES; /* shifts */
	}
	return KIND_NONE;
}

static enum kind kind_of_0f(u8 opcode, u32 digit)
{
	switch (opcode) {
	case 0xab: case 0xb3: case 0xbb: /* BTS BTR BTC */
	case 0xb0: case 0xb1: case 0xc0: case 0xc1: /* CMPXCHG XADD */
		return KIND_LOCKABLE;
	case 0xba:
		return digit > 4 ? KIND_LOCKABLE : KIND_NONE;
	case 0xc7: /* CMPXCHG8B, 16B */
		return digit == 1 ? KIND_LOCKABLE : KIND_NONE;
	case 0xa4: case 0xa5: case 0xac: case 0xad: /* SHLD SHRD */
		return KIND_CHANGES;
	}
	return KIND_NONE;
}

/* Has the instruction no such prefix? Those with another meaning are the library's. */
static bool has_no_prefix(u8 opcode, u8 modrm, const struct found *found)
{
	u32 digit = modrm >> 3 & 7;

	switch (opcode) {
	case 0x12: case 0x16: /* MOVLPD MOVHPD: of memory */
		return modrm >> 6 == 3 && found->narrowed && !found->repeated;
	case 0xc3: /* MOVNTI */
		return modrm >> 6 != 3 && (found->narrowed || found->repeated);
	case 0xae: /* FXSAVE FXRSTOR LDMXCSR STMXCSR XSAVE XRSTOR; LFENCE MFENCE SFENCE */
		if (modrm >> 6 != 3)
			return found->repeated || (found->narrowed && digit < 6);
		return found->narrowed && !found->repeated;
	}
	return false;
}

/* Does REX say nothing but what the library gets wrong? It does where it is of an address. */
static bool has_void_rex(const u8 opcode[2], u8 modrm, const struct found *found, u32 prefixes)
{
	bool on_mmx = opcode[0] == 0x38 ? opcode[1] < 0x0c || (opcode[1] >= 0x1c && opcode[1] < 0x1f)
					: opcode[0] == 0x3a && opcode[1] == 0x0f;

	return on_mmx && !found->narrowed && !found->repeated && (found->rex & 4) &&
	       (modrm >> 6 == 3 || (!(found->rex & 3) && prefixes == 1));
}

static struct found look(const struct code *code, bool wide)
{
	struct found found = { 0 };
	bool escaped = false;
	u32 at = 0;

	for (; at < code->length && is_prefix(code->bytes[at], wide); at++) {
		found.locked |= code->bytes[at] == 0xf0;
		found.narrowed |= code->bytes[at] == 0x66;
		found.repeated |= code->bytes[at] == 0xf2 || code->bytes[at] == 0xf3;
		found.rex = wide && (code->bytes[at] & 0xf0) == 0x40 ? code->bytes[at] : 0;
	}
	if (at < code->length && code->bytes[at] == 0x0f) {
		escaped = true;
		at++;
	}
	if (!escaped && at < code->length &&
	    (code->bytes[at] == 0x9e || code->bytes[at] == 0x9f))
		found.skip = at;
	found.loops = !escaped && at < code->length && (code->bytes[at] & 0xfe) == 0xe0;
	if (at + 1 >= code->length)
		return found;

	u8 opcode = code->bytes[at], modrm = code->bytes[at + 1];
	u32 digit = modrm >> 3 & 7;

	found.whole = true;
	found.kind = escaped ? kind_of_0f(opcode, digit) : kind_of(opcode, digit);
	found.in_memory = found.kind != KIND_NONE && modrm >> 6 != 3;
	found.sets = escaped && (opcode & 0xf0) == 0x90 && modrm >> 6 != 3;
	found.condition = opcode & 15;
	found.rotates = !escaped && found.kind == KIND_CHANGES && found.in_memory &&
			(digit == 2 || digit == 3);
	if (!escaped && opcode == 0xff && (digit == 3 || digit == 5))
		found.undefined = modrm >> 6 == 3;
	if (!escaped && (opcode & 0xfe) == 0xc6 && modrm == 0xf8)
		found.undefined = true;
	found.general = escaped && opcode == 0x38 && (modrm & 0xfe) == 0xf0;
	found.shifts_relative = wide && escaped && (opcode == 0xa4 || opcode == 0xac) &&
				(modrm & 0xc7) == 0x05;
	if (found.locked && !(found.kind == KIND_LOCKABLE && found.in_memory))
		found.undefined = true;
	if (escaped && at + 2 < code->length &&
	    has_void_rex(code->bytes + at, code->bytes[at + 2], &found, at - 1))
		found.skip = at - 1;
	if (escaped && has_no_prefix(opcode, modrm, &found))
		found.undefined = true;
	/* There is one processor: who locks a bus is alone on it. */
	if (!escaped && (opcode == 0xf6 || opcode == 0xf7) && digit == 3)
		found.skip = code->bytes[0] == 0xf0;
	return found;
}

/* By its first byte at `pc`, and the second where that is on the same page. */
static bool needs_look(const u8 *at, u64 pc, bool wide)
{
	bool last = (pc & 0xfff) == 0xfff;

	switch (*at) {
	case 0xff: case 0xe0: case 0xe1:
		return true;
	case 0xc6: case 0xc7:
		return last || at[1] == 0xf8;
	case 0x0f:
		return last || at[1] == 0x38 || at[1] == 0xa4 || at[1] == 0xac;
	}
	return is_prefix(*at, wide);
}

/* ----------------------------------------------------------- the translator */

static HOT_TLS void (*library_translate)(void *db, void *cs);

/* The page that a block's code was last in, while it is translated. */
static HOT_TLS u64 page_va;
static HOT_TLS const u8 *page_host;

/* The code at `pc`, to the end of its page; NULL: it isn't in memory. */
static const u8 *code_at(struct vmm *vm, u64 pc)
{
	if ((pc & ~0xfffull) != page_va) {
		u64 gpa = mmu_walk(vm, pc & ~0xfffull);
		struct slot *slot = gpa == ~0ull ? NULL : mmu_slot(vm, gpa);

		page_va = pc & ~0xfffull;
		page_host = slot ? slot->host + (gpa - slot->gpa) : NULL;
	}
	return page_host ? page_host + (pc & 0xfff) : NULL;
}

/* The next four bytes of code that are read at once are of an address that is one more. */
static HOT_TLS bool is_one_less;

INTERPOSED u32 cpu_ldl_code_x86_64(void *env, u64 address)
{
	u32 value = original.ldl_code(env, address) + is_one_less;

	is_one_less = false;
	return value;
}

/* May an instruction go on over a page that isn't there? It faults when it is reached, so has
 * a block of its own. */
static bool may_fault(struct vmm *vm, u64 pc, bool wide)
{
	u64 next = (pc & ~0xfffull) + 0x1000;

	return next - pc < LONGEST && mmu_walk(vm, wide ? next : (u32)next) == ~0ull;
}

static void translate(void *db, void *cs)
{
	struct vmm *vm = current;
	u64 pc = FIELD(db, DB_PC_NEXT, u64), *flags = &FIELD(db, DB_FLAGS, u64), was = *flags;
	const u8 *at = code_at(vm, pc);
	bool wide = HFLAGS(vm->env) & HF_CS64;
	struct found found;
	struct code code;

	is_one_less = false;
	if (pc != FIELD(db, DB_PC_FIRST, u64) && may_fault(vm, pc, wide)) {
		FIELD(db, DB_IS_JMP, u32) = TOO_MANY;
		return;
	}
	if (at && needs_look(at, pc, wide)) {
		read_code(vm, pc, &code);
		found = look(&code, wide);
		if (found.undefined || (found.locked && found.skip > 1))
			abort_guest(); /* #UD, when it is reached */
		if (found.loops && pc != FIELD(db, DB_PC_FIRST, u64)) {
			FIELD(db, DB_IS_JMP, u32) = TOO_MANY;
			return;
		}
		FIELD(db, DB_PC_NEXT, u64) += found.skip;
		if (found.general)
			*flags = (was & ~(u64)HF_MP_EM_TS) | HF_OSFXSR;
		is_one_less = found.shifts_relative;
	}
	if (vm->point)
		vector_note(vm, pc, at, wide);
	library_translate(db, cs);
	*flags = was;
}

/* Does SETcc compute all flags? As the library's gen_prepare_cc has it. */
static bool computes_flags(u32 condition, u32 cc_op)
{
	switch (condition >> 1 & 7) {
	case 0: /* O */
		return cc_op < CC_OP_ADOX;
	case 1: /* B */
		return false;
	case 2: /* Z */
	case 4: /* S */
		return cc_op == CC_OP_DYNAMIC;
	case 5: /* P */
		return true;
	}
	return cc_op < CC_OP_SUBB || cc_op > CC_OP_SUBQ; /* BE L LE */
}

/* By its first byte: SETcc, a rotation, or what may be one. */
static bool may_compute_flags(u8 byte, bool wide)
{
	return byte == 0x0f || kind_of(byte, 0) == KIND_CHANGES || is_prefix(byte, wide);
}

static HOT_TLS void (*library_insn_start)(void *db, void *cs);

/* What is noted at an instruction's start is how its fault restores the flags. */
static void insn_start(void *db, void *cs)
{
	struct vmm *vm = current;
	u32 *cc_op = &FIELD(db, DB_CC_OP, u32), was = *cc_op;
	u64 pc = FIELD(db, DB_PC_NEXT, u64);
	const u8 *at = code_at(vm, pc);
	bool wide = HFLAGS(vm->env) & HF_CS64;
	struct found found;
	struct code code;

	if (!at || !may_compute_flags(*at, wide)) {
		library_insn_start(db, cs);
		return;
	}
	read_code(vm, pc, &code);
	found = look(&code, wide);
	if (found.rotates || (found.sets && computes_flags(found.condition, was)))
		*cc_op = CC_OP_EFLAGS;
	library_insn_start(db, cs);
	*cc_op = was;
}

struct translator_ops decode_ops(const struct translator_ops *ops)
{
	struct translator_ops ours = *ops;

	page_va = ~0ull;
	vector_begin();
	library_translate = ops->translate_insn;
	library_insn_start = ops->insn_start;
	ours.translate_insn = translate;
	ours.insn_start = insn_start;
	return ours;
}

/* ------------------------------------------------------------- page faults */

/* The error code of a page fault at the instruction of EIP, whose flags are put back. */
u32 decode_fault(struct vmm *vm, u32 error)
{
	bool wide = HFLAGS(vm->env) & HF_CS64;
	bool stores = vm->fill_access == ACCESS_STORE && flags_rotated(), loads;
	u64 va = SEG(vm->env, SEG_CS)->base + EIP(vm->env);
	struct found found;
	struct code code;

	loads = vm->fill_access == ACCESS_LOAD && !(error & PF_WRITE);
	if (!stores && !loads)
		return error;
	read_code(vm, wide ? va : (u32)va, &code);
	found = look(&code, wide);
	if (stores && found.rotates)
		flags_unrotate(vm->env);
	return loads && found.in_memory ? error | PF_WRITE : error;
}
