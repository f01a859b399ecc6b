/* CPUID policy: what vmd hides is hidden, what it shows is there; src/vmm/cpuid.ts. */
#include "common.h"

main:
	mov	$0x40000000, %eax
	cpuid
	mov	%ebx, %eax
	EXPECT	"signature, Open", 0x6e65704f
	mov	%ecx, %eax
	EXPECT	"signature, BSDV", 0x56445342
	mov	%edx, %eax
	EXPECT	"signature, MM58", 0x38354d4d
	mov	$1, %eax
	cpuid
	push	%edx
	mov	%ecx, %eax
	and	$0x8126cdfc, %eax
	EXPECT	"1 ECX: hypervisor, and nothing hidden", 0x80000000
	pop	%eax
	push	%eax
	and	$0xb8645280, %eax
	EXPECT	"1 EDX: nothing hidden", 0
	pop	%eax
	and	$0x07808171, %eax
	EXPECT	"1 EDX: FPU TSC MSR PAE CX8 CMOV MMX FXSR SSE SSE2", 0x07808171
	mov	%ebx, %eax
	shr	$16, %eax
	EXPECT	"1 EBX: APIC id, processors", 0
	xor	%eax, %eax
	cpuid
	mov	%eax, %ebp
	.irp	leaf, 3, 5, 6, 9, 0xa, 0xb, 0xf, 0x12, 0x14
	xor	%eax, %eax
	cmp	$\leaf, %ebp
	jb	1f /* an Intel processor answers as for its highest leaf */
	mov	$\leaf, %eax
	xor	%ecx, %ecx
	cpuid
	or	%ebx, %eax
	or	%ecx, %eax
	or	%edx, %eax
1:	EXPECT	"leaf \leaf", 0
	.endr
	xor	%eax, %eax
	cmp	$7, %ebp
	jb	1f
	mov	$7, %eax
	xor	%ecx, %ecx
	cpuid
	and	$0xde63dc14, %ebx
	mov	%ebx, %eax
	EXPECT	"7 EBX: nothing hidden", 0
	and	$~0x4, %ecx
	mov	%ecx, %eax
	EXPECT	"7 ECX: nothing but UMIP", 0
	and	$~(1 << 10 | 1 << 29), %edx
	mov	%edx, %eax
	EXPECT	"7 EDX: nothing but MD_CLEAR and ARCH_CAPABILITIES", 0
1:
	mov	$0x80000001, %eax
	cpuid
	mov	%ecx, %eax
	and	$0x31c0b40c, %eax
	EXPECT	"80000001 ECX: nothing hidden", 0
	push	%edx
	mov	%edx, %eax
	and	$0x20100800, %eax
	EXPECT	"80000001 EDX: SYSCALL NX LM", 0x20100800

	pop	%eax
	and	$0x08005280, %eax
	EXPECT	"80000001 EDX: nothing hidden", 0
	mov	$0x80000000, %eax
	cpuid
	cmp	$0x80000008, %eax
	ja	1f
	PUTS	"highest extended leaf at most 80000008\n"
	mov	$0x80000007, %eax
	cpuid
	and	$~0x100, %edx
	or	%ebx, %eax
	or	%ecx, %eax
	or	%edx, %eax
	EXPECT	"80000007: nothing but invariant TSC", 0
	mov	$0x80000008, %eax
	cpuid
	mov	%ebx, %eax
	EXPECT	"80000008 EBX", 0
1:
	EXIT
