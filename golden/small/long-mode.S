/* Long mode with integer instructions only: paging, 8-byte MMIO, faults, compatibility mode. */
#include "common.h"
#include "common64.h"

#define WINDOW 0x40000000 /* mapped by each test as it likes */
#define WINDOW_ENTRY (PAGE_DIRECTORY + 0x1000)
#define TABLE 0x18000
#define TARGET 0x250000

main:
	call	enter_long
	BITS	64
	PUTS	"64 bits\n"
	movabs	$0x123456789abcdef0, %rax
	mov	%rax, %r8
	rol	$8, %r8
	mov	%r8, %rax
	EXPECT	"rol", 0x3456789abcdef012
	mov	$-1, %rax
	mov	$1, %eax
	EXPECT	"a 32-bit result clears the upper half", 1
	mov	$-1, %rax
	mov	$1, %ax
	EXPECT	"a 16-bit result keeps the rest", 0xffffffffffff0001
	movabs	$0x100000000, %rax
	mul	%rax
	mov	%rdx, %rax
	EXPECT	"mul: upper half", 1
	mov	$7, %eax
	movslq	minus_two, %rcx
	imul	%rcx, %rax
	EXPECT	"imul", 0xfffffffffffffff2
	lea	text(%rip), %rax
	EXPECT	"relative to RIP", text
	mov	$0xc0000080, %ecx
	rdmsr
	and	$0x501, %eax
	EXPECT	"EFER: SCE, LME, LMA", 0x501

	PUTS	"MMIO, 8 bytes\n"
	mov	$SCRATCH_MMIO, %ebx
	movabs	$0x8877665544332211, %rax
	mov	%rax, 8(%rbx)
	xor	%eax, %eax
	mov	8(%rbx), %rax
	EXPECT	"mov", 0x8877665544332211
	add	%rax, 8(%rbx)
	mov	8(%rbx), %rax
	EXPECT	"add", 0x10eeccaa88664422
	movslq	12(%rbx), %rax
	EXPECT	"movslq", 0x10eeccaa
	push	8(%rbx)
	pop	%rax
	EXPECT	"push", 0x10eeccaa88664422
	mov	$SCRATCH_MMIO, %esi
	mov	$SCRATCH_RAM, %edi
	mov	$2, %ecx
	rep movsq
	mov	SCRATCH_RAM + 8, %rax
	EXPECT	"rep movsq", 0x10eeccaa88664422

	PUTS	"pages\n"
	movq	$TARGET, TARGET
	movq	$0x8000, 0x8000
	movq	$0x200083, WINDOW_ENTRY
	invlpg	WINDOW
	mov	WINDOW + TARGET - 0x200000, %rax
	EXPECT	"2 MiB", TARGET
	mov	WINDOW_ENTRY, %rax
	and	$0x60, %eax
	EXPECT	"accessed", 0x20
	movq	$TABLE + 3, WINDOW_ENTRY
	mov	$TABLE, %edi
	xor	%eax, %eax
	mov	$512, %ecx
	rep stosq
	movq	$TARGET + 3, TABLE
	movq	$TARGET + 1, TABLE + 8
	mov	%cr3, %rax
	mov	%rax, %cr3
	mov	WINDOW, %rax
	EXPECT	"4 KiB", TARGET
	movq	$1, WINDOW + 8
	mov	TABLE, %rax
	and	$0x60, %eax
	EXPECT	"accessed and dirty", 0x60
	TRY
	movq	$1, WINDOW + 0x1000
	CAUGHT	"for reading only: write", 14, 3
	mov	caught_cr2, %rax
	EXPECT	"CR2", WINDOW + 0x1000
	TRY
	mov	WINDOW + 0x2000, %rax
	CAUGHT	"not there: read", 14, 0
	btsq	$63, TABLE
	invlpg	WINDOW
	mov	WINDOW, %rax
	EXPECT	"NX: read", TARGET
	TRY
	mov	$WINDOW, %eax
	call	*%rax
	CAUGHT	"NX: jump", 14, 0x11
	movabs	$0x0008000000000003, %rax
	or	$TARGET, %rax
	mov	%rax, TABLE
	invlpg	WINDOW
	TRY
	mov	WINDOW, %rax
	CAUGHT	"a reserved bit: read", 14, any /* the lab's emulator: 8, not 9 */
	mov	caught_code, %eax
	and	$8, %eax
	EXPECT	"    RSVD in the error code", 8
	/* The upper half: entry 511 of the PML4 is the lower half's. */
	mov	PML4, %rax
	mov	%rax, PML4 + 8 * 511
	movabs	$0xffffff8000008000, %rbx
	mov	(%rbx), %rax
	EXPECT	"the upper half", 0x8000
	movabs	$0xffffff8000000000, %rax
	or	$1f, %rax
	jmp	*%rax
1:	lea	1b(%rip), %rax
	shr	$32, %rax
	EXPECT	"code there", 0xffffff80
	mov	$1f, %eax
	jmp	*%rax
1:	mov	$0x80000001, %eax
	cpuid
	bt	$26, %edx
	mov	$0x8000, %eax
	jnc	1f /* a processor without 1 GiB pages passes */
	movq	$0x83, PDPT + 8
	mov	%cr3, %rax
	mov	%rax, %cr3
	mov	WINDOW + 0x8000, %rax
1:	EXPECT	"1 GiB, where CPUID has it", 0x8000
	movq	$WINDOW_ENTRY + 7, PDPT + 8
	mov	%cr3, %rax
	mov	%rax, %cr3

	PUTS	"faults\n"
	TRY
	movabs	$0x0000800000000000, %rbx
	mov	(%rbx), %rax
	CAUGHT	"a non-canonical address", 13, 0
	TRY
	xor	%edx, %edx
	xor	%ecx, %ecx
divide:	div	%rcx
	CAUGHT	"divide", 0
	mov	caught_rip, %rax
	EXPECT	"at", divide
	mov	caught_cs, %rax
	EXPECT	"CS", CODE64
	TRY
	.byte	0x06 /* push %es */
	CAUGHT	"an opcode that 64-bit mode lacks", 6
	TRY
	ud2
	CAUGHT	"ud2", 6
	TRY
	mov	$0x1000, %eax
	mov	%eax, %ds
	CAUGHT	"a selector beyond the GDT", 13, 0x1000
	TRY
	mov	%cr4, %rax
	and	$~0x20, %rax
	mov	%rax, %cr4
	CAUGHT	"PAE can't be turned off", 13, 0
	mov	$STACK_TOP - 0x201, %rax
	mov	%rax, %rsp
	TRY
	ud2
	CAUGHT	"ud2 on an odd stack", 6
	mov	caught_sp, %rax
	EXPECT	"RSP", (STACK_TOP - 0x201)
	mov	$STACK_TOP, %esp

	PUTS	"compatibility mode\n"
	ljmp	*to_32
	BITS	32
1:	mov	$DATA32, %eax
	mov	%eax, %ss
	mov	%eax, %ds
	mov	$-1, %eax
	inc	%eax /* 0x40 is a prefix in 64-bit code */
	EXPECT	"inc", 0
	ljmp	$CODE64, $2f
	BITS	64
2:	PUTS	"and back\n"
	EXIT

	.data
	.balign 8
minus_two: .long -2
text:	.asciz	"text"
to_32:	.long	1b
	.word	CODE32
