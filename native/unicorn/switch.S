/* SPDX-License-Identifier: ISC */
/*
 * switch.S: changes the stack.
 *
 * int vmm_switch(void **save, void *to): stores the stack pointer in *save
 * with the callee-saved registers below it, takes the stack `to` that was
 * stored so (or laid out so by engine.c), and returns 0 there.
 *
 * No signal mask is touched, which is what makes this cheaper than swapcontext
 * by a factor. Nor are MXCSR and the x87 control word, which are one thread's:
 * the library computes in software and changes neither.
 * It leaves by a jump: a RET would go where the processor remembers the other
 * stack's CALL, and be mispredicted each time.
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
	movq	%rsp, (%rdi)
	movq	%rsi, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbx
	popq	%rbp
	popq	%rcx
	xorl	%eax, %eax
	jmp	*%rcx
	.cfi_endproc
	.size	vmm_switch, .-vmm_switch

	.section .note.GNU-stack, "", @progbits
