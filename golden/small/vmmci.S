/*
 * A driver of vmmci: finds it by PCI configuration mechanism 1, where no firmware placed it, makes
 * itself known, takes the interrupt of a command, acknowledges it, and resets the device.
 *
 * HOST_PORT is the harness's: a byte written there is a command that the host gives; a read tells
 * what the host has heard since the last one.
 */
#include "common.h"

#define HEARD_SHUTTING_DOWN 0x80 /* low bits: the command that was acknowledged */
#define NOT_ASKED 0x40		  /* nobody was there for the last command */

#define IRQ 3
#define SHUTDOWN 1
#define REBOOT 2
#define SYNCRTC 3

	/* Doubleword `register` of the device's configuration space, to EAX. */
	.macro CONFIG register
	mov	device, %eax
	add	$\register, %eax
	mov	$0xcf8, %edx
	out	%eax, %dx
	mov	$0xcfc, %edx
	in	%dx, %eax
	.endm

	/* EDX: a register of the header. */
	.macro AT offset
	mov	base, %edx
	add	$\offset, %edx
	.endm

	.macro STATUS value
	AT	0x12
	mov	$\value, %al
	out	%al, %dx
	.endm

	.macro GUEST_FEATURES value
	AT	0x04
	mov	$\value, %eax
	out	%eax, %dx
	.endm

	.macro COMMAND value
	AT	0x14
	mov	$\value, %eax
	out	%eax, %dx
	.endm

	.macro EXPECT_COMMAND value
	AT	0x14
	in	%dx, %eax
	EXPECT	"command", \value
	.endm

	.macro HOST command
	mov	$HOST_PORT, %edx
	mov	$\command, %al
	out	%al, %dx
	.endm

	.macro EXPECT_HEARD value
	mov	$HOST_PORT, %edx
	xor	%eax, %eax
	in	%dx, %al
	EXPECT	"heard by the host", \value
	.endm

	/* So many interrupts have come, and none waits. */
	.macro EXPECT_INTERRUPTS number
	sti
	nop
	nop
	cli
	EXPECT_AT "interrupts", count, \number
	.endm

main:
	PUTS	"on the bus\n"
	movl	$0x80000000, device
1:	CONFIG	0
	cmp	$0x07770b5d, %eax
	je	2f
	addl	$0x800, device
	cmpl	$0x80010000, device
	jb	1b
	EXPECT	"no such device; the last", 0x07770b5d
	EXIT
2:	EXPECT	"identity", 0x07770b5d
	CONFIG	0x04
	and	$0xffff, %eax
	EXPECT	"command: I/O is decoded", 1
	CONFIG	0x08
	EXPECT	"class and revision", 0x07800000
	CONFIG	0x3c
	EXPECT	"interrupt line and pin", 0x0100 | IRQ
	CONFIG	0x10
	EXPECT	"BAR 0", 0x1001
	and	$~3, %eax
	mov	%eax, base
	mov	$0x4d0, %edx
	xor	%eax, %eax
	in	%dx, %al
	and	$(1 << IRQ), %eax
	EXPECT	"its line is a level", 1 << IRQ

	GATE	(0x20 + IRQ), interrupt
	mov	$0x11, %al
	out	%al, $0x20
	mov	$0x20, %al
	out	%al, $0x21
	mov	$4, %al
	out	%al, $0x21
	mov	$1, %al
	out	%al, $0x21
	mov	$~(1 << IRQ) & 0xff, %al
	out	%al, $0x21

	PUTS	"the header\n"
	AT	0x00
	in	%dx, %eax
	EXPECT	"features", 7
	AT	0x0c
	xor	%eax, %eax
	in	%dx, %ax
	EXPECT	"queue size", 0
	AT	0x12
	in	%dx, %ax
	EXPECT	"status and ISR", 0

	PUTS	"without a driver\n"
	HOST	REBOOT
	EXPECT_HEARD NOT_ASKED
	STATUS	3
	HOST	REBOOT
	EXPECT_HEARD NOT_ASKED
	EXPECT_INTERRUPTS 0

	PUTS	"a driver that sets no clock\n"
	GUEST_FEATURES 2
	STATUS	7
	HOST	SYNCRTC
	EXPECT_HEARD NOT_ASKED

	PUTS	"asked to reboot, as it sleeps\n"
	GUEST_FEATURES 7
	HOST	REBOOT
	sti
	hlt
	EXPECT_AT "ISR", isr, 2
	EXPECT_COMMAND REBOOT
	EXPECT_HEARD 0
	COMMAND	REBOOT
	EXPECT_COMMAND 0
	EXPECT_HEARD REBOOT
	EXPECT_INTERRUPTS 1

	PUTS	"asked twice before it looks: the line is one level\n"
	HOST	SYNCRTC
	HOST	REBOOT
	HOST	SYNCRTC
	EXPECT_HEARD NOT_ASKED
	sti
	hlt
	EXPECT_COMMAND REBOOT
	COMMAND	SYNCRTC
	EXPECT_HEARD 0
	COMMAND	REBOOT
	EXPECT_HEARD REBOOT
	EXPECT_INTERRUPTS 2

	PUTS	"the level stays until ISR is read\n"
	movl	$1, lazy
	HOST	SYNCRTC
	sti
	hlt
	sti
	hlt
	EXPECT_AT "ISR, the second time", isr, 2
	EXPECT_INTERRUPTS 4
	COMMAND	SYNCRTC
	EXPECT_HEARD SYNCRTC

	PUTS	"it shuts down by itself\n"
	COMMAND	SHUTDOWN
	EXPECT_HEARD HEARD_SHUTTING_DOWN
	EXPECT_COMMAND 0

	PUTS	"a reset lowers the line, and forgets\n"
	HOST	REBOOT
	STATUS	0
	EXPECT_INTERRUPTS 4
	EXPECT_COMMAND 0
	AT	0x04
	in	%dx, %eax
	EXPECT	"guest features", 0
	AT	0x12
	in	%dx, %ax
	EXPECT	"status and ISR", 0
	HOST	REBOOT
	EXPECT_HEARD NOT_ASKED

	PUTS	"its ports moved\n"
	mov	device, %eax
	add	$0x10, %eax
	mov	$0xcf8, %edx
	out	%eax, %dx
	mov	$0xcfc, %edx
	mov	$0xffffffff, %eax
	out	%eax, %dx
	in	%dx, %eax
	EXPECT	"size mask", 0xfffff001
	mov	$0xc000, %eax
	out	%eax, %dx
	AT	0x00
	in	%dx, %eax
	EXPECT	"nobody where it was", 0xffffffff
	movl	$0xc000, base
	AT	0x00
	in	%dx, %eax
	EXPECT	"features", 7
	GUEST_FEATURES 7
	STATUS	7
	HOST	REBOOT
	sti
	hlt
	EXPECT_COMMAND REBOOT
	COMMAND	REBOOT
	EXPECT_HEARD REBOOT
	EXPECT_INTERRUPTS 5
	EXIT

interrupt:
	pusha
	incl	count
	cmpl	$0, lazy
	movl	$0, lazy
	jne	1f
	AT	0x13
	xor	%eax, %eax
	in	%dx, %al
	mov	%eax, isr
1:	mov	$0x20, %al
	out	%al, $0x20
	popa
	andl	$~0x200, 8(%esp)
	iret

	.data
	.balign 4
device:	.long	0
base:	.long	0
count:	.long	0
isr:	.long	0
lazy:	.long	0
