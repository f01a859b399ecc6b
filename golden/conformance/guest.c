// SPDX-License-Identifier: ISC
/*
 * guest.c: a kernel that does to each virtio device what a driver must not do, one thing at a
 * time (virtio 1.2: every "driver MUST" that a device can notice), and then sees whether the
 * device still works.
 *
 * It says a line for each: device, rule, and
 *
 *   PASS     the device served the request all the same
 *   REJECT   it refused: FEATURES_OK stayed clear, an error status, or NEEDS_RESET
 *   IGNORE   nothing came of it
 *   WEDGED   afterwards, after a reset, a correct driver got no answer
 *
 * Multiboot, 32 bits, no interrupts: it polls. driver.c is a correct driver; transport.c, rings.c and
 * devices.c have the rules.
 */
#include "driver.h"

__attribute__((section(".multiboot"), used)) static const u32 multiboot[3] = { 0x1badb002, 0,
										-0x1badb002u };

static u8 stack[65536] __attribute__((used, aligned(16)));

__asm__(".globl _start\n_start: mov $stack + 65536, %esp\ncld\ncall run\n1: hlt\njmp 1b\n");

static int find(struct device *one)
{
	static const struct {
		u32 type;
		const char *name;
		u32 queue;
	} known[] = { { 1, "net", 1 },	 { 2, "blk", 0 },  { 3, "console", 1 }, { 4, "rng", 0 },
		      { 5, "balloon", 0 }, { 8, "scsi", 2 }, { 9, "9p", 0 },	{ 19, "vsock", 1 } };
	const u32 identity = pci_read(one->number, 0);
	u32 base;

	if ((identity & 0xffff) != 0x1af4)
		return 0;
	one->type = (identity >> 16) - 0x1040;
	one->name = NULL;
	for (u32 i = 0; i < sizeof known / sizeof *known; i++) {
		if (known[i].type == one->type) {
			one->name = known[i].name;
			one->queue = known[i].queue;
		}
	}
	base = pci_read(one->number, 0x10) & ~3u;
	one->config = 0;
	for (u32 at = pci_read(one->number, 0x34) & 0xff; at; at = pci_read(one->number, at + 1) & 0xff) {
		const u16 where = (u16)(base + pci_read(one->number, at + 8));

		switch (pci_read(one->number, at + 3) & 0xff) {
		case 1: one->common = where; break;
		case 2: one->notify = where; break;
		case 3: one->isr = where; break;
		case 4: one->config = where; break;
		}
	}
	return one->name != NULL;
}

__attribute__((used)) static void run(void)
{
	static struct device one;

	for (one.number = 0; one.number < 32; one.number++) {
		if (!find(&one))
			continue;
		d = &one;
		if (!works()) {
			put(d->name);
			put(": a correct driver: WEDGED\n");
			wedged++;
			continue;
		}
		transport_rules();
		ring_rules();
		device_rules();
		set_status(0);
	}
	put("conformance: done\n");
	out8(0xf4, wedged ? 1 : 0);
}
