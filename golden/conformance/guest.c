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
 * Multiboot, 32 bits, no interrupts: it polls.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define NULL ((void *)0)

__attribute__((section(".multiboot"), used)) static const u32 multiboot[3] = { 0x1badb002, 0,
										-0x1badb002u };

static u8 stack[65536] __attribute__((used, aligned(16)));

__asm__(".globl _start\n_start: mov $stack + 65536, %esp\ncld\ncall run\n1: hlt\njmp 1b\n");

/* ------------------------------------------------------------------ the machine */

static inline void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
static inline void out16(u16 port, u16 value) { __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port)); }
static inline void out32(u16 port, u32 value) { __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port)); }
static inline u8 in8(u16 port) { u8 v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u16 in16(u16 port) { u16 v; __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u32 in32(u16 port) { u32 v; __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port)); return v; }

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

static void put(const char *text)
{
	for (; *text; text++) {
		while (!(in8(0x3fd) & 0x20))
			;
		out8(0x3f8, (u8)*text);
	}
}

static u32 pci_read(u32 device, u32 offset)
{
	out32(0xcf8, 0x80000000u | device << 11 | (offset & 0xfc));
	return in32(0xcfc) >> (8 * (offset & 3));
}

/* -------------------------------------------------------------------- the rings */

#define QUEUES 8
#define SIZE 64
#define NEXT 1
#define WRITE 2
#define INDIRECT 4
#define F_INDIRECT (1u << 28)
#define F_EVENT_IDX (1u << 29)

struct descriptor {
	u64 address;
	u32 length;
	u16 flags;
	u16 next;
};

struct available {
	u16 flags;
	u16 index;
	u16 ring[SIZE];
	u16 used_event;
};

struct used {
	u16 flags;
	u16 index;
	struct {
		u32 head;
		u32 length;
	} ring[SIZE];
	u16 available_event;
};

static struct {
	struct descriptor table[SIZE];
	struct available available;
	struct used used __attribute__((aligned(4)));
} __attribute__((aligned(4096))) queues[QUEUES];

static struct descriptor indirect[SIZE * 2] __attribute__((aligned(16)));
static u8 buffer[65536] __attribute__((aligned(4096)));
static u8 *const data = buffer + 4096;

struct device {
	const char *name;
	u32 type;
	u32 number;
	u16 common, notify, isr, config;
	u32 queue;   /* where its requests go */
	u32 offered; /* low features */
	u16 sizes[QUEUES];
};

static struct device *d;

#define COMMON(at) ((u16)(d->common + (at)))

static u8 status(void) { return in8(COMMON(0x14)); }
static void set_status(u8 value) { out8(COMMON(0x14), value); }
static void kick(u16 queue) { out16(d->notify, queue); }

static u32 features(u32 half)
{
	out32(COMMON(0x00), half);
	return in32(COMMON(0x04));
}

static void accept(u32 low, u32 high)
{
	out32(COMMON(0x08), 0);
	out32(COMMON(0x0c), low);
	out32(COMMON(0x08), 1);
	out32(COMMON(0x0c), high);
}

static void address(u16 at, u64 value)
{
	out32(COMMON(at), (u32)value);
	out32(COMMON(at + 4), (u32)(value >> 32));
}

static u64 physical(const volatile void *pointer) { return (u32)(unsigned long)pointer; }

static void set_up_queue(u16 index)
{
	memset(&queues[index], 0, sizeof queues[index]);
	out16(COMMON(0x16), index);
	d->sizes[index] = in16(COMMON(0x18));
	if (d->sizes[index] > SIZE) {
		out16(COMMON(0x18), SIZE);
		d->sizes[index] = SIZE;
	}
	address(0x20, physical(queues[index].table));
	address(0x28, physical(&queues[index].available));
	address(0x30, physical(&queues[index].used));
	out16(COMMON(0x1c), 1);
}

