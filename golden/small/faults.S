/* Exceptions in 32-bit protected mode: vectors, error codes, what is pushed, and going on. */
#include "common.h"

#define PAGES 0x20000 /* a page directory, then a page table for the first 4 MiB */
#define HOLE 0x300000

main:
	PUTS	"divide error\n"
	TRY
	xor	%edx, %edx
	xor	%ecx, %ecx
divide:	div	%ecx
	CAUGHT	"divide by zero", 0
	EXPECT_AT "at", caught_rip, divide
	TRY
	mov	$1, %edx
	xor	%eax, %eax
	mov	$1, %ecx
	div	%ecx
	CAUGHT	"quotient too large", 0
	TRY
	mov	$0x80000000, %eax
	cdq
	mov	$-1, %ecx
	idiv	%ecx
	CAUGHT	"idiv of the least by -1", 0

	PUTS	"traps\n"
	TRY
	int3
int3_end:
	CAUGHT	"int3", 3
	EXPECT_AT "behind it", caught_rip, int3_end
	TRY
	mov	$0x7fffffff, %eax
	inc	%eax
	into
into_end:
	CAUGHT	"into", 4
	EXPECT_AT "behind it", caught_rip, into_end
	TRY
	int	$5
int5_end:
	CAUGHT	"int 5", 5
	EXPECT_AT "behind it", caught_rip, int5_end
	TRY
	pushl	$0x102
	popf
	nop
step_end:
	nop
	CAUGHT	"single step", 1
	EXPECT_AT "behind the next instruction", caught_rip, step_end
	mov	%db6, %eax
	and	$0xf00f, %eax
	EXPECT	"DR6", 0x4000
	xor	%eax, %eax
	mov	%eax, %db6

	PUTS	"faults\n"
	TRY
	mov	$5, %eax
	mov	$bounds, %edx
bound:	bound	%eax, (%edx)
	CAUGHT	"bound", 5
	EXPECT_AT "at", caught_rip, bound
	TRY
undefined:
	ud2
	CAUGHT	"ud2", 6
	EXPECT_AT "at", caught_rip, undefined
	TRY
	.byte	0xf0, 0x90
	CAUGHT	"a lock prefix where none may be", 6
	TRY
	mov	%cr0, %eax
	or	$8, %eax
	mov	%eax, %cr0
	fnop
	CAUGHT	"x87 with CR0.TS", 7
	clts

	PUTS	"selectors\n"
	TRY
	mov	$0x1000, %eax
	mov	%eax, %ds
	CAUGHT	"beyond the GDT", 13, 0x1000
	TRY
	mov	$CODE32, %eax
	mov	%eax, %ss
	CAUGHT	"code as a stack", 13, CODE32
	TRY
	xor	%eax, %eax
	mov	%eax, %ss
	CAUGHT	"null as a stack", 13, 0
	TRY
	ljmp	$DATA32, $0
	CAUGHT	"a jump to data", 13, DATA32
	movl	$0x0000ffff, gdt + SPARE
	movl	$0x00cf1300, gdt + SPARE + 4 /* data, not present */
	TRY
	mov	$SPARE, %eax
	mov	%eax, %es
	CAUGHT	"data not present", 11, SPARE
	TRY
	mov	$SPARE, %eax
	mov	%eax, %ss
	CAUGHT	"stack not present", 12, SPARE
	mov	$DATA32, %eax
	mov	%eax, %es

	PUTS	"gates\n"
	TRY
	int	$0x41
	CAUGHT	"a gate that isn't there", 13, (0x41 * 8 + 2)
	GATE	0x42, stub_0, 0x0e
	TRY
	int	$0x42
	CAUGHT	"a gate not present", 11, (0x42 * 8 + 2)
	GATE	0x43, stub_0, 0x8e, DATA32
	TRY
	int	$0x43
	CAUGHT	"a gate to data", 13, DATA32
	movw	$0x43 * 8 + 7, idt_pointer
	lidt	idt_pointer
	TRY
