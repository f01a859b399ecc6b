// SPDX-License-Identifier: ISC
/* driver.c: a driver as it should be, and what is said of one that isn't. */
#include "driver.h"

struct queue queues[QUEUES];
struct descriptor indirect[SIZE * 2] __attribute__((aligned(16)));
u8 buffer[65536] __attribute__((aligned(4096)));
u8 *const data = buffer + 4096;
struct device *d;
u32 wedged;

u32 features(u32 half)
{
	out32(COMMON(0x00), half);
	return in32(COMMON(0x04));
}

void accept(u32 low, u32 high)
{
	out32(COMMON(0x08), 0);
	out32(COMMON(0x0c), low);
	out32(COMMON(0x08), 1);
	out32(COMMON(0x0c), high);
}

void address(u16 at, u64 value)
{
	out32(COMMON(at), (u32)value);
	out32(COMMON(at + 4), (u32)(value >> 32));
}

void set_up_queue(u16 index)
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
int begin(u32 more)
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

void describe(u16 queue, u16 index, u64 at, u32 length, u16 flags, u16 next)
{
	struct descriptor *one = &queues[queue].table[index];

	one->address = at;
	one->length = length;
	one->flags = flags;
	one->next = next;
}

void offer(u16 queue, u16 head)
{
	struct available *ring = &queues[queue].available;

	ring->ring[ring->index % d->sizes[queue]] = head;
	__asm__ volatile("" ::: "memory");
	ring->index++;
}

static volatile u16 *used_index(u16 queue) { return &queues[queue].used.index; }

/* Waits until so many chains came back, or the device needs a reset. */
int came_back(u16 queue, u16 count)
{
	for (u32 i = 0; i < PATIENCE; i++) {
		if (*used_index(queue) == count)
			return 1;
		if (status() & 64)
			return 0;
	}
	return 0;
}

int works(void)
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

void say(const char *rule, int outcome)
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
void see(const char *rule)
{
	const u16 q = (u16)d->queue;

	kick(q);
	if (came_back(q, 1))
		say(rule, right() ? PASS : REJECT);
	else
		say(rule, status() & 64 ? REJECT : IGNORE);
}
