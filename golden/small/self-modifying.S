/* Code that writes code: in its own block, in its page, in other pages, across pages, by string
 * instructions. */
#include "common.h"

#define AREA 0x240000

	/* mov $value, %eax; ret at `place` */
	.macro PLACE place, value
	movb	$0xb8, \place
	movl	$\value, \place + 1
	movb	$0xc3, \place + 5
	.endm

	.macro INVOKE place
	mov	$\place, %ebx
	call	*%ebx
	.endm

main:
	PUTS	"the next instruction\n"
	movl	$0x11111111, 1f + 1
1:	mov	$0x22222222, %eax
	EXPECT	"EAX", 0x11111111
	movb	$0x90, 2f
	xor	%eax, %eax
2:	inc	%eax
	EXPECT	"an instruction gone", 0

	PUTS	"a loop that counts in its own immediate\n"
	xor	%ebx, %ebx
	mov	$1000, %ecx
1:	mov	$0, %eax
	.set	immediate, . - 4
	add	%eax, %ebx
	incl	immediate
	loop	1b
	mov	%ebx, %eax
	EXPECT	"sum", 499500

	PUTS	"another page\n"
	PLACE	AREA, 1
	INVOKE	AREA
	EXPECT	"first", 1
	PLACE	AREA, 2
	INVOKE	AREA
	EXPECT	"second", 2
	mov	$100, %ecx
	xor	%edx, %edx
1:	mov	%ecx, AREA + 1
	INVOKE	AREA
	add	%eax, %edx
	loop	1b
	mov	%edx, %eax
	EXPECT	"a hundred times", 5050
	movb	$0x7f, AREA + 4
	INVOKE	AREA
	EXPECT	"its last byte", 0x7f000001

	PUTS	"across pages\n"
	PLACE	AREA + 0xffd, 0x12345678
	INVOKE	AREA + 0xffd
	EXPECT	"first", 0x12345678
	movb	$0xab, AREA + 0x1000
	INVOKE	AREA + 0xffd
	EXPECT	"in the second page", 0x12ab5678
	movb	$0xcd, AREA + 0xfff
	INVOKE	AREA + 0xffd
	EXPECT	"in the first page", 0x12abcd78
	movl	$0x01020304, AREA + 0xffe
	INVOKE	AREA + 0xffd
	EXPECT	"in both", 0x01020304

	PUTS	"by a string instruction\n"
	PLACE	AREA + 0x100, 5
	PLACE	AREA + 0x200, 6
	INVOKE	AREA + 0x200
	EXPECT	"first", 6
	mov	$AREA + 0x100, %esi
	mov	$AREA + 0x200, %edi
	mov	$6, %ecx
	rep movsb
	INVOKE	AREA + 0x200
	EXPECT	"second", 5

	PUTS	"data beside code\n"
	PLACE	AREA + 0x300, 0
	mov	$50, %ecx
1:	INVOKE	AREA + 0x300
	incl	AREA + 0x380
	loop	1b
	EXPECT_AT "counted", AREA + 0x380, 50
	EXIT
