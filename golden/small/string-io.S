/* INS and OUTS with and without REP, both directions, across pages, and what they leave behind. */
#include "common.h"

main:
	PUTS	"rep outsb: "
	mov	$text, %esi
	mov	$text_end - text, %ecx
	mov	$COM1, %edx
	rep outsb
	mov	%ecx, %eax
	EXPECT	"ECX", 0
	mov	%esi, %eax
	EXPECT	"ESI", text_end
	PUTS	"std; rep outsb: "
	mov	$text_end - 2, %esi
	mov	$text_end - text - 1, %ecx
	std
	rep outsb
	cld
	PUTS	"\n"
	mov	%esi, %eax
	EXPECT	"ESI", (text - 1)

	mov	$words, %esi
	mov	$SCRATCH_PORT, %edx
	outsb
	outsw
	outsl
	mov	%esi, %eax
	EXPECT	"outsb, outsw, outsl: ESI", words + 7
	in	%dx, %eax
	EXPECT	"the last one", 0x07060504

	PUTS	"rep insl\n"
	mov	$COUNT_PORT, %edx
	mov	$0x80, %eax
	out	%eax, %dx
	mov	$SCRATCH_RAM, %edi
	mov	$5, %ecx
	rep insl
	EXPECT_AT "first", SCRATCH_RAM, 0x80
	EXPECT_AT "last", SCRATCH_RAM + 16, 0x84
	EXPECT_AT "behind it", SCRATCH_RAM + 20, 0
	mov	%edi, %eax
	EXPECT	"EDI", SCRATCH_RAM + 20

	PUTS	"rep insb across pages\n"
	mov	$SCRATCH_RAM + 0xffe, %edi
	mov	$4, %ecx
	rep insb
	EXPECT_AT "both sides", SCRATCH_RAM + 0xffe, 0x88878685
	PUTS	"insl across pages\n"
	mov	$0x44332211, %eax
	out	%eax, %dx
	mov	$SCRATCH_RAM + 0x1ffd, %edi
	insl
	EXPECT_AT "both sides", SCRATCH_RAM + 0x1ffd, 0x44332211
	PUTS	"outsw across pages\n"
	mov	$SCRATCH_RAM + 0x1ffe, %esi
	mov	$SCRATCH_PORT, %edx
	outsw
	outsw
	xor	%eax, %eax
	in	%dx, %ax
	EXPECT	"the second", 0x0044
	PUTS	"std; rep insw\n"
	mov	$COUNT_PORT, %edx
	mov	$0x1000, %eax
	out	%eax, %dx
	mov	$SCRATCH_RAM + 0x3000, %edi
	mov	$3, %ecx
	std
	rep insw
	cld
	EXPECT_AT "first two", SCRATCH_RAM + 0x2ffe, 0x10001001
	mov	%edi, %eax
	EXPECT	"EDI", SCRATCH_RAM + 0x2ffa

	PUTS	"nothing to do\n"
	xor	%ecx, %ecx
	rep outsb
	rep insb
	mov	%edi, %eax
	EXPECT	"EDI", SCRATCH_RAM + 0x2ffa
	PUTS	"long ones\n"
	mov	$SCRATCH_PORT, %edx
	mov	$SCRATCH_RAM, %esi
	mov	$80, %ecx
	rep outsb
	mov	%ecx, %eax
	EXPECT	"ECX", 0
	mov	%esi, %eax
	EXPECT	"ESI", SCRATCH_RAM + 80
	mov	$COUNT_PORT, %edx
	xor	%eax, %eax
	out	%eax, %dx
	mov	$SCRATCH_RAM + 0x4000, %edi
	mov	$80, %ecx
	rep insl
	EXPECT_AT "the last", (SCRATCH_RAM + 0x4000 + 316), 79

	PUTS	"segment and address size\n"
	mov	$SCRATCH_PORT, %edx
	movl	$0x5a, 0x8000
	mov	$0x12348000, %esi
	addr16 outsb
	xor	%eax, %eax
	in	%dx, %al
	EXPECT	"outsb from SI", 0x5a
	mov	%esi, %eax
	EXPECT	"ESI keeps its upper half", 0x12348001
	EXIT

	.data
text:	.ascii	"the quick brown fox\n"
text_end:
words:	.byte	1, 2, 3, 4, 5, 6, 7
