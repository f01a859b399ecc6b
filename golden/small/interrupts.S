/*
 * External interrupts through the 8259 pair: UART, PIT and RTC. Handlers return with interrupts
 * off, and almost everything is awaited by STI; HLT, so that each interrupt comes at one place.
 */
#include "common.h"

#define UNMASK(irqs) mov $~(irqs) & 0xff, %al; out %al, $0x21
#define UNMASK_SLAVE(irqs) mov $~(irqs) & 0xff, %al; out %al, $0xa1

	/* The UART's "transmitter empty" interrupt; raised as soon as it is enabled. */
	.macro UART_RAISE
	mov	$0, %al
	mov	$COM1 + 1, %edx
	out	%al, %dx
	mov	$2, %al
	out	%al, %dx
	.endm

	.macro UART_DROP
	mov	$0, %al
	mov	$COM1 + 1, %edx
	out	%al, %dx
	.endm

	.macro PIT_STOP
	mov	$0x30, %al
	out	%al, $0x43
	.endm

	/* Counter 0 in `mode`, so many ticks. */
	.macro PIT mode, ticks
	mov	$(0x30 | \mode << 1), %al
	out	%al, $0x43
	mov	$(\ticks & 0xff), %al
	out	%al, $0x40
	mov	$(\ticks >> 8), %al
	out	%al, $0x40
	.endm

	/* The periodic interrupt, 1024 Hz. */
	.macro RTC_START
	mov	$0x0a, %al
	out	%al, $0x70
	mov	$0x26, %al
	out	%al, $0x71
	mov	$0x0c, %al
	out	%al, $0x70
	in	$0x71, %al
	mov	$0x0b, %al
	out	%al, $0x70
	mov	$0x42, %al
	out	%al, $0x71
	.endm

	.macro RTC_STOP
	mov	$0x0b, %al
	out	%al, $0x70
	mov	$0x02, %al
	out	%al, $0x71
	.endm

	.macro EOI
	mov	$0x20, %al
	out	%al, $0x20
	.endm

main:
	GATE	0x20, timer
	GATE	0x24, uart
	GATE	0x28, rtc
	GATE	0x27, spurious
	PIT_STOP
	mov	$COM1 + 4, %edx
	mov	$0x08, %al /* OUT2 lets the UART's interrupt through */
	out	%al, %dx
	call	pic_init

	PUTS	"UART\n"
	UNMASK(0x10)
	UART_RAISE
	sti
	hlt
	EXPECT_AT "interrupts", uart_count, 1
	EXPECT_AT "what the UART said", uart_cause, 2
	mov	uart_flags, %eax
	and	$0x200, %eax
	EXPECT	"IF in the interrupted flags", 0x200

	PUTS	"masked, then not\n"
	UNMASK(0)
	UART_RAISE
	sti
	nop
	nop
	cli
	EXPECT_AT "interrupts while masked", uart_count, 1
	UNMASK(0x10)
	sti
	hlt
	EXPECT_AT "interrupts", uart_count, 2

	PUTS	"shadow of STI\n"
	UART_RAISE
	sti
	cli
	EXPECT_AT "STI; CLI lets none in", uart_count, 2
	xor	%ebx, %ebx
	sti
	inc	%ebx
shadow_end:
	inc	%ebx
	inc	%ebx
	EXPECT_AT "interrupts", uart_count, 3
	EXPECT_AT "at", uart_eip, shadow_end
	EXPECT_AT "EBX then", uart_ebx, 1

	PUTS	"POPF has no shadow\n"
	UART_RAISE
	pushl	$0x202
	popf
popf_end:
	nop
	EXPECT_AT "interrupts", uart_count, 4
	EXPECT_AT "at", uart_eip, popf_end

	PUTS	"an exit makes it pending with interrupts on\n"
	mov	$COM1 + 1, %edx
	mov	$2, %al
	sti
	nop
	out	%al, %dx
raised:	nop
	EXPECT_AT "interrupts", uart_count, 5
	EXPECT_AT "at", uart_eip, raised

	PUTS	"PIT, one shot\n"
	UNMASK(0x01)
	PIT	0, 1193
	sti
	hlt
	EXPECT_AT "interrupts", timer_count, 1
	PUTS	"PIT, rate generator\n"
	PIT	2, 1193
	mov	$5, %ecx
