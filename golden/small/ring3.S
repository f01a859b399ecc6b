/* Ring 3 in 32-bit protected mode: ways in and out, and what is forbidden there. */
#include "common.h"

#define PAGES 0x20000
#define USER_STACK 0x2f0000
#define SECRET 0x300000	  /* a supervisor page */
#define READ_ONLY 0x301000

	/* To ring 3 with EFLAGS `flags`, at the next instruction. EAX is spoilt. */
	.macro USER flags=2
	pushl	$USER_DATA32
	pushl	$USER_STACK
	pushl	$\flags
	pushl	$USER_CODE32
	pushl	$68f
	iret
68:	mov	$USER_DATA32, %eax
	mov	%eax, %ds
	mov	%eax, %es
	.endm

	/* A fault that ring 3 must get. */
	.macro USER_TRY flags=2
	TRY
	USER	\flags
	.endm

	.macro FORBIDDEN name, instruction
	USER_TRY
	\instruction
	CAUGHT	"\name", 13, 0
	.endm

main:
	movl	$PAGES + 0x1007, PAGES
	mov	$PAGES + 0x1000, %edi
	mov	$7, %eax
	mov	$1024, %ecx
1:	stosl
	add	$0x1000, %eax
	loop	1b
	andl	$~4, PAGES + 0x1000 + (SECRET >> 10)
	andl	$~2, PAGES + 0x1000 + (READ_ONLY >> 10)
	mov	$PAGES, %eax
	mov	%eax, %cr3
	mov	%cr0, %eax
	or	$0x80010000, %eax
	mov	%eax, %cr0

	movl	$STACK_TOP, tss + 4
	movl	$DATA32, tss + 8
	movw	$tss_map - tss, tss + 102
	mov	$tss, %eax
	mov	%ax, gdt + TSS + 2
	shr	$16, %eax
	mov	%al, gdt + TSS + 4
	mov	%ah, gdt + TSS + 7
	movw	$tss_end - tss - 1, gdt + TSS
	movb	$0x89, gdt + TSS + 5
	mov	$TSS, %eax
	ltr	%ax
	GATE	0x80, system_call, 0xee
	GATE	0x81, back, 0xee

	PUTS	"IRET to ring 3, INT back\n"
	USER
	mov	%cs, %eax
	mov	$1, %ebx
	int	$0x80
	mov	%eax, %esi
	mov	$2, %ebx
	int	$0x80
	mov	%eax, %edi
	int	$0x81
	mov	%esi, %eax
	EXPECT	"answer to the first call", 0x24
	mov	%edi, %eax
	EXPECT	"answer to the second", (0x23 + 3)
	EXPECT_AT "its stack selector", called_ss, USER_DATA32
	EXPECT_AT "its stack", called_esp, USER_STACK
	EXPECT_AT "the kernel's", called_kernel, (STACK_TOP - 20)

	PUTS	"privileged instructions\n"
	FORBIDDEN "hlt", hlt
	FORBIDDEN "cli", cli
	FORBIDDEN "sti", sti
	FORBIDDEN "clts", clts
	FORBIDDEN "invd", invd
	FORBIDDEN "mov to CR0", "mov %eax, %cr0"
	FORBIDDEN "mov from CR3", "mov %cr3, %eax"
	FORBIDDEN "mov from DR7", "mov %db7, %eax"
	FORBIDDEN "lgdt", "lgdt gdt_pointer"
	FORBIDDEN "ltr", "ltr %ax"
	FORBIDDEN "lmsw", "lmsw %ax"
	FORBIDDEN "rdmsr", rdmsr
	FORBIDDEN "wrmsr", wrmsr
	FORBIDDEN "invlpg", "invlpg 0"
	mov	caught_cs, %eax
	EXPECT	"CS of the last", USER_CODE32

	PUTS	"ports\n"
	USER_TRY
	mov	$0x310, %edx
	in	%dx, %al
	CAUGHT	"denied by the bitmap", 13, 0
	USER_TRY
	mov	$0x7ff, %edx
	in	%dx, %al
	CAUGHT	"beyond the bitmap", 13, 0
	USER_TRY
	mov	$SCRATCH_PORT + 2, %edx
	in	%dx, %eax
	CAUGHT	"four bytes of which two are allowed", 13, 0
	USER
	mov	$SCRATCH_PORT, %edx
	mov	$0xabcd1234, %eax
	out	%eax, %dx
	xor	%eax, %eax
	in	%dx, %ax
	mov	%eax, %ebx
	int	$0x81
	mov	%ebx, %eax
	EXPECT	"allowed by the bitmap", 0x1234
	USER_TRY
	mov	$0x2f0100, %esi
	mov	$0x310, %edx
	mov	$1, %ecx
	rep outsb
	CAUGHT	"OUTS, denied", 13, 0
	USER_TRY
	out	%al, $0x80
	CAUGHT	"immediate port, denied", 13, 0
	USER	0x3002
	mov	$0x310, %edx
	mov	$0x99, %al
	out	%al, %dx
	xor	%eax, %eax
	in	%dx, %al
	mov	%eax, %ebx
	int	$0x81
	mov	%ebx, %eax
	EXPECT	"IOPL 3: allowed", 0x99
	USER	0x3002
	sti
	pushf
	cli
	pop	%ebx
	int	$0x81
	mov	%ebx, %eax
	and	$0x3200, %eax
	EXPECT	"IOPL 3: STI works", 0x3200
	USER	0x0002
	pushl	$0x3202
	popf
	pushf
	pop	%ebx
	int	$0x81
	mov	%ebx, %eax
	and	$0x3200, %eax
	EXPECT	"IOPL 0: POPF changes neither IOPL nor IF", 0

	PUTS	"memory\n"
	USER_TRY
	mov	SECRET, %eax
	CAUGHT	"read of a supervisor page", 14, 5
	EXPECT_AT "CR2", caught_cr2, SECRET
	USER_TRY
	movl	$1, SECRET + 4
	CAUGHT	"write", 14, 7
	USER_TRY
	movl	$1, READ_ONLY
	CAUGHT	"write to a page for reading", 14, 7
	USER_TRY
	mov	$SECRET, %eax
	jmp	*%eax
	CAUGHT	"jump to a supervisor page", 14, 5
	USER_TRY
	mov	$DATA32, %eax
	mov	%eax, %ds
	CAUGHT	"a selector of ring 0", 13, DATA32

	PUTS	"gates\n"
	USER_TRY
	int	$0x20
	CAUGHT	"a gate of ring 0 that isn't there", 13, (0x20 * 8 + 2)
	USER_TRY
	int	$13
	CAUGHT	"a gate of ring 0", 13, (13 * 8 + 2)
	USER_TRY
	int3
	CAUGHT	"int3, by a gate of ring 0", 13, (3 * 8 + 2)
	USER_TRY
	xor	%ecx, %ecx
	div	%ecx
	CAUGHT	"a divide error", 0
	mov	caught_sp, %eax
	EXPECT	"on the kernel's stack", (STACK_TOP - 8)
	movl	$call_target, %eax
	mov	%ax, gdt + SPARE
	movw	$CODE32, gdt + SPARE + 2
	movw	$0xec00, gdt + SPARE + 4
	shr	$16, %eax
	mov	%ax, gdt + SPARE + 6
	USER
	mov	$0x11, %ebx
	lcall	$SPARE + 3, $0
	int	$0x81
	mov	%ebx, %eax
	EXPECT	"a call gate and back", 0x12
	EXPECT_AT "it ran on the kernel's stack", called_kernel, (STACK_TOP - 16)

	PUTS	"SYSENTER, SYSEXIT\n"
	mov	$0x174, %ecx
	mov	$SYSENTER_CODE, %eax
	xor	%edx, %edx
	wrmsr
	mov	$0x175, %ecx
	mov	$STACK_TOP - 0x100, %eax
	wrmsr
	mov	$0x176, %ecx
	mov	$entered, %eax
	wrmsr
	USER	0x202
	mov	%esp, %ecx
	mov	$1f, %edx
	sysenter
