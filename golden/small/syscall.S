/* Ring 3 in long mode: IRETQ, SYSCALL and SYSRET, SWAPGS, SYSENTER, IST stacks, a double fault. */
#include "common.h"
#include "common64.h"

#define USER_STACK 0x2f0000
#define SECRET 0x600000 /* 2 MiB of supervisor memory */
#define HOLE 0x800000	/* 2 MiB of nothing */
#define IST1 0x8f000
#define IST2 0x8e000

	/* To ring 3 with RFLAGS `flags`, at the next instruction. RAX is spoilt. */
	.macro USER flags=2
	pushq	$USER_DATA32
	pushq	$USER_STACK
	pushq	$\flags
	pushq	$USER_CODE64
	pushq	$68f
	iretq
68:
	.endm

main:
	call	enter_long
	BITS	64
	andb	$~4, PAGE_DIRECTORY + 3 * 8
	movq	$0, PAGE_DIRECTORY + 4 * 8
	mov	%cr3, %rax
	mov	%rax, %cr3
	movq	$STACK_TOP, tss + 4
	movq	$IST1, tss + 36
	movq	$IST2, tss + 44
	movw	$104, tss + 102
	mov	$tss, %eax
	mov	%ax, gdt + TSS + 2
	shr	$16, %eax
	mov	%al, gdt + TSS + 4
	mov	%ah, gdt + TSS + 7
	movl	$0, gdt + TSS + 8
	movw	$103, gdt + TSS
	movb	$0x89, gdt + TSS + 5
	mov	$TSS, %eax
	ltr	%ax
	GATE64	0x81, back, 0xee
	mov	$0xc0000081, %ecx /* STAR: SYSRET from 0x23 (+8, +16), SYSCALL to 0x08, 0x10 */
	xor	%eax, %eax
	mov	$(USER_CODE32 << 16 | CODE64), %edx
	wrmsr
	mov	$0xc0000082, %ecx
	mov	$entry, %eax
	xor	%edx, %edx
	wrmsr
	mov	$0xc0000084, %ecx
	mov	$0x4300, %eax /* masks NT, IF, TF */
	wrmsr
	xor	%eax, %eax
	mov	%eax, %gs /* else IRET clears its base with it */
	mov	$0xc0000101, %ecx
	mov	$user_area, %eax
	wrmsr
	mov	$0xc0000102, %ecx
	mov	$kernel_area, %eax
	wrmsr

	PUTS	"IRETQ to ring 3, INT back\n"
	USER	0x202
	mov	%cs, %ebx
	mov	%ss, %ecx
	mov	%rsp, %rdx
	int	$0x81
	mov	%rbx, %rax
	EXPECT	"CS", USER_CODE64
	mov	%rcx, %rax
	EXPECT	"SS", USER_DATA32
	mov	%rdx, %rax
	EXPECT	"RSP", USER_STACK

	PUTS	"SYSCALL, SYSRET\n"
	USER	0x246
	mov	%gs:0, %r12
	mov	$20, %edi
	mov	$22, %esi
	syscall
after:	mov	%rax, %r13
	mov	%gs:0, %r14
	mov	%cs, %ebx
	mov	%ss, %ebp
	pushf
	pop	%r15
	int	$0x81
	mov	%r13, %rax
	EXPECT	"answer", 42
	mov	%r12, %rax
	EXPECT	"GS in ring 3", 0x75
	mov	kernel_gs, %rax
	EXPECT	"GS in ring 0, after SWAPGS", 0x6b
	mov	%r14, %rax
	EXPECT	"GS in ring 3 again", 0x75
	mov	kernel_rcx, %rax
	EXPECT	"RCX", after
	mov	kernel_r11, %rax
	EXPECT	"R11", 0x246
	mov	kernel_flags, %rax
	and	$0x4300, %eax
	EXPECT	"masked flags", 0
	mov	kernel_cs, %rax
	EXPECT	"CS in ring 0", CODE64
	mov	kernel_ss, %rax
	EXPECT	"SS", CODE64 + 8
	mov	%rbx, %rax
	EXPECT	"CS in ring 3", USER_CODE64
	mov	%rbp, %rax
	EXPECT	"SS", USER_DATA32
	mov	%r15, %rax
	and	$0x246, %eax
	EXPECT	"RFLAGS", 0x246
	mov	$0xc0000080, %ecx
	rdmsr
	and	$~1, %eax
	wrmsr
	TRY
	USER
	syscall
	CAUGHT	"SYSCALL without EFER.SCE", 6

	PUTS	"SYSENTER\n"
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
	xor	%eax, %eax
	cpuid
	cmp	$0x6c65746e, %ecx /* "ntel" */
	je	1f
	TRY
	USER
	sysenter
