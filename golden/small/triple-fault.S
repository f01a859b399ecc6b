/* A fault that no handler can take, twice over: shutdown. */
#include "common.h"

main:
	PUTS	"no IDT\n"
	lidt	nothing
	ud2
	PUTS	"still there\n"
	EXIT

	.data
nothing:
	.word	0
	.long	0, 0
