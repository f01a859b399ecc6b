/* SPDX-License-Identifier: ISC */
/* dirty16.c: writes to 16 pages of its own, and is done: what a reset costs. */
#include <stdint.h>

#include "vmd-fuzz.h"

#define PAGES 14 /* the input is on one more, and so is the stack */

static volatile uint8_t pages[PAGES][4096] __attribute__((aligned(4096)));
static uint8_t input[8] = { 1 };

int main(void)
{
	volatile uint32_t stack = (uint32_t)vmd_fuzz_ready(input, sizeof(input));

	for (int i = 0; i < PAGES; i++)
		pages[i][i * 64] = (uint8_t)stack;
	stack = 0;
	vmd_fuzz_done();
	return 0;
}