int44:	int	$0x44
	CAUGHT	"a vector beyond the IDT", 13, (0x44 * 8 + 2)
	EXPECT_AT "at", caught_rip, int44
	GATE	0x30, counter, 0x8e
	GATE	0x31, counter, 0x8f
	sti
	int	$0x30
	int	$0x31
	cli
	EXPECT_AT "interrupt gate and trap gate: IF within", counted, 0x0001

	PUTS	"control registers\n"
	TRY
	mov	$0x80000000, %eax
	mov	%eax, %cr0
	CAUGHT	"PG without PE", 13, 0
	TRY
	mov	%cr4, %eax
	or	$0x80000000, %eax
	mov	%eax, %cr4
	CAUGHT	"a reserved bit of CR4", 13, 0

	PUTS	"page faults\n"
	movl	$PAGES + 0x1007, PAGES
	mov	$PAGES + 0x1000, %edi
	mov	$7, %eax
	mov	$1024, %ecx
1:	stosl
	add	$0x1000, %eax
	loop	1b
	movl	$0, PAGES + 0x1000 + (HOLE >> 10)
	andl	$~2, PAGES + 0x1000 + ((HOLE + 0x1000) >> 10)
	mov	$PAGES, %eax
	mov	%eax, %cr3
	mov	%cr0, %eax
	or	$0x80010000, %eax
	mov	%eax, %cr0
	jmp	1f
1:	TRY
	mov	HOLE + 0x123, %eax
	CAUGHT	"read", 14, 0
	EXPECT_AT "CR2", caught_cr2, HOLE + 0x123
	TRY
write:	movl	$1, HOLE + 0x456
	CAUGHT	"write", 14, 2
	EXPECT_AT "CR2", caught_cr2, HOLE + 0x456
	EXPECT_AT "at", caught_rip, write
	TRY
	movl	$1, HOLE + 0x1004
	CAUGHT	"write to a page for reading", 14, 3
	TRY
	mov	HOLE - 2, %eax
	CAUGHT	"read across pages", 14, 0
	EXPECT_AT "CR2", caught_cr2, HOLE
	TRY
	mov	$HOLE, %eax
	jmp	*%eax
	CAUGHT	"jump", 14, 0
	EXPECT_AT "at", caught_rip, HOLE
	TRY
	mov	$HOLE - 4, %edi
	mov	$4, %ecx
	xor	%eax, %eax
rep:	rep stosl
	CAUGHT	"rep stosl", 14, 2
	mov	%ecx, %eax
	EXPECT	"ECX left", 3
	mov	%edi, %eax
	EXPECT	"EDI", HOLE
	EXPECT_AT "at", caught_rip, rep

	PUTS	"a handler maps the page, and IRET runs the instruction again\n"
	GATE	14, map_it
	mov	$HOLE - 4, %edi
	mov	$2048, %ecx
	mov	$0x600d, %eax
	movl	$7 + HOLE + 0x1000, PAGES + 0x1000 + ((HOLE + 0x1000) >> 10)
	invlpg	HOLE + 0x1000
	rep stosl
	mov	HOLE + 0xffc, %eax
	EXPECT	"written", 0x600d
	EXPECT_AT "faults", mapped, 1
	EXIT

map_it:
	add	$4, %esp
	push	%eax
	movl	$7 + HOLE, PAGES + 0x1000 + (HOLE >> 10)
	mov	%cr2, %eax
	invlpg	(%eax)
	incl	mapped
	pop	%eax
	iret

counter: /* shifts IF into `counted` */
	push	%eax
	pushf
	pop	%eax
	shr	$9, %eax
	and	$1, %eax
	shll	$1, counted
	or	%eax, counted
	pop	%eax
	iret

	.data
	.balign 4
bounds:	.long	6, 10
counted: .long	0
mapped:	.long	0
