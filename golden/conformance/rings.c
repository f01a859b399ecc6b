// SPDX-License-Identifier: ISC
/* rings.c: rules of split virtqueues: virtio 1.2, § 2.7. */
#include "driver.h"

static void place(const char *rule, u64 table, u64 available, u64 used)
{
	const u16 q = (u16)d->queue;

	set_status(0);
	set_status(3);
	accept(0, 1);
	set_status(11);
	for (u16 i = 0; i < in16(COMMON(0x12)) && i < QUEUES; i++) {
		if (i != q)
			set_up_queue(i);
	}
	set_up_queue(q);
	/* Anew, since an enabled queue isn't moved. */
	set_status(0);
	set_status(3);
	accept(0, 1);
	set_status(11);
	out16(COMMON(0x16), q);
	out16(COMMON(0x18), d->sizes[q]);
	address(0x20, table);
	address(0x28, available);
	address(0x30, used);
	out16(COMMON(0x1c), 1);
	request();
	offer(q, 0);
	ready();
	see(rule);
}

void ring_rules(void)
{
	const u16 q = (u16)d->queue;
	const u64 table = physical(queues[q].table);
	const u64 available = physical(&queues[q].available);
	const u64 used = physical(&queues[q].used);

	place("2.7 puts the descriptor table where it isn't aligned", table + 8, available, used);
	place("2.7 puts the available ring where it isn't aligned", table, available + 1, used);
	place("2.7 puts the used ring where it isn't aligned", table, available, used + 2);
	place("2.7 puts the descriptor table outside RAM", 1ull << 40, available, used);
	place("2.7 puts the available ring outside RAM", table, 0xfffffffffffff000ull, used);
	place("2.7 puts the used ring outside RAM", table, available, 0xf0000000ull);
	place("2.7 puts the used ring on the available ring", table, available, available);
	place("2.7 puts the used ring on the descriptor table", table, available, table);

	struct {
		const char *rule;
		u16 index;
	} jumps[] = {
		{ "2.7.6.1 moves the available index by more than the queue", 0x1000 },
		{ "2.7.6.1 moves the available index back", 0xffff },
	};
	for (u32 i = 0; i < 2; i++) {
		begin(0);
		ready();
		queues[q].available.index = jumps[i].index;
		see(jumps[i].rule);
	}

	struct descriptor *t = queues[q].table;

	begin(0);
	ready();
	offer(q, 0xffff);
	see("2.7.6 makes a descriptor available that isn't there");
	RULE("2.7.5 has a next descriptor that isn't there", (t[last].flags |= NEXT, t[last].next = 0xfff0));
	RULE("2.7.5.2 makes a chain in a circle", (t[last].flags |= NEXT, t[last].next = 0));
	RULE("2.7.5.2 makes a chain that is its own next", (t[0].flags |= NEXT, t[0].next = 0));
	RULE("2.7.5.2 makes a chain of more than 4 GiB", {
		for (u16 i = 0; i < SIZE; i++)
			describe(q, i, 0, 0x04000000, (u16)(NEXT | (t[0].flags & WRITE)), (u16)(i + 1));
		t[SIZE - 1].flags &= (u16)~NEXT;
	});
	RULE("2.7.5 has a segment outside RAM", (t[0].address = 1ull << 40));
	RULE("2.7.5 has a segment that ends outside RAM", t[0].length = 0xffffffff);
	RULE("2.7.5 has a segment whose end wraps around", (t[0].address = ~0xfull, t[0].length = 0x2000));
	RULE("2.7.5 has a segment in the hole of the PC", (t[0].address = 0xa0000, t[0].length = 64));
	RULE("2.7.5 has a segment in ports of other devices", (t[0].address = 0xfee00000, t[0].length = 64));
	RULE("2.7.4.2 puts a readable segment behind a writable one", {
		t[last].flags |= WRITE | NEXT;
		t[last].next = (u16)(last + 1);
		describe(q, (u16)(last + 1), physical(buffer), 16, 0, 0);
	});
	RULE("2.7.5 has segments of no length", {
		for (u16 i = 0; i <= last; i++)
			t[i].length = 0;
	});
	RULE("2.7.5 has a segment on the used ring", (t[last].address = physical(&queues[q].used)));
	RULE("2.7.5 has a segment on the descriptor table", (t[last].address = table));

	begin(0);
	set_status(0);
	set_status(3);
	accept(0, 1);
	set_status(11);
	for (u16 i = 0; i < in16(COMMON(0x12)) && i < QUEUES; i++)
		set_up_queue(i);
	ready();
	memcpy(indirect, t, sizeof *t);
	describe(q, 0, physical(indirect), 16, INDIRECT, 0);
	offer(q, 0);
	see("2.7.5.3.1 uses an indirect table that was not negotiated");

#define TABLE(text, bytes, ...)                                                   \
	RULE(text, {                                                              \
		memcpy(indirect, t, sizeof(struct descriptor) * (last + 1u));     \
		describe(q, 0, physical(indirect), bytes, INDIRECT, 0);           \
		__VA_ARGS__;                                                      \
	})
	TABLE("2.7.5.3.1 has an indirect descriptor with a next one", 16u * (last + 1u),
	      (t[0].flags |= NEXT, t[0].next = 1));
	TABLE("2.7.5.3 has an indirect table of no length", 0, );
	TABLE("2.7.5.3 has an indirect table that is no multiple of 16", 17, );
	TABLE("2.7.5.3 has an indirect table outside RAM", 16, (t[0].address = 1ull << 41));
	TABLE("2.7.5.3.1 has an indirect table in an indirect table", 16, {
		indirect[0].address = physical(indirect);
		indirect[0].length = 16;
		indirect[0].flags = INDIRECT;
	});
	TABLE("2.7.5.3.1 has more descriptors in a table than the queue", 16 * 128, {
		for (u16 i = 0; i < 128; i++) {
			indirect[i].address = physical(buffer);
			indirect[i].length = 1;
			indirect[i].flags = i < 127 ? NEXT : 0;
			indirect[i].next = (u16)(i + 1);
		}
	});
	TABLE("2.7.5.3 has an indirect table in a circle", 32, {
		indirect[1] = indirect[0];
		indirect[0].flags |= NEXT;
		indirect[0].next = 1;
		indirect[1].flags |= NEXT;
		indirect[1].next = 0;
	});

	RULE("2.7.13 makes one chain available many times", {
		for (u16 i = 1; i < d->sizes[q]; i++)
			offer(q, 0);
	});
	begin(F_EVENT_IDX);
	ready();
	request();
	queues[q].available.flags = 0xffff;
	queues[q].available.used_event = 0x7fff;
	offer(q, 0);
	see("2.7.7.1 sets flags and used_event to nonsense");
}
