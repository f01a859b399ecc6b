/* What an engine that translates must live through: more code than its buffer holds, over and over,
 * in pages whose older code is still known; and breakpoints that a task switch takes away from the
 * block that it is in. */
#include "common.h"

#define AREA 0x240000
#define ROUNDS 6000
#define PLACES 512
#define STRIDE 0x130 /* so that some cross a page */
#define ADDITIONS 30
#define ALL (ROUNDS*ADDITIONS)

main:
	PUTS	"code, written and called\n"
	xor	%ebp, %ebp
	mov	$ROUNDS, %edx
1:	mov	%edx, %edi
	and	$PLACES - 1, %edi
	imul	$STRIDE, %edi
	add	$AREA, %edi
	mov	%edi, %ebx
	mov	%edx, routine + 1
	mov	$routine, %esi
	mov	$routine_end - routine, %ecx
	rep movsb
	call	*%ebx
	add	%eax, %ebp
	dec	%edx
	jnz	1b
	mov	%ebp, %eax
	EXPECT	"sum", ROUNDS*(ROUNDS+1)/2
	EXPECT_AT "additions", counter, ALL

	PUTS	"a task switch with a local breakpoint\n"
	mov	$main_tss, %eax
	mov	$TSS, %ebx
	call	set_tss
	mov	$task_tss, %eax
	mov	$SPARE, %ebx
	call	set_tss
	mov	$TSS, %eax
	ltr	%ax
	mov	$200, %ebp
2:	mov	$marked, %eax
	mov	%eax, %dr0
	mov	$0x401, %eax
	mov	%eax, %dr7
	ljmp	$SPARE, $0
	mov	%dr7, %eax
	and	$0xff, %eax
	add	%eax, counter
marked:	nop
	dec	%ebp
	jnz	2b
	EXPECT_AT "no more breakpoints", counter, ALL
	EXPECT_AT "switches", switches, 200
	EXIT

task:	incl	switches
	ljmp	$TSS, $0
	jmp	task

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
routine:
	mov	$0, %eax
	.rept	ADDITIONS
	addl	$1, counter
	.endr
	ret
routine_end:
	.balign	4
counter:
	.long	0
switches:
	.long	0
	.balign 128
main_tss:
	.fill	26, 4, 0
	.balign 128
task_tss:
	.long	0		   /* link */
	.fill	6, 4, 0		   /* stacks of rings 0 to 2 */
	.long	0		   /* CR3 */
	.long	task, 2		   /* EIP, EFLAGS */
	.long	0, 0, 0, 0	   /* EAX ECX EDX EBX */
	.long	STACK_TOP - 0x1000 /* ESP */
	.long	0, 0, 0		   /* EBP ESI EDI */
	.long	DATA32, CODE32, DATA32, DATA32, DATA32, DATA32 /* ES CS SS DS FS GS */
	.long	0, 104 << 16	   /* LDT, I/O map */
