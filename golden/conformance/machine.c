// SPDX-License-Identifier: ISC
/* machine.c: what a guest without a library needs, and the ports that it talks by. */
#include "machine.h"

void *memset(void *to, int value, unsigned long length)
{
	u8 *at = to;

	while (length--)
		*at++ = (u8)value;
	return to;
}

void *memcpy(void *to, const void *from, unsigned long length)
{
	u8 *at = to;
	const u8 *bytes = from;

	while (length--)
		*at++ = *bytes++;
	return to;
}

void put(const char *text)
{
	for (; *text; text++) {
		while (!(in8(0x3fd) & 0x20))
			;
		out8(0x3f8, (u8)*text);
	}
}

u32 pci_read(u32 device, u32 offset)
{
	out32(0xcf8, 0x80000000u | device << 11 | (offset & 0xfc));
	return in32(0xcfc) >> (8 * (offset & 3));
}
