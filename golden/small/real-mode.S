/*
 * Real mode from the reset vector, as firmware starts. The 64 KiB of this image end at 4 GiB. No
 * far jump leaves them before the rest of the guest is in RAM.
 */
#define COM1 0x3f8
#define EXIT_PORT 0xf4
#define RAM 0x7000 /* where the second part runs, with CS 0 */
#define OFF(label) (RAM + (label) - second)

	/* The name and AX, which must be `value`; both lie behind the call. DX is spoilt. */
	.macro EXPECT name, value
	call	expect
	.word	\value
	.asciz	"\name"
	.endm

	.globl	reset_vector
	.text
	.code16
rom:
start:
	cli
	cld
	mov	$COM1, %dx
	mov	$'r', %al
	out	%al, %dx
	mov	$'o', %al
	out	%al, %dx
	mov	$'m', %al
	out	%al, %dx
	mov	$10, %al
	out	%al, %dx
	/* A write to ROM is lost. */
	movb	$0x55, %cs:start - rom
	/* The second part to RAM, read through CS. */
	xor	%ax, %ax
	mov	%ax, %es
	mov	%ax, %ss
	mov	$0x7000, %sp
	mov	$second - rom, %si
	mov	$RAM, %di
	mov	$second_end - second, %cx
	rep movsb %cs:(%si), %es:(%di)
	mov	%cs:start - rom, %bl
	ljmp	$0, $RAM

second:
	xor	%ax, %ax
	mov	%ax, %ds
	mov	%bl, %al
	EXPECT	"rom keeps its byte", 0xfa
	mov	%cs, %ax
	EXPECT	"cs", 0

	/* The interrupt table. */
	movw	$OFF(on_int), 0x40 * 4
	movw	$0, 0x40 * 4 + 2
	movw	$OFF(on_divide), 0
	movw	$0, 2
	movw	$OFF(on_timer), 8 * 4
	movw	$0, 8 * 4 + 2
	mov	$5, %ax
	mov	$7, %bx
	stc
	sti
	int	$0x40
	pushf
	cli
	EXPECT	"int iret", 12
	pop	%ax
	and	$0x201, %ax
	EXPECT	"flags kept", 0x201
	mov	OFF(seen_flags), %ax
	and	$0x200, %ax
	EXPECT	"if within", 0

	mov	$100, %ax
	mov	$0, %cl
	movw	$0, OFF(divides)
	div	%cl /* the handler makes CL 7 and returns to the instruction itself */
	EXPECT	"divide", 0x020e
	mov	OFF(divides), %ax
	EXPECT	"divide errors", 1

	/* Segments: 16 * selector, offsets that wrap. */
	mov	$0x1234, %ax
	mov	%ax, %es
	movw	$0xbeef, %es:0x10
	mov	$0x1235, %ax
	mov	%ax, %fs
	mov	%fs:0, %ax
	EXPECT	"segment", 0xbeef
	mov	$0xfffe, %bx
	movw	$0x1111, %es:(%bx)
	mov	$2, %si
	movw	$0x2222, %es:(%bx, %si)
	mov	%es:0, %ax
	EXPECT	"offset wraps", 0x2222
	/* Above 1 MiB: A20 is open. */
	movb	$0xaa, 0x10
	mov	$0xffff, %ax
	mov	%ax, %es
	movb	$0xbb, %es:0x20
	mov	0x10, %al
	xor	%ah, %ah
	EXPECT	"a20", 0xaa
	xor	%ax, %ax
	mov	%ax, %es

	/* 32-bit operands and addresses. */
	mov	$0x12345678, %eax
	rol	$16, %eax
	EXPECT	"rol32", 0x1234
	mov	$0x8000, %ebx
	movl	$0xcafe, (%ebx)
	mov	0x8000, %ax
	EXPECT	"addr32", 0xcafe

	/* String I/O. */
	mov	$OFF(text), %si
	mov	$text_end - text, %cx
	mov	$COM1, %dx
	rep outsb

	/* The timer through the interrupt table, as a BIOS has it. */
	mov	$0x11, %al
	out	%al, $0x20
	mov	$8, %al
	out	%al, $0x21
	mov	$4, %al
	out	%al, $0x21
	mov	$1, %al
	out	%al, $0x21
	mov	$0x30, %al
	out	%al, $0x43
	mov	$0xfe, %al
	out	%al, $0x21
	mov	$0xa9, %al
	out	%al, $0x40
	mov	$4, %al
	out	%al, $0x40
	sti
	hlt
	cli
	mov	OFF(ticks), %ax
	EXPECT	"ticks", 1

	/* Protected mode and back: a segment keeps its limit ("unreal"). */
	lgdtl	OFF(gdt_pointer)
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	mov	$8, %bx
	mov	%bx, %fs
	and	$0xfe, %al
	mov	%eax, %cr0
	mov	$0x123456, %ebx
	movl	$0x600d, %fs:(%ebx)
	mov	%fs:(%ebx), %ax
	EXPECT	"unreal", 0x600d
	mov	%cr0, %eax
	EXPECT	"cr0", 0x0010

	/* The CMOS, the extended memory size. */
	mov	$0x31, %al
	out	%al, $0x70
	in	$0x71, %al
	mov	%al, %ah
	mov	$0x30, %al
	out	%al, $0x70
	in	$0x71, %al
	EXPECT	"kib above 1 mib", 0x3c00

	mov	OFF(failures), %eax
	mov	$EXIT_PORT, %dx
	out	%eax, %dx
1:	hlt
	jmp	1b

on_int:
	add	%bx, %ax
	push	%ax
	pushf
	pop	%ax
	mov	%ax, OFF(seen_flags)
	pop	%ax
	iret

on_divide:
	mov	$7, %cl
	incw	OFF(divides)
	iret

on_timer:
	push	%ax
	incw	OFF(ticks)
	mov	$0x20, %al
	out	%al, $0x20
	pop	%ax
	iret

expect:
	pop	OFF(place)
	pusha
	mov	%ax, %bx
	mov	OFF(place), %si
	lodsw
	mov	%ax, %cx
	mov	$COM1, %dx
1:	lodsb
	test	%al, %al
	jz	1f
	out	%al, %dx
	jmp	1b
1:	mov	%si, OFF(place)
	mov	$':', %al
	out	%al, %dx
	mov	$' ', %al
	out	%al, %dx
	mov	$4, %si
1:	rol	$4, %bx
	mov	%bl, %al
	and	$15, %al
	add	$'0', %al
	cmp	$'9', %al
	jbe	2f
	add	$'a' - '9' - 1, %al
2:	out	%al, %dx
	dec	%si
	jnz	1b
	cmp	%bx, %cx
	je	1f
	incw	OFF(failures)
	mov	$'!', %al
	out	%al, %dx
1:	mov	$'\n', %al
	out	%al, %dx
	popa
	jmp	*OFF(place)

text:	.ascii	"rep outsb\n"
text_end:
	.balign	4
failures:
	.long	0
seen_flags:
	.word	0
divides:
	.word	0
ticks:	.word	0
place:	.word	0
	.balign	8
gdt:	.quad	0, 0x00cf93000000ffff
gdt_pointer:
	.word	15
	.long	OFF(gdt)
second_end:

	.org	0xfff0
reset_vector:
	jmp	start
	.org	0x10000
