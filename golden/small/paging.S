/* Paging in 32-bit protected mode: 4 KiB, 4 MiB and PAE; accessed and dirty bits; write protection;
 * no-execute; reserved bits. */
#include "common.h"

#define DIRECTORY 0x20000
#define TABLE 0x21000
#define PAE_PDPT 0x30000
#define PAE_DIRECTORY 0x31000 /* four */
#define PAE_TABLE 0x35000
#define WINDOW 0x3c0000 /* mapped by each test as it likes */
#define TARGET 0x250000

	.macro MAP value
	movl	$\value, TABLE + (WINDOW >> 10)
	invlpg	WINDOW
	.endm

main:
	movl	$0xc0de0001, TARGET
	movl	$0xc0de0002, TARGET + 0x1000
	movl	$TABLE + 7, DIRECTORY
	mov	$TABLE, %edi
	mov	$7, %eax
	mov	$1024, %ecx
1:	stosl
	add	$0x1000, %eax
	loop	1b
	mov	$DIRECTORY, %eax
	mov	%eax, %cr3
	mov	%cr0, %eax
	or	$0x80010000, %eax
	mov	%eax, %cr0
	jmp	1f
1:	PUTS	"4 KiB pages\n"
	MAP	(TARGET + 3)
	EXPECT_AT "mapped", WINDOW, 0xc0de0001
	MAP	(TARGET + 0x1003)
	EXPECT_AT "mapped elsewhere", WINDOW, 0xc0de0002
	MAP	(TARGET + 3)
	mov	WINDOW, %eax
	mov	TABLE + (WINDOW >> 10), %eax
	and	$0x60, %eax
	EXPECT	"after a read: accessed", 0x20
	movl	$0xc0de0003, WINDOW
	mov	TABLE + (WINDOW >> 10), %eax
	and	$0x60, %eax
	EXPECT	"after a write: dirty", 0x60
	EXPECT_AT "written there", TARGET, 0xc0de0003
	TRY
	MAP	TARGET
	mov	WINDOW, %eax
	CAUGHT	"not present: read", 14, 0
	TRY
	movl	$1, WINDOW + 8
	CAUGHT	"write", 14, 2
	EXPECT_AT "CR2", caught_cr2, WINDOW + 8
	MAP	(TARGET + 1)
	TRY
	movl	$1, WINDOW
	CAUGHT	"for reading only: write", 14, 3
	movl	$TARGET + 0x1003, TABLE + (WINDOW >> 10)
	mov	%cr3, %eax
	mov	%eax, %cr3
	EXPECT_AT "after a load of CR3", WINDOW, 0xc0de0002

	PUTS	"4 MiB pages\n"
	mov	%cr4, %eax
	or	$0x10, %eax
	mov	%eax, %cr4
	movl	$0x83, DIRECTORY + 4 * 0x200 /* 0x80000000 to 0 */
	EXPECT_AT "mapped", 0x80000000 + TARGET, 0xc0de0003
	mov	DIRECTORY + 4 * 0x200, %eax
	and	$0x60, %eax
	EXPECT	"accessed", 0x20
	movl	$0xc0de0004, 0x80000000 + TARGET
	mov	DIRECTORY + 4 * 0x200, %eax
	and	$0x60, %eax
	EXPECT	"dirty", 0x60
	movl	$0x400083, DIRECTORY + 4 * 0x201
	movl	$0x11223344, 0x80400010
	EXPECT_AT "the second: through the first table", 0x80400010, 0x11223344
	TRY
	mov	0x80800000, %eax
	CAUGHT	"behind them", 14, 0

	PUTS	"PAE\n"
	mov	%cr0, %eax
	and	$0x7fffffff, %eax
	mov	%eax, %cr0
	mov	$PAE_DIRECTORY, %edi
	xor	%eax, %eax
	mov	$0x1000, %ecx
	rep stosl
	mov	$PAE_DIRECTORY, %edi
	mov	$0x83, %eax
	mov	$8, %ecx /* 16 MiB by 2 MiB pages */
1:	mov	%eax, (%edi)
	add	$0x200000, %eax
	add	$8, %edi
	loop	1b
	mov	$PAE_TABLE, %edi
	mov	$0x200003, %eax
	mov	$512, %ecx
1:	mov	%eax, (%edi)
	movl	$0, 4(%edi)
	add	$0x1000, %eax
	add	$8, %edi
	loop	1b
	movl	$PAE_TABLE + 3, PAE_DIRECTORY + 8 /* the second 2 MiB by 4 KiB pages */
	movl	$0x83, PAE_DIRECTORY + 0x2000 /* 0x80000000 to 0 */
	movl	$PAE_DIRECTORY + 1, PAE_PDPT
	movl	$PAE_DIRECTORY + 0x2001, PAE_PDPT + 16
	movl	$0, PAE_PDPT + 4
	movl	$0, PAE_PDPT + 8
	movl	$0, PAE_PDPT + 12
	movl	$0, PAE_PDPT + 20
	movl	$0, PAE_PDPT + 24
	movl	$0, PAE_PDPT + 28
	mov	$PAE_PDPT, %eax
	mov	%eax, %cr3
	mov	%cr4, %eax
	or	$0x20, %eax
	mov	%eax, %cr4
	mov	$0xc0000080, %ecx
	rdmsr
	or	$0x800, %eax
	wrmsr
	mov	%cr0, %eax
	or	$0x80000000, %eax
	mov	%eax, %cr0
	jmp	1f
1:	EXPECT_AT "4 KiB", TARGET, 0xc0de0004
	movl	$0xbadcafe, 0x8000
	EXPECT_AT "2 MiB", 0x80008000, 0xbadcafe
	movl	$TARGET + 0x1003, PAE_TABLE + ((WINDOW - 0x200000) >> 9)
	EXPECT_AT "mapped elsewhere", WINDOW, 0xc0de0002
	TRY
	mov	0x40000000, %eax
	CAUGHT	"no directory", 14, 0
	movl	$0xc3, TARGET + 0x1000 /* ret */
	call	WINDOW
	PUTS	"runs without NX\n"
	movl	$0x80000000, PAE_TABLE + ((WINDOW - 0x200000) >> 9) + 4
	invlpg	WINDOW
	EXPECT_AT "readable with NX", WINDOW, 0xc3
	TRY
	call	WINDOW
	CAUGHT	"jump to a page with NX", 14, 0x11
	EXPECT_AT "CR2", caught_cr2, WINDOW
	movl	$0x00100000, PAE_TABLE + ((WINDOW - 0x200000) >> 9) + 4
	invlpg	WINDOW
	TRY
	mov	WINDOW, %eax
	CAUGHT	"a reserved bit: read", 14, any /* the lab's emulator: 8, not 9 */
	mov	caught_code, %eax
	and	$8, %eax
	EXPECT	"    RSVD in the error code", 8
	EXIT
