/*
 * Long mode for the small guests: include after common.h. `call enter_long` from 32-bit code maps
 * the first 4 GiB to themselves by 2 MiB pages and returns in 64-bit code; all exceptions are
 * caught as in 32-bit code.
 */
#define PML4 0x10000
#define PDPT 0x11000
#define PAGE_DIRECTORY 0x12000 /* four */

	/* Sets a 64-bit IDT entry; EAX is spoilt. */
	.macro GATE64 vector, handler, type=0x8e, ist=0
	mov	$\handler, %eax
	movw	%ax, idt + 16 * \vector
	movw	$CODE64, idt + 16 * \vector + 2
	movw	$(\type << 8 | \ist), idt + 16 * \vector + 4
	shr	$16, %eax
	movw	%ax, idt + 16 * \vector + 6
	movl	$0, idt + 16 * \vector + 8
	.endm

	.code32
enter_long:
	pop	%ebx
	mov	$PML4, %edi
	xor	%eax, %eax
	mov	$6 * 1024, %ecx
	rep stosl
	movl	$(PDPT | 7), PML4
	mov	$(PAGE_DIRECTORY | 7), %eax
	mov	$PDPT, %edi
	mov	$4, %ecx
1:	mov	%eax, (%edi)
	add	$0x1000, %eax
	add	$8, %edi
	loop	1b
	mov	$0x87, %eax /* 2 MiB, user, writable */
	mov	$PAGE_DIRECTORY, %edi
	mov	$2048, %ecx
1:	mov	%eax, (%edi)
	add	$0x200000, %eax
	add	$8, %edi
	loop	1b
	mov	$PML4, %eax
	mov	%eax, %cr3
	mov	%cr4, %eax
	or	$0x30, %eax /* PAE, PSE */
	mov	%eax, %cr4
	mov	$0xc0000080, %ecx
	rdmsr
	or	$0x901, %eax /* NXE, LME, SCE */
	wrmsr
	mov	%cr0, %eax
	or	$0x80010000, %eax /* PG, WP */
	mov	%eax, %cr0
	ljmp	$CODE64, $1f
	.code64
1:	mov	%ebx, %ebx
	mov	$STACK_TOP, %esp
	push	%rbx
	mov	$stub64_0, %ebx
	mov	$idt, %edi
	mov	$32, %ecx
1:	mov	%ebx, %eax
	mov	%ax, (%rdi)
	movw	$CODE64, 2(%rdi)
	movw	$0x8e00, 4(%rdi)
	shr	$16, %eax
	mov	%ax, 6(%rdi)
	movq	$0, 8(%rdi)
	add	$16, %rdi
	add	$stub64_1 - stub64_0, %ebx
	loop	1b
	movw	$16 * 256 - 1, idt_pointer
	lidt	idt_pointer
	ret

puts64:	/* RSI */
	pushf
	push	%rax
	push	%rdx
	push	%rsi
	cld
	mov	$COM1, %edx
1:	lodsb
	test	%al, %al
	jz	2f
	out	%al, %dx
	jmp	1b
2:	pop	%rsi
	pop	%rdx
	pop	%rax
	popf
	ret

hex64:	/* RAX, 16 digits */
	pushf
	push	%rax
	push	%rbx
	push	%rcx
	push	%rdx
	mov	$COM1, %edx
	mov	%rax, %rbx
	mov	$16, %ecx
1:	rol	$4, %rbx
	mov	%ebx, %eax
	and	$15, %eax
	movzbl	digits(%eax), %eax
	out	%al, %dx
	loop	1b
	pop	%rdx
	pop	%rcx
	pop	%rbx
	pop	%rax
	popf
	ret

expect64: /* text RSI, value RAX, wanted RCX */
	pushf
	push	%rax
	push	%rsi
	call	puts64
	mov	$colon, %esi
	call	puts64
	call	hex64
	cmp	%rcx, %rax
	je	1f
	mov	$not_it, %esi
	call	puts64
	mov	%rcx, %rax
	call	hex64
	incl	failures
1:	mov	$newline, %esi
	call	puts64
	pop	%rsi
	pop	%rax
	popf
	ret

	.macro STUB64 vector, error
	.balign 16
stub64_\vector:
	.if !\error
	pushq	$-1
	.else
	nop
	nop
	.endif
	pushq	$\vector
	jmp	caught64
	.endm
	.irp	vector, 0, 1, 2, 3, 4, 5, 6, 7
	STUB64	\vector, 0
	.endr
	STUB64	8, 1
	STUB64	9, 0
	.irp	vector, 10, 11, 12, 13, 14
	STUB64	\vector, 1
	.endr
	.irp	vector, 15, 16
	STUB64	\vector, 0
	.endr
	STUB64	17, 1
	.irp	vector, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	STUB64	\vector, 0
	.endr

caught64:
	popq	caught_vector
	popq	caught_code
	popq	caught_rip
	popq	caught_cs
	popq	caught_flags
	popq	caught_sp /* the interrupted RSP */
	push	%rax
	mov	%cr2, %rax
	mov	%rax, caught_cr2
	pop	%rax
	cmpq	$0, recover
	je	1f
	mov	recover_sp, %rsp
	cld
	push	recover
	movq	$0, recover
	ret
1:	BITS	64
	PUTS	"unexpected "
	mov	caught_vector, %rax
	EXPECT	"exception", -1
	mov	caught_rip, %rax
	EXPECT	"  at", -1
	mov	caught_code, %rax
	EXPECT	"  error code", -1
	jmp	finish64

finish64:
	mov	failures, %eax
	mov	$EXIT_PORT, %edx
	out	%eax, %dx
1:	hlt
	jmp	1b

	BITS	32
	.text
