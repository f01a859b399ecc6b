// SPDX-License-Identifier: ISC
/*
 * driver.h: a driver of any virtio device, as it should be, in the pieces of which one that breaks a
 * rule is made; and what is said of each rule.
 */
#ifndef DRIVER_H
#define DRIVER_H

#include "machine.h"

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

struct queue {
	struct descriptor table[SIZE];
	struct available available;
	struct used used __attribute__((aligned(4)));
} __attribute__((aligned(4096)));

extern struct queue queues[QUEUES];
extern struct descriptor indirect[SIZE * 2];
extern u8 buffer[65536];
/* The second page of it. */
extern u8 *const data;

struct device {
	const char *name;
	u32 type;
	u32 number;
	u16 common, notify, isr, config;
	u32 queue;   /* where its requests go */
	u32 offered; /* low features */
	u16 sizes[QUEUES];
};

/* The one at hand. */
extern struct device *d;

#define COMMON(at) ((u16)(d->common + (at)))

static inline u8 status(void) { return in8(COMMON(0x14)); }
static inline void set_status(u8 value) { out8(COMMON(0x14), value); }
static inline void kick(u16 queue) { out16(d->notify, queue); }
static inline u64 physical(const volatile void *pointer) { return (u32)(unsigned long)pointer; }

u32 features(u32 half);
void accept(u32 low, u32 high);
/* Writes a queue's address. */
void address(u16 at, u64 value);
void set_up_queue(u16 index);
int begin(u32 more);
static inline void ready(void) { set_status(15); }
void describe(u16 queue, u16 index, u64 at, u32 length, u16 flags, u16 next);
void offer(u16 queue, u16 head);
int came_back(u16 queue, u16 count);

u16 request(void);
int right(void);
/* Whether a correct driver gets its answer after a reset. */
int works(void);

enum { PASS, REJECT, IGNORE };
/* Devices' rules after which nothing worked any more. */
extern u32 wedged;

void say(const char *rule, int outcome);
void see(const char *rule);

/* A request in which something is wrong; `t` is the table, `q` the queue, `last` its last descriptor. */
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

void transport_rules(void);
void ring_rules(void);
/* Those of the device's type. */
void device_rules(void);

#endif