1:	mov	%cs, %eax
	mov	%ss, %ecx
	pushf
	pop	%edi
	int	$0x81
	EXPECT	"CS in ring 3", (SYSENTER_CODE + 19)
	mov	%ecx, %eax
	EXPECT	"SS", (SYSENTER_CODE + 27)
	mov	%ebx, %eax
	EXPECT	"CS in ring 0", SYSENTER_CODE
	mov	%esi, %eax
	EXPECT	"ESP", (STACK_TOP - 0x100)
	mov	%ebp, %eax
	and	$0x200, %eax
	EXPECT	"IF", 0
	mov	$0x174, %ecx
	xor	%eax, %eax
	xor	%edx, %edx
	wrmsr
	USER_TRY
	sysenter
	CAUGHT	"SYSENTER with no CS", 13, 0
	EXIT

entered:
	mov	%cs, %ebx
	mov	%esp, %esi
	pushf
	pop	%ebp
	sysexit

system_call: /* EAX += EBX */
	mov	12(%esp), %ecx
	mov	%ecx, %ss:called_esp
	mov	16(%esp), %ecx
	mov	%ecx, %ss:called_ss
	mov	%esp, %ss:called_kernel
	add	%ebx, %eax
	iret

call_target:
	mov	%esp, %ss:called_kernel
	inc	%ebx
	lret

back:	/* to ring 0, behind the INT */
	push	%eax
	mov	$DATA32, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	pop	%eax
	pop	caught_rip
	mov	$STACK_TOP - 0x40, %esp
	jmp	*caught_rip

	.data
	.balign 4
called_ss:	.long 0
called_esp:	.long 0
called_kernel:	.long 0
	.balign 128
tss:	.fill	26, 4, 0
tss_map: /* ports to 0x3ff: all denied but 0x300 to 0x303 */
	.fill	0x300 / 8, 1, 0xff
	.byte	0xf0
	.fill	(0x400 - 0x308) / 8, 1, 0xff
tss_end:
