// SPDX-License-Identifier: ISC
/* requests.c: a correct request of each device. */
#include "driver.h"

/* Puts one correct request into descriptors 0 and up; how many it takes. */
u16 request(void)
{
	const u16 q = (u16)d->queue;

	memset(buffer, 0, 8192);
	switch (d->type) {
	case 1: /* net: a frame for nobody */
		memset(buffer + 12, 0xff, 6);
		buffer[12 + 12] = 0x88;
		buffer[12 + 13] = 0xb5;
		describe(q, 0, physical(buffer), 12 + 60, 0, 0);
		return 1;
	case 2: /* blk: the first sector */
		describe(q, 0, physical(buffer), 16, NEXT, 1);
		describe(q, 1, physical(data), 512, WRITE | NEXT, 2);
		describe(q, 2, physical(data + 512), 1, WRITE, 0);
		data[512] = 0xee;
		return 3;
	case 3: /* console: a line */
		memcpy(buffer, "~\n", 2);
		describe(q, 0, physical(buffer), 2, 0, 0);
		return 1;
	case 4: /* rng */
		describe(q, 0, physical(data), 64, WRITE, 0);
		return 1;
	case 5: { /* balloon: a page of this kernel's, which it doesn't need */
		const u32 page = (u32)physical(buffer + 32768) >> 12;

		memcpy(buffer, &page, 4);
		describe(q, 0, physical(buffer), 4, 0, 0);
		return 1;
	}
	case 8: /* scsi: INQUIRY */
		buffer[0] = 1;
		buffer[19] = 0x12;
		buffer[23] = 36;
		describe(q, 0, physical(buffer), 51, NEXT, 1);
		describe(q, 1, physical(data), 108, WRITE | NEXT, 2);
		describe(q, 2, physical(data + 1024), 36, WRITE, 0);
		data[11] = 0xee;
		return 3;
	case 9: { /* 9p: Tversion */
		static const u8 version[] = { 21, 0, 0, 0, 100, 0xff, 0xff, 0, 0x20, 0, 0, 8,
					      0,  '9', 'P', '2', '0', '0', '0', '.', 'L' };

		memcpy(buffer, version, sizeof version);
		describe(q, 0, physical(buffer), sizeof version, NEXT, 1);
		describe(q, 1, physical(data), 4096, WRITE, 0);
		return 2;
	}
	case 19: /* vsock: a packet to the host, which answers with RST or not */
		buffer[0] = 3;
		buffer[8] = 2;
		buffer[16] = 1;
		buffer[20] = 1;
		buffer[28] = 1;
		buffer[30] = 1;
		describe(q, 0, physical(buffer), 44, 0, 0);
		return 1;
	}
	return 0;
}

/* Whether the answer to that is right. */
int right(void)
{
	if (d->type == 2)
		return data[512] == 0;
	if (d->type == 8)
		return data[11] == 0;
	if (d->type == 9)
		return data[4] == 101;
	return 1;
}
