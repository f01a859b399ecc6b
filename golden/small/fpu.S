/*
 * x87, MMX and SSE2: results, state, and how exceptions show. Not here, since the Unicorn engine
 * hasn't them: x87 stack faults, #XM, MXCSR's exception flags and its reserved bits.
 */
#include "common.h"

main:
	PUTS	"absent\n"
	mov	%cr0, %eax
	or	$4, %eax /* EM */
	mov	%eax, %cr0
	TRY
	fld1
	CAUGHT	"x87 with CR0.EM", 7
	TRY
	addps	%xmm0, %xmm0
	CAUGHT	"SSE without CR4.OSFXSR", 6
	mov	%cr0, %eax
	and	$~0xc, %eax
	or	$0x22, %eax /* MP, NE */
	mov	%eax, %cr0
	mov	%cr4, %eax
	or	$0x600, %eax
	mov	%eax, %cr4
	mov	%cr0, %eax
	or	$8, %eax
	mov	%eax, %cr0
	TRY
	movaps	%xmm0, %xmm1
	CAUGHT	"SSE with CR0.TS", 7
	TRY
	fwait
	CAUGHT	"FWAIT with CR0.TS and MP", 7
	clts

	PUTS	"x87\n"
	fninit
	xor	%eax, %eax
	fnstcw	word
	mov	word, %ax
	EXPECT	"control word", 0x37f
	fnstsw	%ax
	EXPECT	"status word", 0
	fld1
	fldpi
	faddp
	fstpl	double
	EXPECT_AT "1 + pi, low", double, 0xaa22168c
	EXPECT_AT "1 + pi, high", double + 4, 0x401090fd
	fldl	two
	fsqrt
	fstpt	ten
	EXPECT_AT "square root of 2, 80 bits, low", ten, 0xf9de6484
	EXPECT_AT "square root of 2, 80 bits, high", ten + 4, 0xb504f333
	fildl	seven
	fildl	two_and_twenty
	fdivp
	fistpl	word
	EXPECT_AT "22 / 7, rounded", word, 3
	fldpi
	fldl	thousand
	fmulp
	fistpl	word
	EXPECT_AT "1000 pi, rounded", word, 3142
	fnstcw	word
	orw	$0xc00, word /* toward zero */
	fldcw	word
	fldpi
	fldl	thousand
	fmulp
	fistpl	word + 4
	EXPECT_AT "1000 pi, cut", word + 4, 3141
	fninit
	fldz
	fld1
	fdiv	%st(1), %st
	xor	%eax, %eax
	fnstsw	%ax
	and	$0x3f, %eax
	EXPECT	"1 / 0, masked: zero divide", 4
	fninit
	fnstcw	word
	andw	$~4, word
	fldcw	word
	TRY
	fldz
	fld1
	fdiv	%st(1), %st
unmasked:
	fwait
	CAUGHT	"1 / 0, unmasked, at the next x87 instruction", 16
	EXPECT_AT "at", caught_rip, unmasked
	fninit
	fld1
	fldz
	fcomip	%st(1), %st
	setb	%al
	movzbl	%al, %eax
	EXPECT	"0 < 1 by FCOMI", 1

	PUTS	"state\n"
	fninit
	fldpi
	fld1
	movups	pattern, %xmm0
	movups	pattern + 4, %xmm7
	fxsave	area
	EXPECT_AT "FXSAVE: control and status", area, 0x3000037f
	movzbl	area + 4, %eax
	EXPECT	"tags", 0xc0
	EXPECT_AT "MXCSR", area + 24, 0x1f80
	EXPECT_AT "ST0, low", area + 32, 0
	EXPECT_AT "ST0, high", area + 36, 0x80000000
	EXPECT_AT "ST1, high", area + 52, 0xc90fdaa2
	EXPECT_AT "XMM0", area + 160, 0x03020100
	EXPECT_AT "XMM7", (area + 160 + 112), 0x07060504
	fninit
	xorps	%xmm0, %xmm0
	xorps	%xmm7, %xmm7
	fxrstor	area
	movd	%xmm7, %eax
	EXPECT	"FXRSTOR: XMM7", 0x07060504
	faddp
	fstpl	double
	EXPECT_AT "1 + pi again", double + 4, 0x401090fd
	fld1
	fnsave	saved
	movzwl	saved + 8, %eax
	EXPECT	"FNSAVE: tags", 0x3fff
	xor	%eax, %eax
	fnstsw	%ax
	EXPECT	"initialised by it", 0
	frstor	saved
	fistpl	word
	EXPECT_AT "FRSTOR", word, 1

	PUTS	"MMX\n"
	mov	$0x01020304, %eax
	movd	%eax, %mm0
	paddb	%mm0, %mm0
	movd	%mm0, %eax
	EXPECT	"PADDB", 0x02040608
	emms

	PUTS	"SSE\n"
	movups	floats, %xmm0
	mulps	%xmm0, %xmm0
	movups	%xmm0, result
	EXPECT_AT "1.5 squared", result, 0x40100000
	EXPECT_AT "-4 squared", result + 12, 0x41800000
	movups	floats, %xmm0
	sqrtss	result + 12, %xmm0
	movss	%xmm0, result
	EXPECT_AT "square root of 16", result, 0x40800000
	mov	$-7, %eax
	cvtsi2sd %eax, %xmm1
	mulsd	two, %xmm1
	cvtsd2si %xmm1, %eax
	EXPECT	"-7 times 2", -14
	movl	$0x80, word
	movups	pattern, %xmm2
	paddd	%xmm2, %xmm2
	pshufd	$0x1b, %xmm2, %xmm2
	movd	%xmm2, %eax
	EXPECT	"PADDD, PSHUFD", 0x1e1c1a18
	movups	pattern, %xmm3
	pcmpeqb	pattern, %xmm3
	pmovmskb %xmm3, %eax
	EXPECT	"PCMPEQB, PMOVMSKB", 0xffff
	movss	floats, %xmm4
	comiss	floats + 4, %xmm4
	seta	%al
	movzbl	%al, %eax
	EXPECT	"1.5 > 0.25 by COMISS", 1

	PUTS	"MXCSR\n"
	movl	$0x3f80, word /* round down */
	ldmxcsr	word
	movss	floats + 12, %xmm5
	movss	floats + 8, %xmm6
	divss	%xmm6, %xmm5
	cvtss2si %xmm5, %eax
	EXPECT	"-4 / 3, rounded down", -2
	movl	$0x1f80, word
	ldmxcsr	word
	cvtss2si %xmm5, %eax
	EXPECT	"... to nearest", -1
	stmxcsr	word + 4
	EXPECT_AT "rounding and masks kept", word + 6, 0
	EXIT

	.data
	.balign 16
pattern: .byte	0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19
	.balign 16
area:	.fill	512, 1, 0
saved:	.fill	112, 1, 0
	.balign 16
floats:	.float	1.5, 0.25, 3, -4
result:	.fill	16, 1, 0
two:	.double	2
thousand: .double 1000
double:	.double	0
ten:	.fill	16, 1, 0
seven:	.long	7
two_and_twenty:	.long 22
word:	.long	0, 0
