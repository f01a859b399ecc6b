// SPDX-License-Identifier: ISC
/*
 * stations.c: which port of a switch an address was last seen at (IEEE 802.1D §7.8,
 * the filtering database). Its size is fixed, and so is each port's share of it, so that
 * a guest that makes addresses up can't push others out; one with no room is flooded.
 */
#define _GNU_SOURCE
#include "net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define BUCKETS 4096u
#define WAYS 8u
/* Addresses of one port: a guest may be a bridge itself. */
#define SHARE 64u
#define LOCKED UINT64_MAX
#define PORT_SHIFT 48
#define MAC_MASK ((1ull << PORT_SHIFT) - 1)

struct station {
	uint64_t key; /* the address, and the port above it; 0: none */
	uint64_t seen; /* ms, or LOCKED */
};

struct stations {
	struct station table[BUCKETS][WAYS];
	uint64_t secret;
	uint32_t ageing;
	/* Each port's addresses, and the place of the next: the oldest one's. */
	uint64_t share[NET_PORTS][SHARE];
	uint32_t next[NET_PORTS];
};

struct stations *stations_make(uint32_t ageing)
{
	struct stations *stations = calloc(1, sizeof(*stations));

	if (!stations)
		return NULL;
	stations->ageing = ageing;
	// Nobody outside can choose addresses that meet in one bucket.
	if (getrandom(&stations->secret, sizeof(stations->secret), 0) < 0) {
		free(stations);
		return NULL;
	}
	return stations;
}

void stations_free(struct stations *stations)
{
	free(stations);
}

static struct station *bucket(struct stations *stations, uint64_t mac)
{
	uint64_t mixed = (mac ^ stations->secret) * 0x9e3779b97f4a7c15ull;

	mixed = (mixed ^ (mixed >> 29) ^ (stations->secret << 7)) * 0xbf58476d1ce4e5b9ull;
	return stations->table[(mixed >> 40) % BUCKETS];
}

static uint32_t port_of(const struct station *station)
{
	return (uint32_t)(station->key >> PORT_SHIFT);
}

static void clear(struct station *station)
{
	*station = (struct station){ 0 };
}

static bool is_old(const struct stations *stations, const struct station *station, uint64_t now)
{
	return station->seen != LOCKED && now - station->seen > stations->ageing;
}

static struct station *find(struct stations *stations, uint64_t mac)
{
	struct station *station = bucket(stations, mac);

	for (uint32_t way = 0; way < WAYS; way++) {
		if (station[way].key != 0 && (station[way].key & MAC_MASK) == mac)
			return &station[way];
	}
	return NULL;
}

// A new address takes the place of the port's oldest one.
static void make_room(struct stations *stations, uint64_t mac, uint32_t port)
{
	uint64_t *place = &stations->share[port][stations->next[port]++ % SHARE];
	struct station *before = *place ? find(stations, *place) : NULL;

	if (before && before->seen != LOCKED && port_of(before) == port)
		clear(before);
	*place = mac;
}

bool stations_learn(struct stations *stations, uint64_t mac, uint32_t port, uint64_t now)
{
	struct station *station = find(stations, mac);

	if (station) {
		if (station->seen == LOCKED)
			return port_of(station) == port;
		if (port_of(station) == port) {
			station->seen = now;
			return true;
		}
		clear(station); // it has moved
	}
	make_room(stations, mac, port);
	station = bucket(stations, mac);
	for (uint32_t way = 0; way < WAYS; way++, station++) {
		if (station->key != 0 && !is_old(stations, station, now))
			continue;
		station->key = mac | (uint64_t)port << PORT_SHIFT;
		station->seen = now;
		break;
	}
	return true;
}

int stations_lock(struct stations *stations, uint64_t mac, uint32_t port)
{
	struct station *station = find(stations, mac);

	if (station && station->seen == LOCKED)
		return -EEXIST;
	for (uint32_t way = 0; !station && way < WAYS; way++) {
		if (bucket(stations, mac)[way].seen != LOCKED)
			station = &bucket(stations, mac)[way];
	}
	if (!station)
		return -ENOSPC;
	clear(station);
	station->key = mac | (uint64_t)port << PORT_SHIFT;
	station->seen = LOCKED;
	return 0;
}

int stations_find(struct stations *stations, uint64_t mac, uint64_t now)
{
	struct station *station = find(stations, mac);

	if (!station)
		return -1;
	if (!is_old(stations, station, now))
		return (int)port_of(station);
	clear(station);
	return -1;
}

void stations_forget(struct stations *stations, uint32_t port)
{
	for (uint32_t i = 0; i < BUCKETS * WAYS; i++) {
		struct station *station = &stations->table[i / WAYS][i % WAYS];

		if (station->key != 0 && port_of(station) == port)
			clear(station);
	}
	memset(stations->share[port], 0, sizeof(stations->share[port]));
}
