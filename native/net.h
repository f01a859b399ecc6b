/* SPDX-License-Identifier: ISC */
/*
 * net.h: what native code does for src/vmd/net: taps, and the switch between VMs that
 * needs no root. Conventions are vmm.h's.
 *
 * A packet is a virtio network header of 12 bytes (struct virtio_net_hdr_v1,
 * linux/virtio_net.h, little endian) and an Ethernet frame behind it.
 */
#ifndef NET_H
#define NET_H

#include <stdbool.h>
#include <stdint.h>

#define NET_HEADER 12u
#define NET_ETHERNET 14u
/* Ethernet with one VLAN tag and the longest IP packet: what offloads can come to. */
#define NET_LONGEST (NET_HEADER + NET_ETHERNET + 4u + 65535u)

/* What a receiver takes: the bits of TUNSETOFFLOAD (linux/if_tun.h). */
enum net_offload {
	NET_CSUM = 1u << 0, /* checksums that are still to be completed */
	NET_TSO4 = 1u << 1, /* TCP segments over IPv4 that are still to be cut */
	NET_TSO6 = 1u << 2, /* ... over IPv6 */
};

/*
 * Checks a packet that a guest has written, and puts its header in order: what has no
 * meaning becomes 0. Frames that aren't to be cut are at most `mtu` bytes behind their
 * Ethernet header and a VLAN tag. 0, or -EINVAL: the packet is to be dropped.
 */
int vmm_net_check(uint8_t *packet, uint32_t length, uint32_t mtu);

/* What a receiver must take to be given a checked packet as it is; enum net_offload. */
uint32_t net_needs(const uint8_t *packet);

/* Takes a packet; it may change it. */
typedef void net_emit(void *context, uint8_t *packet, uint32_t length);

/* A checked packet for a receiver that takes no offloads: checksums are completed,
 * segments are cut. Several packets may come of it, made in `space`, of NET_LONGEST bytes. */
void net_complete(const uint8_t *packet, uint32_t length, uint8_t *space, net_emit *emit,
		  void *context);

/* vmm_net_check and net_complete, for tests: packets into `out`, each behind its length
 * (32 bits). Returns the bytes, or -errno. */
int64_t vmm_net_complete(uint8_t *packet, uint32_t length, uint32_t mtu, uint8_t *out,
			 uint64_t size);

/* ---------------------------------------------------------------- pairs of sockets */

/* A port of a switch: packets, SOCK_SEQPACKET. Large buffers; 0 or -errno. */
int vmm_switch_pair(int32_t fds[2]);

/* A VM and passt: bytes, SOCK_STREAM. The second is passt's, and blocks. */
int vmm_passt_pair(int32_t fds[2]);

/* ------------------------------------------------------------------------- taps */

#define NET_NAME 16u

/*
 * Opens a tap whose packets have the header above. `name` is the interface's, or one with
 * %d for the next that is free; it is what came of it afterwards. `owner`: who may open it
 * too, a user's number, or -1. Returns a descriptor, which doesn't block, or -errno.
 */
int vmm_tap_open(char name[NET_NAME], int64_t owner);

/* What the guest behind it takes: enum net_offload. At first: nothing. */
int vmm_tap_offload(int32_t fd, uint32_t offloads);

/* ------------------------------------------------------------------- the switch */

#define NET_PORTS 256u

struct vmm_switch;

enum vmm_switch_event {
	VMM_SWITCH_CONTROL = 1, /* the control descriptor has input, or has ended */
	VMM_SWITCH_ENDED = 2,	/* a port's other end is gone; vmm_switch_ended */
};

/* Packets and bytes of a port. */
struct vmm_port_counts {
	uint64_t received, received_bytes; /* from the port */
	uint64_t sent, sent_bytes;
	uint64_t dropped; /* its receiver was full */
	uint64_t refused; /* what it sent was no packet, or another's address */
};

/* `control` is waited for, never read; -1: none. Stations are forgotten after `ageing` ms
 * without a frame of theirs. NULL: no memory, or no descriptors. */
struct vmm_switch *vmm_switch_open(int32_t control, uint32_t mtu, uint32_t ageing);
void vmm_switch_close(struct vmm_switch *);

/*
 * Adds a port: a SOCK_SEQPACKET socket, the switch's from then on. With `locked`, 6 bytes,
 * it sends frames from that address alone, and no other port does. Returns its number, or
 * -errno: -EEXIST for an address that is another's, -ENOSPC.
 *
 * A packet of 4 bytes from a port says what it takes: enum net_offload. At first: nothing.
 */
int vmm_switch_add(struct vmm_switch *, int32_t fd, const uint8_t *locked);
int vmm_switch_remove(struct vmm_switch *, uint32_t port);

/* Forwards packets until one of vmm_switch_event's (returned as bits), or until none has come
 * for `timeout` ms (0; -1: for ever). */
int vmm_switch_run(struct vmm_switch *, int32_t timeout);

/* A port whose other end is gone, to be removed; -1: none. */
int vmm_switch_ended(struct vmm_switch *);
int vmm_switch_counts(struct vmm_switch *, uint32_t port, struct vmm_port_counts *);

/* --------------------------------------------------------------- stations' table */

struct stations;

struct stations *stations_make(uint32_t ageing);
void stations_free(struct stations *);

/* A frame from `mac` (48 bits) has come from a port. False: the address is another port's. */
bool stations_learn(struct stations *, uint64_t mac, uint32_t port, uint64_t now);
/* The port of an address that is this port's alone. -EEXIST, -ENOSPC. */
int stations_lock(struct stations *, uint64_t mac, uint32_t port);
/* Where an address is; -1: not known. */
int stations_find(struct stations *, uint64_t mac, uint64_t now);
void stations_forget(struct stations *, uint32_t port);

#endif
