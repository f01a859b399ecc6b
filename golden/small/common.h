/*
 * What the small guests share: a flat 32-bit start at 1 MiB, a GDT and an IDT, text on COM1,
 * checks, and faults that are caught and looked at.
 *
 * A guest includes this file first and defines `main`, entered with interrupts off and all gates
 * set. It ends with EXIT: port 0xf4 gets the number of failed checks.
 *
 * Nothing here needs a protected-mode IRET or an SSE instruction, so that guests that need neither
 * run on a KVM that only emulates.
 */

/* Hardware of the harness, beyond the classic machine's; harness.ts. */
#define SCRATCH_PORT 0x300	/* 16 ports that keep what they are given */
#define BYTE_PORT 0x310		/* the same, behind an 8-bit bus */
#define COUNT_PORT 0x320	/* reads count up from 0; writes set the count */
#define HOST_PORT 0x330		/* the host's side of vmmci; vmmci.S */
#define SCRATCH_MMIO 0xd0000000 /* two pages of MMIO that keep what they are given */

#define COM1 0x3f8
#define EXIT_PORT 0xf4

#define CODE32 0x08
#define DATA32 0x10
#define CODE64 0x18
#define USER_CODE32 0x23
#define USER_DATA32 0x2b
#define USER_CODE64 0x33
#define SYSENTER_CODE 0x38 /* ... and the three after it, as SYSENTER and SYSEXIT want them */
#define TSS 0x58	   /* 64-bit TSSs take two */
#define SPARE 0x68	   /* for a test's own descriptors, to 0x97 */

/* Memory that guests use for tables, below the image. */
#define STACK_TOP 0x90000
#define SCRATCH_RAM 0x200000 /* 2 MiB and up is a guest's own */

#define NO_CODE 0xffffffff

	.code32
	.set	bits, 32
	.globl	_start

	.macro BITS size
	.code\size
	.set	bits, \size
	.endm

	/* Text on COM1; all registers and flags stay. */
	.macro PUTS text
	.pushsection .rodata
77:	.asciz	"\text"
	.popsection
	.if bits == 64
	push	%rsi
	mov	$77b, %esi
	call	puts64
	pop	%rsi
	.else
	push	%esi
	mov	$77b, %esi
	call	puts32
	pop	%esi
	.endif
	.endm

	/* "text: value": the value of EAX or RAX, which must be `value`. */
	.macro EXPECT text, value
	.pushsection .rodata
77:	.asciz	"\text"
	.popsection
	.if bits == 64
	push	%rsi
	push	%rcx
	mov	$77b, %esi
	movabs	$\value, %rcx
	call	expect64
	pop	%rcx
	pop	%rsi
	.else
	push	%esi
	push	%ecx
	mov	$77b, %esi
	mov	$\value, %ecx
	call	expect32
	pop	%ecx
	pop	%esi
	.endif
	.endm

	/* The same for 32 bits of memory. */
	.macro EXPECT_AT text, place, value
	push	%eax
	mov	\place, %eax
	EXPECT	"\text", \value
	pop	%eax
	.endm

	/*
	 * Instructions between TRY and CAUGHT must raise the exception `vector`, with the error
	 * code `code` (or `any`). Afterwards caught_rip, caught_flags, caught_cr2 and caught_cs
	 * hold what the handler was given; caught_sp the handler's stack pointer without the frame,
	 * in 64-bit code the interrupted one. EAX is spoilt.
	 */
	.macro TRY
	movl	$-1, caught_vector
	movl	$66f, recover
	.if bits == 64
	mov	%rsp, recover_sp
	.else
	movl	%esp, recover_sp
	.endif
	.endm

	.macro CAUGHT text, vector, code=NO_CODE
66:	PUTS	"\text: "
	.if bits == 64
	mov	caught_vector, %eax
	EXPECT	"exception", \vector
	mov	caught_code, %eax
	.else
	EXPECT_AT "exception", caught_vector, \vector
	mov	caught_code, %eax
	.endif
	.ifc	"\code", "any"
	.else
	.if \code != NO_CODE
	PUTS	"    "
	EXPECT	"error code", \code
	.else
	cmpl	$NO_CODE, %eax
	je	67f
	PUTS	"    "
	EXPECT	"error code", NO_CODE
67:
	.endif
	.endif
	.endm

	/* Sets IDT entry `vector`; EAX and EDX are spoilt. */
	.macro GATE vector, handler, type=0x8e, selector=CODE32
	mov	$\handler, %eax
	movw	%ax, idt + 8 * \vector
	movw	$\selector, idt + 8 * \vector + 2
	movw	$(\type << 8), idt + 8 * \vector + 4
	shr	$16, %eax
	movw	%ax, idt + 8 * \vector + 6
	.endm

	.macro EXIT
	.if bits == 64
	jmp	finish64
	.else
	jmp	finish
	.endif
	.endm

	.text
	.code32
_start:
	lgdt	gdt_pointer
	ljmp	$CODE32, $1f
