/* Code that changes through another virtual address, and by a change of the page tables. */
#include "common.h"

#define AREA 0x240000
#define PAGES 0x20000
#define ALIAS 0x380000

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
	PUTS	"through an alias\n"
	movl	$PAGES + 0x1007, PAGES
	mov	$PAGES + 0x1000, %edi
	mov	$7, %eax
	mov	$1024, %ecx
1:	mov	%eax, (%edi)
	add	$0x1000, %eax
	add	$4, %edi
	loop	1b
	movl	$AREA + 7, PAGES + 0x1000 + (ALIAS >> 10)
	mov	$PAGES, %eax
	mov	%eax, %cr3
	mov	%cr0, %eax
	or	$0x80010000, %eax
	mov	%eax, %cr0
	PLACE	ALIAS, 0x77
	INVOKE	AREA
	EXPECT	"written there, run here", 0x77
	INVOKE	ALIAS
	EXPECT	"run there", 0x77
	PLACE	AREA, 0x78
	INVOKE	ALIAS
	EXPECT	"written here, run there", 0x78
	PUTS	"another page at the same address\n"
	PLACE	AREA + 0x1000, 0x79
	movl	$AREA + 0x1007, PAGES + 0x1000 + (ALIAS >> 10)
	invlpg	ALIAS
	INVOKE	ALIAS
	EXPECT	"run there", 0x79
	EXIT
