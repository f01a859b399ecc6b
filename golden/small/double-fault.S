/* A double fault, taken by a task gate since the stack is gone. */
#include "common.h"

#define PAGES 0x20000
#define HOLE 0x300000

main:
	movl	$PAGES + 0x1007, PAGES
	mov	$PAGES + 0x1000, %edi
	mov	$7, %eax
	mov	$1024, %ecx
1:	stosl
	add	$0x1000, %eax
	loop	1b
	movl	$0, PAGES + 0x1000 + (HOLE >> 10)
	mov	$PAGES, %eax
	mov	%eax, %cr3
	mov	%eax, rescue_tss + 28

	mov	$main_tss, %eax
	mov	$TSS, %ebx
	call	set_tss
	mov	$rescue_tss, %eax
	mov	$SPARE, %ebx
	call	set_tss
	mov	$TSS, %eax
	ltr	%ax
	movl	$SPARE << 16, idt + 8 * 8
	movl	$0x8500, idt + 8 * 8 + 4

	mov	%cr0, %eax
	or	$0x80010000, %eax
	mov	%eax, %cr0
	PUTS	"the stack goes\n"
	mov	$0x1234, %ebx
	mov	$HOLE + 0x100, %esp
lost:	push	%ebx
	PUTS	"still there\n"
	EXIT

rescue:
	pop	%eax
	EXPECT	"error code", 0
	EXPECT_AT "interrupted task: EIP", main_tss + 32, lost
	EXPECT_AT "EBX", main_tss + 52, 0x1234
	EXPECT_AT "ESP", main_tss + 56, HOLE + 0x100
	EXPECT_AT "link", rescue_tss, TSS
	mov	%cr2, %eax
	EXPECT	"CR2", HOLE + 0xfc
	pushf
	pop	%eax
	and	$0x4000, %eax
	EXPECT	"NT", 0x4000
	str	%eax
	EXPECT	"task register", SPARE
	mov	%cr0, %eax
	and	$8, %eax
	EXPECT	"CR0.TS", 8
	mov	gdt + TSS + 4, %eax
	and	$0xff00, %eax
	EXPECT	"the interrupted task is busy", 0x8b00
	EXIT

set_tss: /* EAX: TSS, EBX: selector */
	push	%eax
	shl	$16, %eax
	or	$103, %eax
	mov	%eax, gdt(%ebx)
	pop	%eax
	mov	%eax, %ecx
	shr	$16, %eax
	and	$0xff, %eax
	and	$0xff000000, %ecx
	or	%ecx, %eax
	or	$0x8900, %eax
	mov	%eax, gdt + 4(%ebx)
	ret

	.data
	.balign 128
main_tss:
	.fill	26, 4, 0
	.balign 128
rescue_tss:
	.long	0		   /* link */
	.fill	6, 4, 0		   /* stacks of rings 0 to 2 */
	.long	0		   /* CR3 */
	.long	rescue, 2	   /* EIP, EFLAGS */
	.long	0, 0, 0, 0	   /* EAX ECX EDX EBX */
	.long	STACK_TOP - 0x1000 /* ESP */
	.long	0, 0, 0		   /* EBP ESI EDI */
	.long	DATA32, CODE32, DATA32, DATA32, DATA32, DATA32 /* ES CS SS DS FS GS */
	.long	0, 104 << 16	   /* LDT, I/O map */
