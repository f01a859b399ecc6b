// SPDX-License-Identifier: ISC
/*
 * selftest.c: a guest of a few instructions that a real KVM runs and a KVM that
 * only emulates does not: paging, an interrupt gate, a protected-mode IRET, SSE.
 *
 * Loaded at SELFTEST_ADDRESS and entered in flat 32-bit protected mode (CS 0x8,
 * data 0x10). It writes 0x600d600d to port 0x80 as one dword and halts.
 */
#include "vmm.h"

#define SELFTEST_ADDRESS 0x1000

__asm__(".pushsection .rodata\n"
	".balign 16\n"
	"selftest_start:\n"
	".code32\n"
	".set base, selftest_start - 0x1000\n" // SELFTEST_ADDRESS
	// One 4 MiB page, mapped to itself; SSE on.
	"	movl	$0x83, 0x4000\n"
	"	movl	$0x4000, %eax\n"
	"	movl	%eax, %cr3\n"
	"	movl	%cr4, %eax\n"
	"	orl	$0x210, %eax\n" // PSE, OSFXSR
	"	movl	%eax, %cr4\n"
	"	movl	%cr0, %eax\n"
	"	andl	$0xfffffffb, %eax\n" // EM
	"	orl	$0x80010002, %eax\n" // PG, WP, MP
	"	movl	%eax, %cr0\n"
	"	lgdt	gdt_pointer - base\n"
	"	ljmp	$8, $(reload - base)\n"
	"reload:\n"
	"	movl	$16, %eax\n"
	"	movl	%eax, %ss\n"
	"	movl	$0x6000, %esp\n"
	// Gate 0x30 of an IDT at 0x3000.
	"	movl	$(handler - base), %eax\n"
	"	movw	%ax, 0x3180\n"
	"	movw	$8, 0x3182\n"
	"	movw	$0x8e00, 0x3184\n"
	"	shrl	$16, %eax\n"
	"	movw	%ax, 0x3186\n"
	"	lidt	idt_pointer - base\n"
	"	xorl	%ebx, %ebx\n"
	"	int	$0x30\n"
	// Doubled in every lane, then the highest lane: the answer, but for a bit.
	"	movd	%ebx, %xmm0\n"
	"	pshufd	$0, %xmm0, %xmm0\n"
	"	paddd	%xmm0, %xmm0\n"
	"	xorps	%xmm1, %xmm1\n"
	"	paddd	%xmm0, %xmm1\n"
	"	psrldq	$12, %xmm1\n"
	"	movd	%xmm1, %eax\n"
	"	orl	$1, %eax\n"
	"	outl	%eax, $0x80\n"
	"stop:	hlt\n"
	"	jmp	stop\n"
	"handler:\n"
	"	movl	$0x3006b006, %ebx\n"
	"	iret\n"
	".balign 8\n"
	"gdt:	.quad	0, 0x00cf9b000000ffff, 0x00cf93000000ffff\n"
	"gdt_pointer: .word 23\n"
	"	.long	gdt - base\n"
	"idt_pointer: .word 0x187\n"
	"	.long	0x3000\n"
	"selftest_end:\n"
	".code64\n"
	".popsection\n");

extern const uint8_t selftest_start[], selftest_end[];

const uint8_t *vmm_selftest(uint32_t *size)
{
	*size = (uint32_t)(selftest_end - selftest_start);
	return selftest_start;
}