1:	mov	$DATA32, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %fs
	mov	%eax, %gs
	mov	%eax, %ss
	mov	$STACK_TOP, %esp
	cld
	/* All 32 exceptions to their stubs. */
	mov	$stub_0, %ebx
	mov	$idt, %edi
	mov	$32, %ecx
2:	mov	%ebx, %eax
	mov	%ax, (%edi)
	movw	$CODE32, 2(%edi)
	movw	$0x8e00, 4(%edi)
	shr	$16, %eax
	mov	%ax, 6(%edi)
	add	$8, %edi
	add	$stub_1 - stub_0, %ebx
	loop	2b
	lidt	idt_pointer
	call	main
finish:
	mov	failures, %eax
	mov	$EXIT_PORT, %edx
	out	%eax, %dx
1:	hlt
	jmp	1b

puts32:	/* ESI */
	pushf
	pusha
	cld
	mov	$COM1, %edx
1:	lodsb
	test	%al, %al
	jz	2f
	out	%al, %dx
	jmp	1b
2:	popa
	popf
	ret

hex32:	/* EAX, 8 digits */
	pushf
	pusha
	mov	$COM1, %edx
	mov	%eax, %ebx
	mov	$8, %ecx
1:	rol	$4, %ebx
	mov	%ebx, %eax
	and	$15, %eax
	movzbl	digits(%eax), %eax
	out	%al, %dx
	loop	1b
	popa
	popf
	ret

expect32: /* text ESI, value EAX, wanted ECX */
	pushf
	pusha
	call	puts32
	mov	$colon, %esi
	call	puts32
	call	hex32
	cmp	%ecx, %eax
	je	1f
	mov	$not_it, %esi
	call	puts32
	mov	%ecx, %eax
	call	hex32
	incl	failures
1:	mov	$newline, %esi
	call	puts32
	popa
	popf
	ret

	/* Stubs of one size: vector and an error code on the stack, then `caught`. */
	.macro STUB vector, error
	.balign 16
stub_\vector:
	.if !\error
	pushl	$NO_CODE
	.else
	nop
	.endif
	pushl	$\vector
	jmp	caught32
	.endm
	.irp	vector, 0, 1, 2, 3, 4, 5, 6, 7
	STUB	\vector, 0
	.endr
	STUB	8, 1
	STUB	9, 0
	.irp	vector, 10, 11, 12, 13, 14
	STUB	\vector, 1
	.endr
	.irp	vector, 15, 16
	STUB	\vector, 0
	.endr
	STUB	17, 1
	.irp	vector, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	STUB	\vector, 0
	.endr

	/* Not by IRET: the frame is dropped, and execution goes on where TRY said. */
caught32:
	popl	caught_vector
	popl	caught_code
	popl	caught_rip
	popl	caught_cs
	popl	caught_flags
	mov	%esp, caught_sp
	push	%eax
	mov	%cr2, %eax
	mov	%eax, caught_cr2
	mov	$DATA32, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	pop	%eax
	cmpl	$0, recover
	je	1f
	mov	recover_sp, %esp
	cld
	pushl	recover
	movl	$0, recover
	ret
1:	PUTS	"unexpected "
	mov	caught_vector, %eax
	EXPECT	"exception", 0xffffffff
	mov	caught_rip, %eax
	EXPECT	"  at", 0xffffffff
	mov	caught_code, %eax
	EXPECT	"  error code", 0xffffffff
	EXIT

	.section .rodata
digits:	.ascii	"0123456789abcdef"
colon:	.asciz	": "
not_it:	.asciz	" FAILED, wanted "
newline:
	.asciz	"\n"

	.data
	.balign 16
failures:
	.quad	0
caught_vector:
	.quad	0
caught_code:
	.quad	0
caught_rip:
	.quad	0
caught_cs:
	.quad	0
caught_flags:
	.quad	0
caught_sp:
	.quad	0
caught_cr2:
	.quad	0
recover:
	.quad	0
recover_sp:
	.quad	0

	.balign 16
gdt:	.quad	0
	.quad	0x00cf9b000000ffff /* 08 code, 32 bits, ring 0 */
	.quad	0x00cf93000000ffff /* 10 data, ring 0 */
	.quad	0x00af9b000000ffff /* 18 code, 64 bits, ring 0 */
	.quad	0x00cffb000000ffff /* 20 code, 32 bits, ring 3 */
	.quad	0x00cff3000000ffff /* 28 data, ring 3 */
	.quad	0x00affb000000ffff /* 30 code, 64 bits, ring 3 */
	.quad	0x00cf9b000000ffff /* 38 SYSENTER: code, ring 0 */
	.quad	0x00cf93000000ffff /* 40           data, ring 0 */
	.quad	0x00cffb000000ffff /* 48 SYSEXIT:  code, ring 3 */
	.quad	0x00cff3000000ffff /* 50           data, ring 3 */
	.quad	0, 0		   /* 58 TSS */
	.quad	0, 0, 0, 0, 0, 0   /* 68 a test's own */
gdt_end:
gdt_pointer:
	.word	gdt_end - gdt - 1
	.long	gdt, 0
idt_pointer:
	.word	8 * 256 - 1
	.long	idt, 0

	.bss
	.balign 16
idt:	.skip	16 * 256

	.text
