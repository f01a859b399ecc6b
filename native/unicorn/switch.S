/* SPDX-License-Identifier: ISC */
/*
 * switch.S: changes the stack.
 *
 * void vmm_switch(void **save, void *to): stores the stack pointer in *save
 * with the callee-saved state below it, takes the stack `to` that was stored
 * so (or laid out so by engine.c), and returns there. No signal mask is
 * touched, which is what makes this cheaper than swapcontext by a factor.
 */
	.text
	.globl	vmm_switch
	.hidden	vmm_switch
	.type	vmm_switch, @function
	.align	16
vmm_switch:
	.cfi_startproc
	pushq	%rbp
	pushq	%rbx
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	subq	$8, %rsp
	stmxcsr	(%rsp)
	fnstcw	4(%rsp)
	movq	%rsp, (%rdi)
	movq	%rsi, %rsp
	ldmxcsr	(%rsp)
	fldcw	4(%rsp)
	addq	$8, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbx
	popq	%rbp
	ret
	.cfi_endproc
	.size	vmm_switch, .-vmm_switch

	.section .note.GNU-stack, "", @progbits