/* As a driver does it: § 3.1.1. Features beyond the rings' stay out unless `more` has them. */
static int begin(u32 more)
{
	set_status(0);
	set_status(1);
	set_status(3);
	d->offered = features(0);
	accept(d->offered & (F_INDIRECT | more), 1);
	set_status(11);
	if (!(status() & 8))
		return 0;
	for (u16 i = 0; i < in16(COMMON(0x12)) && i < QUEUES; i++)
		set_up_queue(i);
	return 1;
}

static void ready(void) { set_status(15); }

static void describe(u16 queue, u16 index, u64 at, u32 length, u16 flags, u16 next)
{
	struct descriptor *one = &queues[queue].table[index];

	one->address = at;
	one->length = length;
	one->flags = flags;
	one->next = next;
}

static void offer(u16 queue, u16 head)
{
	struct available *ring = &queues[queue].available;

	ring->ring[ring->index % d->sizes[queue]] = head;
	__asm__ volatile("" ::: "memory");
	ring->index++;
}

static volatile u16 *used_index(u16 queue) { return &queues[queue].used.index; }

/* Waits until so many chains came back, or the device needs a reset. */
static int came_back(u16 queue, u16 count)
{
	for (u32 i = 0; i < PATIENCE; i++) {
		if (*used_index(queue) == count)
			return 1;
		if (status() & 64)
			return 0;
	}
	return 0;
}

/* ------------------------------------------------------- a request of each device */

/* Puts one correct request into descriptors 0 and up; how many it takes. */
static u16 request(void)
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
static int right(void)
{
	if (d->type == 2)
		return data[512] == 0;
	if (d->type == 8)
		return data[11] == 0;
	if (d->type == 9)
		return data[4] == 101;
	return 1;
}

static int works(void)
{
	const u16 q = (u16)d->queue;

	if (!begin(0))
		return 0;
	ready();
	request();
	offer(q, 0);
	kick(q);
	return came_back(q, 1) && queues[q].used.ring[0].head == 0 && right();
}

/* ------------------------------------------------------------------ what is said */

enum { PASS, REJECT, IGNORE };
static u32 wedged;

static void say(const char *rule, int outcome)
{
	static const char *const names[] = { "PASS", "REJECT", "IGNORE" };
	const int alive = works();

	put(d->name);
	put(": ");
	put(rule);
	put(": ");
	put(alive ? names[outcome] : "WEDGED");
	put("\n");
	if (!alive)
		wedged++;
}

/* Kicks, and says what came of the chain at descriptor 0. */
static void see(const char *rule)
{
	const u16 q = (u16)d->queue;

	kick(q);
	if (came_back(q, 1))
		say(rule, right() ? PASS : REJECT);
	else
		say(rule, status() & 64 ? REJECT : IGNORE);
}

/* ------------------------------------------------------ § 2.1, § 2.2, § 3.1, § 4.1 */

static void transport_rules(void)
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

/* ----------------------------------------------------------------------- § 2.7 */

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

static void ring_rules(void)
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

#define RULE(text, ...)                \
	do {                           \
		begin(0);              \
		ready();               \
		u16 last = request();  \
		last--;                \
		(void)last;            \
		__VA_ARGS__;           \
		offer(q, 0);           \
		see(text);             \
	} while (0)
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

/* ---------------------------------------------------------------- of each device */

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

	begin(0);
	ready();
	describe(0, 0, physical(buffer), 4, WRITE, 0);
	offer(0, 0);
	kick(0);
	request();
	offer(q, 0);
	see("5.1.6.3.1 gives a receive buffer that is too small");
	begin(0);
	ready();
	describe(0, 0, physical(buffer), 1526, 0, 0);
	offer(0, 0);
	kick(0);
	request();
	offer(q, 0);
	see("5.1.6.3.1 gives a receive buffer that can't be written");
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
	begin(0);
	ready();
	describe(0, 0, physical(buffer), 64, 0, 0);
	offer(0, 0);
	kick(0);
	request();
	offer(q, 0);
	see("5.3.6 gives a receive buffer that can't be written");
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

/* --------------------------------------------------------------------- the whole */

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
		set_status(0);
	}
	put("conformance: done\n");
	out8(0xf4, wedged ? 1 : 0);
}
