// SPDX-License-Identifier: ISC
/* transport.c: rules of status, features and queues: virtio 1.2, § 2.1, § 2.2, § 3.1, § 4.1. */
#include "driver.h"

void transport_rules(void)
{
	const u16 q = (u16)d->queue;

	set_status(0);
	set_status(3);
	accept(0xffffffff, 1);
	set_status(11);
	say("2.2.1 accepts features that were not offered", status() & 8 ? PASS : REJECT);

	set_status(0);
	set_status(3);
	accept(0, 1u << 30);
	set_status(11);
	say("2.2.1 accepts features of the upper half that were not offered", status() & 8 ? PASS : REJECT);

	set_status(0);
	set_status(3);
	accept(0, 0);
	set_status(11);
	say("6.1 doesn't accept VERSION_1", status() & 8 ? PASS : REJECT);

	begin(0);
	accept(d->offered, 1);
	ready();
	request();
	offer(q, 0);
	see("2.2.1 accepts more after FEATURES_OK");

	begin(0);
	request();
	offer(q, 0);
	see("3.1.1 notifies before DRIVER_OK");

	set_status(0);
	set_status(7);
	say("3.1.1 sets DRIVER_OK without FEATURES_OK", status() & 4 ? PASS : REJECT);

	begin(0);
	ready();
	set_status(1);
	say("2.1.1 clears a status bit", status() == 1 ? PASS : REJECT);

	begin(0);
	ready();
	out16(COMMON(0x16), q);
	address(0x20, physical(indirect));
	address(0x30, 0);
	request();
	offer(q, 0);
	see("4.1.4.3.2 moves a queue that is enabled");

	begin(0);
	ready();
	out16(COMMON(0x16), q);
	out16(COMMON(0x1c), 0);
	request();
	offer(q, 0);
	see("4.1.4.3.2 writes 0 to queue_enable");

	set_status(0);
	out16(COMMON(0x16), q);
	out16(COMMON(0x18), 3);
	say("2.7 sets a queue size that is no power of two", in16(COMMON(0x18)) == 3 ? PASS : REJECT);

	set_status(0);
	out16(COMMON(0x16), q);
	out16(COMMON(0x18), 0x8000);
	say("4.1.4.3.2 sets a queue size larger than offered", in16(COMMON(0x18)) == 0x8000 ? PASS : REJECT);

	begin(0);
	out16(COMMON(0x16), 0xffff);
	out16(COMMON(0x18), 8);
	out16(COMMON(0x1c), 1);
	ready();
	kick(0xffff);
	say("2.5 uses a queue that isn't there", in16(COMMON(0x1c)) ? PASS : REJECT);

	begin(0);
	out8(COMMON(0x16), 1);
	out32(COMMON(0x14), 0);
	out16(COMMON(0x09), 0xffff);
	ready();
	request();
	offer(q, 0);
	see("4.1.3.1 writes fields in other widths");

	if (d->config) {
		begin(0);
		ready();
		for (u16 at = 0; at < 0x100; at++)
			out8((u16)(d->config + at), 0xff);
		for (u16 at = 0; at < 0xd00; at += 4)
			in32((u16)(d->config + at));
		request();
		offer(q, 0);
		see("2.5.1 writes all of the device's configuration");
	}

	begin(0);
	ready();
	request();
	offer(q, 0);
	kick(q);
	set_status(0);
	say("2.4 resets with a request under way", IGNORE);
}
