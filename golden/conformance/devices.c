// SPDX-License-Identifier: ISC
/* devices.c: rules of each device: virtio 1.2, § 5. */
#include "driver.h"

static void blk_rules(void)
{
	const u16 q = (u16)d->queue;
	struct descriptor *t = queues[q].table;
	u32 *header = (u32 *)buffer;

	RULE("5.2.6.1 reads beyond the end", header[2] = 0x7fffffff);
	RULE("5.2.6.1 reads at a sector that makes 2^64 bytes", (header[2] = ~0u, header[3] = ~0u));
	RULE("5.2.6.1 reads half a sector", t[1].length = 256);
	RULE("5.2.6.1 asks for an unknown type", header[0] = 0xdead);
	RULE("5.2.6 has no status byte", (t[1].flags = WRITE));
	RULE("5.2.6 has half a header", t[0].length = 8);
	RULE("5.2.6 has only a status byte", (t[0].flags = WRITE, t[0].length = 1));
	RULE("5.2.6 writes from a writable segment", header[0] = 1);
	RULE("5.2.6 reads into a readable segment", (t[1].flags = NEXT));
	RULE("5.2.6.1 discards without having negotiated it", {
		header[0] = 11;
		t[1].flags = NEXT;
		t[1].length = 16;
	});
}

/* A buffer that isn't right in the queue that the device fills, and then a correct request. */
static void receive(const char *rule, u32 length, u16 flags)
{
	begin(0);
	ready();
	describe(0, 0, physical(buffer), length, flags, 0);
	offer(0, 0);
	kick(0);
	request();
	offer((u16)d->queue, 0);
	see(rule);
}

static void net_rules(void)
{
	const u16 q = (u16)d->queue;
	struct descriptor *t = queues[q].table;

	RULE("5.1.6.2.1 sends a frame without a header", t[0].length = 4);
	RULE("5.1.6.2.1 sends a header without a frame", t[0].length = 12);
	RULE("5.1.6.2.1 sends a frame of 64 KiB and more", (t[0].address = physical(buffer), t[0].length = 65536));
	RULE("5.1.6.2.1 asks for a checksum that was not negotiated", (buffer[0] = 1, buffer[6] = 200));
	RULE("5.1.6.2.1 asks for segments that were not negotiated", (buffer[1] = 1, buffer[4] = 1));
	RULE("5.1.6.2 puts a buffer to fill into the transmit queue", t[0].flags = WRITE);

	receive("5.1.6.3.1 gives a receive buffer that is too small", 4, WRITE);
	receive("5.1.6.3.1 gives a receive buffer that can't be written", 1526, 0);
}

static void rng_rules(void)
{
	const u16 q = (u16)d->queue;
	struct descriptor *t = queues[q].table;

	RULE("5.4.6.1 gives a buffer that can't be written", t[0].flags = 0);
	RULE("5.4.6 asks for a megabyte", (t[0].address = 0x1000000, t[0].length = 1 << 20));
}

static void scsi_rules(void)
{
	const u16 q = (u16)d->queue;
	struct descriptor *t = queues[q].table;

	RULE("5.6.6.1.2 asks a target that isn't there", buffer[1] = 9);
	RULE("5.6.6.1.2 asks a unit that isn't there", buffer[3] = 7);
	RULE("5.6.6.1.2 has a LUN of another form", buffer[0] = 0xff);
	RULE("5.6.6.1 has half a header", t[0].length = 10);
	RULE("5.6.6.1 has no room for an answer", t[1].length = 4);
	RULE("5.6.6.1 sends an unknown command", buffer[19] = 0xff);
	RULE("5.6.6.1 reads beyond the end", (buffer[19] = 0x28, buffer[21] = 0x7f, buffer[27] = 1));
	begin(0);
	ready();
	memset(buffer, 0xff, 64);
	describe(0, 0, physical(buffer), 24, NEXT, 1);
	describe(0, 1, physical(data), 1, WRITE, 0);
	offer(0, 0);
	kick(0);
	request();
	offer(q, 0);
	see("5.6.6.2 asks for an unknown task management function");
}

static void console_rules(void)
{
	const u16 q = (u16)d->queue;
	struct descriptor *t = queues[q].table;

	RULE("5.3.6 puts a buffer to fill into the transmit queue", t[0].flags = WRITE);
	receive("5.3.6 gives a receive buffer that can't be written", 64, 0);
}

static void balloon_rules(void)
{
	const u16 q = (u16)d->queue;
	struct descriptor *t = queues[q].table;
	u32 *page = (u32 *)buffer;

	RULE("5.5.6 gives a page outside RAM", page[0] = 0xffffffff);
	RULE("5.5.6 gives a page number of three bytes", t[0].length = 3);
	RULE("5.5.6 gives the page that the queue lies in", page[0] = (u32)(physical(queues[q].table) >> 12));
	RULE("5.5.6 gives page numbers to be written", t[0].flags = WRITE);
}

static void p9_rules(void)
{
	const u16 q = (u16)d->queue;
	struct descriptor *t = queues[q].table;
	u32 *size = (u32 *)buffer;

	RULE("9p sends half a header", t[0].length = 4);
	RULE("9p says a size that is longer than the message", size[0] = 0x7fffffff);
	RULE("9p says a size of 0", size[0] = 0);
	RULE("9p sends an unknown type", buffer[4] = 255);
	RULE("9p has a string longer than the message", (buffer[11] = 0xff, buffer[12] = 0xff));
	RULE("9p has no room for an answer", t[1].length = 4);
	RULE("9p uses a fid that isn't there", (buffer[4] = 120, size[0] = 11, t[0].length = 11));
}

static void vsock_rules(void)
{
	const u16 q = (u16)d->queue;
	struct descriptor *t = queues[q].table;

	RULE("5.10.6 sends half a header", t[0].length = 20);
	RULE("5.10.6 says a length that is longer than the packet", (buffer[24] = 0xff, buffer[25] = 0xff));
	RULE("5.10.6.4 sends from another's CID", buffer[0] = 99);
	RULE("5.10.6 sends to nobody's CID", buffer[8] = 77);
	RULE("5.10.6 sends an unknown operation", buffer[30] = 0x77);
	RULE("5.10.6 sends an unknown type", buffer[28] = 0x77);
}

void device_rules(void)
{
	switch (d->type) {
	case 1: net_rules(); break;
	case 2: blk_rules(); break;
	case 3: console_rules(); break;
	case 4: rng_rules(); break;
	case 5: balloon_rules(); break;
	case 8: scsi_rules(); break;
	case 9: p9_rules(); break;
	case 19: vsock_rules(); break;
	}
}