1:	sti
	hlt
	loop	1b
	EXPECT_AT "interrupts", timer_count, 6
	PIT_STOP
	call	pic_init

	PUTS	"a higher one interrupts a lower one's handler\n"
	UNMASK(0x11)
	movl	$1, nest
	UART_RAISE
	sti
	hlt
	EXPECT_AT "UART", uart_count, 6
	EXPECT_AT "timer", timer_count, 7
	EXPECT_AT "timer's handler ran within", nested, 1
	PIT_STOP
	call	pic_init

	PUTS	"a lower one waits for the end of a higher one's handler\n"
	UNMASK(0x11)
	movl	$2, nest
	PIT	0, 1193
	sti
	hlt
	EXPECT_AT "timer", timer_count, 8
	EXPECT_AT "UART interrupts within", nested, 0
	EXPECT_AT "UART", uart_count, 6
	sti
	hlt
	EXPECT_AT "afterwards", uart_count, 7
	PIT_STOP
	call	pic_init

	PUTS	"both at once: the higher one first\n"
	UNMASK(0x04)
	UNMASK_SLAVE(0x01)
	PIT	0, 2
	RTC_START /* its first interrupt comes long after the timer's request */
	sti
	hlt
	RTC_STOP
	UART_RAISE
	UNMASK(0x11)
	movl	$0, order
	sti
	hlt
	sti
	hlt
	EXPECT_AT "order", order, 0x2024
	PIT_STOP
	call	pic_init

	PUTS	"a level that goes before it was taken leaves nothing\n"
	mov	$0x4d0, %edx
	mov	$0x10, %al
	out	%al, %dx
	UNMASK(0x10)
	UART_RAISE
	UART_DROP
	sti
	nop
	nop
	cli
	EXPECT_AT "UART", uart_count, 8
	mov	$0x4d0, %edx
	mov	$0, %al
	out	%al, %dx

	PUTS	"RTC, through the slave\n"
	UNMASK(0x04)
	UNMASK_SLAVE(0x01)
	RTC_START
	mov	$3, %ecx
1:	sti
	hlt
	loop	1b
	RTC_STOP
	EXPECT_AT "interrupts", rtc_count, 4
	EXPECT_AT "spurious ones", spurious_count, 0
	EXIT

pic_init:
	mov	$0x11, %al
	out	%al, $0x20
	out	%al, $0xa0
	mov	$0x20, %al
	out	%al, $0x21
	mov	$0x28, %al
	out	%al, $0xa1
	mov	$4, %al
	out	%al, $0x21
	mov	$2, %al
	out	%al, $0xa1
	mov	$1, %al
	out	%al, $0x21
	out	%al, $0xa1
	UNMASK(0)
	UNMASK_SLAVE(0)
	ret

uart:
	pusha
	incl	uart_count
	mov	32(%esp), %eax
	mov	%eax, uart_eip
	mov	40(%esp), %eax
	mov	%eax, uart_flags
	mov	%ebx, uart_ebx
	shll	$8, order
	orl	$0x24, order
	mov	$COM1 + 2, %edx
	xor	%eax, %eax
	in	%dx, %al
	mov	%eax, uart_cause
	UART_DROP /* or the next character printed raises it again */
	cmpl	$1, nest
	jne	1f
	movl	$0, nest
	PIT	0, 1193
	mov	timer_count, %esi
	sti
	hlt
	mov	timer_count, %eax
	sub	%esi, %eax
	mov	%eax, nested
1:	EOI
	popa
	andl	$~0x200, 8(%esp)
	iret

timer:
	pusha
	incl	timer_count
	shll	$8, order
	orl	$0x20, order
	cmpl	$2, nest
	jne	1f
	movl	$0, nest
	UART_RAISE
	mov	uart_count, %esi
	sti
	nop
	nop
	cli
	mov	uart_count, %eax
	sub	%esi, %eax
	mov	%eax, nested
1:	EOI
	popa
	andl	$~0x200, 8(%esp)
	iret

rtc:
	pusha
	incl	rtc_count
	mov	$0x0c, %al
	out	%al, $0x70
	in	$0x71, %al
	mov	$0x20, %al
	out	%al, $0xa0
	out	%al, $0x20
	popa
	andl	$~0x200, 8(%esp)
	iret

spurious:
	incl	spurious_count
	iret

	.data
	.balign 4
uart_count:	.long 0
uart_cause:	.long 0
uart_eip:	.long 0
uart_ebx:	.long 0
uart_flags:	.long 0
timer_count:	.long 0
rtc_count:	.long 0
spurious_count:	.long 0
nest:		.long 0
nested:		.long 99
order:		.long 0
