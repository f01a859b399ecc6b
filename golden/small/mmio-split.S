/*
 * MMIO across an 8-byte boundary, and across pages, and by INS: the result must be right, but
 * engines split the access differently, and Unicorn tries INS's write first.
 */
#include "common.h"

main:
	mov	$SCRATCH_MMIO, %ebx
	movl	$0x11223344, 1(%ebx)
	mov	1(%ebx), %eax
	EXPECT	"movl, unaligned", 0x11223344
	movl	$0x55667788, 6(%ebx)
	mov	6(%ebx), %eax
	EXPECT	"movl across 8 bytes", 0x55667788
	movw	$0xabcd, 0x0f(%ebx)
	movzwl	0x0f(%ebx), %eax
	EXPECT	"movw across 16 bytes", 0xabcd
	movl	$0xa1b2c3d4, 0xffe(%ebx)
	mov	0xffe(%ebx), %eax
	EXPECT	"movl across pages", 0xa1b2c3d4
	movzwl	0x1000(%ebx), %eax
	EXPECT	"its second half", 0xa1b2
	movw	$0x9876, 0xfff(%ebx)
	movzwl	0xfff(%ebx), %eax
	EXPECT	"movw across pages", 0x9876
	addl	$1, 0xffd(%ebx)
	mov	0xffd(%ebx), %eax
	EXPECT	"addl across pages", 0x9876d401
	mov	$0xcffffffe, %ebx
	mov	(%ebx), %eax
	shr	$16, %eax
	EXPECT	"the half that a device has", 0x4400
	PUTS	"INS to MMIO, OUTS from it\n"
	mov	$COUNT_PORT, %edx
	mov	$0x77, %eax
	out	%eax, %dx
	mov	$SCRATCH_MMIO, %edi
	insl
	mov	SCRATCH_MMIO, %eax
	EXPECT	"insl", 0x77
	mov	$SCRATCH_PORT, %edx
	mov	$SCRATCH_MMIO, %esi
	outsb
	xor	%eax, %eax
	in	%dx, %al
	EXPECT	"outsb", 0x77
	EXIT