66:	mov	caught_vector, %eax
	xor	$6, %eax /* others than Intel have no SYSENTER in long mode */
	add	$STACK_TOP - 0x100, %eax
	jmp	2f
1:	USER
	mov	%rsp, %rcx
	mov	$1f, %edx
	sysenter
1:	int	$0x81
	mov	%rbx, %rax
2:	EXPECT	"RSP, or no such instruction", (STACK_TOP - 0x100)

	PUTS	"forbidden in ring 3\n"
	TRY
	USER
	swapgs
	CAUGHT	"swapgs", 13, 0
	TRY
	USER
	hlt
	CAUGHT	"hlt", 13, 0
	TRY
	USER
	mov	$SCRATCH_PORT, %edx
	in	%dx, %al
	CAUGHT	"in", 13, 0
	TRY
	USER
	mov	SECRET, %rax
	CAUGHT	"supervisor memory", 14, 5
	mov	caught_cr2, %rax
	EXPECT	"CR2", SECRET
	TRY
	USER
	mov	HOLE, %rax
	CAUGHT	"no memory", 14, 4
	TRY
	USER
	movabs	$0x0001000000000000, %rax
	mov	(%rax), %rax
	CAUGHT	"a non-canonical address", 13, 0
	TRY
	USER
	mov	$0x81 * 8, %eax
	int	$0x80
	CAUGHT	"a gate that isn't there", 13, any /* emulators: vector * 16 + 2 */
	mov	caught_sp, %rax
	EXPECT	"RSP of ring 3", USER_STACK

	PUTS	"SMEP, SMAP, where CPUID has them\n"
	mov	$7, %eax
	xor	%ecx, %ecx
	cpuid
	bt	$20, %ebx
	jnc	1f
	mov	%cr4, %rax
	bts	$21, %rax
	mov	%rax, %cr4
	.byte	0x0f, 0x01, 0xcb /* stac */
	movl	$1, 0x2e0000
	.byte	0x0f, 0x01, 0xca /* clac */
	mov	%cr4, %rax
	btr	$21, %rax
	mov	%rax, %cr4
1:
	PUTS	"an IST stack\n"
	GATE64	3, on_ist, 0xee, 1
	int3
	mov	ist_rsp, %rax
	EXPECT	"RSP", (IST1 - 40)
	mov	ist_saved, %rax
	EXPECT	"the interrupted one", STACK_TOP
	USER
	int3
	int	$0x81
	mov	ist_rsp, %rax
	EXPECT	"from ring 3", (IST1 - 40)

	PUTS	"a double fault on its own stack\n"
	GATE64	8, doubled, 0x8e, 2
	mov	$HOLE + 0x100, %esp
lost:	push	%rax
	PUTS	"still there\n"
	EXIT

doubled:
	pop	%rax
	EXPECT	"error code", 0
	pop	%rax
	EXPECT	"at", lost
	add	$16, %rsp
	pop	%rax
	EXPECT	"RSP", HOLE + 0x100
	mov	%rsp, %rax
	add	$8, %rax
	EXPECT	"stack", IST2
	mov	%cr2, %rax
	EXPECT	"CR2", HOLE + 0xf8
	EXIT

entry:	/* RAX = RDI + RSI */
	swapgs
	mov	%gs:0, %rax
	mov	%rax, kernel_gs
	mov	%rcx, kernel_rcx
	mov	%r11, kernel_r11
	pushf
	pop	kernel_flags
	mov	%cs, %eax
	mov	%rax, kernel_cs
	mov	%ss, %eax
	mov	%rax, kernel_ss
	lea	(%rdi, %rsi), %rax
	swapgs
	sysretq

entered:
	mov	%rsp, %rbx
	sysexitq

on_ist:
	mov	%rsp, ist_rsp
	push	%rax
	mov	32(%rsp), %rax
	mov	%rax, ist_saved
	pop	%rax
	iretq

back:	/* to ring 0, behind the INT */
	pop	caught_rip
	mov	$STACK_TOP, %esp
	jmp	*caught_rip

	.data
	.balign 8
user_area:	.quad 0x75
kernel_area:	.quad 0x6b
kernel_gs:	.quad 0
kernel_rcx:	.quad 0
kernel_r11:	.quad 0
kernel_flags:	.quad 0
kernel_cs:	.quad 0
kernel_ss:	.quad 0
ist_rsp:	.quad 0
ist_saved:	.quad 0
	.balign 16
tss:	.fill	108, 1, 0
