/* SPDX-License-Identifier: ISC */
/*
 * start.S: from Multiboot (version 0.6.96, 3.2) to 64-bit C, with nothing in between: the
 * first GiB is mapped as it is. Entries of the page tables have their accessed and dirty
 * bits set, as a processor would leave them, so that a run needs to write none. No
 * interrupt is on, and no handler is there: an exception is a triple fault.
 */
	.section .multiboot, "a"
	.align 4
	.long 0x1badb002, 0x00000003, -(0x1badb002 + 0x00000003)

	.section .text
	.code32
	.globl _start
_start:
	movl $tables_4, %edi
	movl $tables_3 + 0x23, (%edi)
	movl $tables_3, %edi
	movl $tables_2 + 0x23, (%edi)
	movl $tables_2, %edi
	movl $0xe3, %eax
	movl $512, %ecx
1:	movl %eax, (%edi)
	addl $0x200000, %eax
	addl $8, %edi
	loop 1b
	movl $tables_4, %eax
	movl %eax, %cr3
	movl %cr4, %eax
	orl $0x620, %eax		/* PAE OSFXSR OSXMMEXCPT */
	movl %eax, %cr4
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x100, %eax		/* LME */
	wrmsr
	movl %cr0, %eax
	andl $~0x4, %eax		/* EM */
	orl $0x80000002, %eax		/* PG MP */
	movl %eax, %cr0
	lgdt gdt_pointer
	ljmp $8, $start64

	.code64
start64:
	movl $16, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	leaq stack_top(%rip), %rsp
	xorl %ebp, %ebp
	call main
1:	cli
	hlt
	jmp 1b

	.section .rodata
	.align 8
gdt:	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
	.word 23
	.long gdt

	.section .bss
	.align 4096
tables_4: .skip 4096
tables_3: .skip 4096
tables_2: .skip 4096
	.skip 16384
stack_top:
