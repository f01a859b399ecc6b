/* Every kind of exit that an instruction asks for: ports, MMIO and MSR policy. */
#include "common.h"

main:
	PUTS	"ports, 1 2 4 bytes, immediate and DX\n"
	mov	$0x12345678, %eax
	mov	$SCRATCH_PORT, %edx
	out	%al, %dx
	add	$2, %edx
	out	%ax, %dx
	add	$2, %edx
	out	%eax, %dx
	xor	%eax, %eax
	mov	$SCRATCH_PORT, %edx
	in	%dx, %al
	EXPECT	"inb", 0x78
	mov	$SCRATCH_PORT + 2, %edx
	mov	$0xaaaaaaaa, %eax
	in	%dx, %ax
	EXPECT	"inw keeps the upper half", 0xaaaa5678
	mov	$SCRATCH_PORT + 4, %edx
	in	%dx, %eax
	EXPECT	"inl", 0x12345678
	mov	$SCRATCH_PORT + 3, %edx
	in	%dx, %eax
	EXPECT	"inl, unaligned", 0x34567856
	xor	%eax, %eax
	in	$0x92, %al
	EXPECT	"inb, immediate port", 2
	mov	$0x0b, %al
	out	%al, $0x70
	in	$0x71, %al
	movzbl	%al, %eax
	EXPECT	"RTC register B by index and data", 0x02

	PUTS	"wide accesses to a device on an 8-bit bus\n"
	mov	$0xa1b2c3d4, %eax
	mov	$BYTE_PORT, %edx
	out	%eax, %dx
	mov	$BYTE_PORT + 1, %edx
	xor	%eax, %eax
	in	%dx, %ax
	EXPECT	"inw", 0xb2c3
	PUTS	"nobody there\n"
	mov	$0x5678, %edx
	mov	$0x11223344, %eax
	out	%eax, %dx
	in	%dx, %eax
	EXPECT	"inl", 0xffffffff
	xor	%eax, %eax
	in	%dx, %al
	EXPECT	"inb", 0xff
	mov	$0xffff, %edx
	in	%dx, %al
	EXPECT	"inb from the last port", 0xff

	PUTS	"MMIO\n"
	mov	$SCRATCH_MMIO, %ebx
	mov	$0x89abcdef, %eax
	mov	%al, (%ebx)
	mov	%ax, 2(%ebx)
	mov	%eax, 4(%ebx)
	movl	$0x01020304, 8(%ebx)
	xor	%eax, %eax
	mov	(%ebx), %al
	EXPECT	"movb", 0xef
	mov	2(%ebx), %ax
	EXPECT	"movw", 0xcdef
	mov	4(%ebx), %eax
	EXPECT	"movl", 0x89abcdef
	movzbl	7(%ebx), %eax
	EXPECT	"movzb", 0x89
	movswl	6(%ebx), %eax
	EXPECT	"movsw", 0xffff89ab
	addl	$0x10, 8(%ebx)
	mov	8(%ebx), %eax
	EXPECT	"addl to memory", 0x01020314
	xor	%eax, %eax
	cmpb	$0x14, 8(%ebx)
	sete	%al
	EXPECT	"cmpb with memory", 1
	mov	$0x55, %eax
	xchg	%eax, 8(%ebx)
	EXPECT	"xchg", 0x01020314
	orb	$0x80, 8(%ebx)
	pushl	8(%ebx)
	pop	%eax
	EXPECT	"push from memory", 0xd5
	mov	$0xcafe, %eax
	push	%eax
	popl	12(%ebx)
	mov	12(%ebx), %eax
	EXPECT	"pop to memory", 0xcafe
	mov	$SCRATCH_MMIO, %esi
	mov	$SCRATCH_MMIO + 0x100, %edi
	mov	$4, %ecx
	rep movsl
	mov	$SCRATCH_MMIO + 0x100, %esi
	mov	$SCRATCH_RAM, %edi
	mov	$16, %ecx
	rep movsb
	EXPECT_AT "rep movs from MMIO to MMIO to RAM", SCRATCH_RAM + 4, 0x89abcdef
	mov	0xe0000000, %eax
	EXPECT	"nobody there", 0xffffffff
	movl	$1, 0xe0000000
	mov	0xfee00030, %eax
	EXPECT	"where a local APIC would be", 0

	PUTS	"MSRs\n"
	mov	$0x277, %ecx
	rdmsr
	EXPECT	"PAT, low", 0x00070406
	mov	%edx, %eax
	EXPECT	"PAT, high", 0x00070406
	mov	$0xc0000082, %ecx
	mov	$0x11223344, %eax
	mov	$0xffff8000, %edx
	wrmsr
	xor	%eax, %eax
	xor	%edx, %edx
	rdmsr
	EXPECT	"LSTAR, low", 0x11223344
	mov	%edx, %eax
	EXPECT	"LSTAR, high", 0xffff8000
	TRY
	mov	$0x12345678, %ecx
	rdmsr
	CAUGHT	"an MSR that isn't there: read", 13, 0
	mov	$0x12345678, %ecx
	wrmsr
	PUTS	"... written: ignored\n"
	TRY
	mov	$0xc0000080, %ecx
	mov	$2, %eax
	xor	%edx, %edx
	wrmsr
	CAUGHT	"EFER: a reserved bit", 13, 0
	EXIT
