// SPDX-License-Identifier: ISC
/*
 * packet.c: packets with a virtio network header (virtio 1.2 §5.1.6), which a guest has
 * written: what is right about them, and what they are for a receiver that can't complete
 * checksums and cut segments itself.
 */
#define _GNU_SOURCE
#include "net.h"

#include <errno.h>
#include <linux/virtio_net.h>
#include <string.h>

#define VLAN 0x8100
#define IPV4 0x0800
#define IPV6 0x86dd
#define TCP 6
#define TCP_CHECKSUM 16
#define TCP_CWR 0x80u
#define TCP_FIN_PSH 0x09u
#define SMALLEST_SEGMENT 48
#define FRAGMENT 0x3fffu

/* A TCP segment's parts, from the frame's start. */
struct layout {
	uint32_t ip, tcp, payload;
	bool v6;
};

static uint16_t get16(const uint8_t *bytes)
{
	return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

static void put16(uint8_t *bytes, uint32_t value)
{
	bytes[0] = (uint8_t)(value >> 8);
	bytes[1] = (uint8_t)value;
}

static uint32_t get32(const uint8_t *bytes)
{
	return (uint32_t)get16(bytes) << 16 | get16(bytes + 2);
}

static void put32(uint8_t *bytes, uint32_t value)
{
	put16(bytes, value >> 16);
	put16(bytes + 2, value & 0xffff);
}

// Sums up for a checksum: RFC 1071. Not yet folded.
static uint64_t add(uint64_t sum, const uint8_t *bytes, uint32_t length)
{
	uint32_t i = 0;

	for (; i + 1 < length; i += 2)
		sum += get16(bytes + i);
	return i < length ? sum + (uint64_t)(bytes[i] << 8) : sum;
}

static uint16_t fold(uint64_t sum)
{
	while (sum > 0xffff)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

// Whether a frame is TCP over IP, whole and with something in it.
static bool find_layout(const uint8_t *frame, uint32_t length, struct layout *layout)
{
	uint32_t type = 12, ip, header;

	if (length < NET_ETHERNET + 4 + 20)
		return false;
	if (get16(frame + type) == VLAN)
		type += 4;
	ip = type + 2;
	layout->ip = ip;
	layout->v6 = get16(frame + type) == IPV6;
	if (layout->v6) {
		// Segments with extension headers aren't cut by anybody.
		if (frame[ip] >> 4 != 6 || frame[ip + 6] != TCP)
			return false;
		header = 40;
	} else {
		if (get16(frame + type) != IPV4 || frame[ip] >> 4 != 4 || frame[ip + 9] != TCP)
			return false;
		header = (frame[ip] & 0x0fu) * 4;
		if (header < 20 || (get16(frame + ip + 6) & FRAGMENT) != 0)
			return false;
	}
	layout->tcp = ip + header;
	if (layout->tcp + 20 > length)
		return false;
	header = (frame[layout->tcp + 12] >> 4) * 4u;
	layout->payload = layout->tcp + header;
	return header >= 20 && layout->payload < length;
}

static bool check_segment(struct virtio_net_hdr_v1 *header, const uint8_t *frame, uint32_t length,
			  uint32_t mtu)
{
	struct layout layout;

	if (header->gso_type != VIRTIO_NET_HDR_GSO_TCPV4 &&
	    header->gso_type != VIRTIO_NET_HDR_GSO_TCPV6)
		return false;
	// §5.1.6.2: who wants segments cut leaves their checksums to be completed, too.
	if (!(header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || !find_layout(frame, length, &layout))
		return false;
	if (layout.v6 != (header->gso_type == VIRTIO_NET_HDR_GSO_TCPV6))
		return false;
	if (header->csum_start != layout.tcp || header->csum_offset != TCP_CHECKSUM)
		return false;
	// Smaller ones nobody sends (Linux's TCP_MIN_SND_MSS), and cutting them is much work.
	if (header->gso_size < SMALLEST_SEGMENT || layout.payload - layout.ip + header->gso_size > mtu)
		return false;
	header->hdr_len = (uint16_t)layout.payload;
	return true;
}

int vmm_net_check(uint8_t *packet, uint32_t length, uint32_t mtu)
{
	const uint8_t *frame = packet + NET_HEADER;
	struct virtio_net_hdr_v1 header;

	if (length < NET_HEADER + NET_ETHERNET || length > NET_LONGEST)
		return -EINVAL;
	memcpy(&header, packet, NET_HEADER);
	length -= NET_HEADER;
	// Others are for packets to a guest.
	header.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
	if (header.flags) {
		if (header.csum_start < NET_ETHERNET ||
		    (uint32_t)header.csum_start + header.csum_offset + 2 > length)
			return -EINVAL;
	} else {
		header.csum_start = 0;
		header.csum_offset = 0;
	}
	if (header.gso_type == VIRTIO_NET_HDR_GSO_NONE) {
		if (length > mtu + NET_ETHERNET + 4)
			return -EINVAL;
		header.gso_size = 0;
		header.hdr_len = 0;
	} else if (!check_segment(&header, frame, length, mtu)) {
		return -EINVAL;
	}
	header.num_buffers = 1;
	memcpy(packet, &header, NET_HEADER);
	return 0;
}

uint32_t net_needs(const uint8_t *packet)
{
	uint32_t needs = packet[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM ? NET_CSUM : 0;

	if (packet[1] == VIRTIO_NET_HDR_GSO_TCPV4)
		needs |= NET_TSO4;
	else if (packet[1] == VIRTIO_NET_HDR_GSO_TCPV6)
		needs |= NET_TSO6;
	return needs;
}

static void plain_header(uint8_t *packet)
{
	struct virtio_net_hdr_v1 header = { .num_buffers = 1 };

	memcpy(packet, &header, NET_HEADER);
}

// The lengths and checksums of one segment whose headers are copies of the whole's.
static void finish_segment(uint8_t *frame, uint32_t length, const struct layout *layout)
{
	uint8_t *ip = frame + layout->ip, *tcp = frame + layout->tcp;
	uint32_t tcp_length = length - layout->tcp;
	uint64_t sum = TCP + tcp_length;

	if (layout->v6) {
		put16(ip + 4, length - layout->ip - 40);
		sum = add(sum, ip + 8, 32);
	} else {
		put16(ip + 2, length - layout->ip);
		put16(ip + 10, 0);
		put16(ip + 10, fold(add(0, ip, layout->tcp - layout->ip)));
		sum = add(sum, ip + 12, 8);
	}
	put16(tcp + TCP_CHECKSUM, 0);
	put16(tcp + TCP_CHECKSUM, fold(add(sum, tcp, tcp_length)));
}

static void cut(const uint8_t *frame, uint32_t length, uint32_t size, uint8_t *space,
		net_emit *emit, void *context)
{
	uint8_t *out = space + NET_HEADER;
	struct layout layout;

	if (!find_layout(frame, length, &layout))
		return;

	uint32_t headers = layout.payload, number = 0;
	uint8_t *flags = out + layout.tcp + 13;

	for (uint32_t at = headers; at < length; at += size, number++) {
		uint32_t part = length - at < size ? length - at : size;

		plain_header(space);
		memcpy(out, frame, headers);
		memcpy(out + headers, frame + at, part);
		if (!layout.v6)
			put16(out + layout.ip + 4, get16(frame + layout.ip + 4) + number);
		put32(out + layout.tcp + 4, get32(frame + layout.tcp + 4) + at - headers);
		if (number > 0)
			*flags &= (uint8_t)~TCP_CWR;
		if (at + part < length)
			*flags &= (uint8_t)~TCP_FIN_PSH;
		finish_segment(out, headers + part, &layout);
		emit(context, space, NET_HEADER + headers + part);
	}
}

void net_complete(const uint8_t *packet, uint32_t length, uint8_t *space, net_emit *emit,
		  void *context)
{
	struct virtio_net_hdr_v1 header;
	uint32_t needs = net_needs(packet);

	memcpy(&header, packet, NET_HEADER);
	if (needs & (NET_TSO4 | NET_TSO6)) {
		cut(packet + NET_HEADER, length - NET_HEADER, header.gso_size, space, emit, context);
		return;
	}
	memcpy(space, packet, length);
	if (needs & NET_CSUM) {
		// The field holds the pseudo header's sum (§5.1.6.2), so the sum of all is the
		// checksum. 0 would be none for UDP; all ones are the same for TCP.
		uint8_t *start = space + NET_HEADER + header.csum_start;
		uint16_t sum = fold(add(0, start, length - NET_HEADER - header.csum_start));

		put16(start + header.csum_offset, sum ? sum : 0xffff);
	}
	plain_header(space);
	emit(context, space, length);
}

struct collected {
	uint8_t *at, *end;
	bool full;
};

static void collect(void *context, uint8_t *packet, uint32_t length)
{
	struct collected *collected = context;

	if ((uint64_t)(collected->end - collected->at) < length + sizeof(length)) {
		collected->full = true;
		return;
	}
	memcpy(collected->at, &length, sizeof(length));
	memcpy(collected->at + sizeof(length), packet, length);
	collected->at += sizeof(length) + length;
}

int64_t vmm_net_complete(uint8_t *packet, uint32_t length, uint32_t mtu, uint8_t *out,
			 uint64_t size)
{
	static _Thread_local uint8_t space[NET_LONGEST];
	struct collected collected = { .at = out, .end = out + size };
	int error = vmm_net_check(packet, length, mtu);

	if (error)
		return error;
	net_complete(packet, length, space, collect, &collected);
	return collected.full ? -ENOSPC : collected.at - out;
}
