/** A socket device's connections: their state, and how they are found. All of it is registers. */
import { declareRegisters, u16, u32, u8, type Registers } from "../../vmm/registers.ts";

/** Connections at once; a power of two. */
export const CONNECTIONS_MAX = 1024;
/**
 * Resets that wait for a receive buffer. Every connection may end at any time, and then there must
 * be a place for its RST: see `VsockTable.full`.
 */
export const RESETS_MAX = 2 * CONNECTIONS_MAX;

export const VsockState = {
  FREE: 0,
  /** The guest asked for it, and the host has not answered. */
  CONNECTING: 1,
  /** The host asked for it, and the guest has not answered. */
  REQUESTED: 2,
  OPEN: 3,
  /** The guest has shut it down. What it sent is still on its way to the host. */
  CLOSING: 4,
  /** The host's side is gone; the guest's answer to SHUTDOWN is to come. */
  ENDED: 5,
} as const;

const declaration = {
  state: u8.array(CONNECTIONS_MAX),
  guestPort: u32.array(CONNECTIONS_MAX),
  hostPort: u32.array(CONNECTIONS_MAX),
  /** How often the place was used: a late event about another connection is not for this one. */
  generation: u32.array(CONNECTIONS_MAX),
  /** Of the guest's buffer: its size, what left it, and what was sent to it. */
  peerAlloc: u32.array(CONNECTIONS_MAX),
  peerFwd: u32.array(CONNECTIONS_MAX),
  sent: u32.array(CONNECTIONS_MAX),
  /** Of ours: what came, what left it, and what the guest was told of that. */
  received: u32.array(CONNECTIONS_MAX),
  fwd: u32.array(CONNECTIONS_MAX),
  toldFwd: u32.array(CONNECTIONS_MAX),
  /** What each side does no more: bits of VsockShutdown. */
  guestShut: u8.array(CONNECTIONS_MAX),
  hostShut: u8.array(CONNECTIONS_MAX),
  /** What is to be sent to the guest: bits of Say. */
  say: u8.array(CONNECTIONS_MAX),
  /** Whether it is in `ready`. */
  queued: u8.array(CONNECTIONS_MAX),
  /** A ring of those that have something to send. */
  ready: u16.array(CONNECTIONS_MAX),
  readyHead: u16(0),
  readyCount: u16(0),
  /** By hash of the ports: the first, and for each the next; one more than its place, 0: none. */
  first: u16.array(CONNECTIONS_MAX),
  next: u16.array(CONNECTIONS_MAX),
  live: u16(0),
  /** Where to look for a free place. */
  hint: u16(0),
  /** A ring of resets that wait: ports and type of each. */
  resetGuestPort: u32.array(RESETS_MAX),
  resetHostPort: u32.array(RESETS_MAX),
  resetType: u16.array(RESETS_MAX),
  resetHead: u16(0),
  resetCount: u16(0),
  /** The last port that a host's connection got. */
  lastHostPort: u32(0),
};

export const VsockRegisters = declareRegisters("virtio-vsock", declaration);
export type VsockRegisterSet = Registers<typeof declaration>;

export class VsockTable {
  readonly r: VsockRegisterSet;

  constructor(registers: VsockRegisterSet) {
    this.r = registers;
  }

  /**
   * Whether nothing new may be taken on. A packet from the guest leads to one connection or one
   * reset more at most, and the end of a connection to a reset in its stead.
   */
  get full(): boolean {
    return this.r.resetCount + this.r.live >= RESETS_MAX;
  }

  /** A connection's place by its ports, or −1. */
  find(guestPort: number, hostPort: number): number {
    const r = this.r;
    let at = r.first[hash(guestPort, hostPort)];
    while (at !== 0) {
      const slot = at - 1;
      if (r.guestPort[slot] === guestPort && r.hostPort[slot] === hostPort) return slot;
      at = r.next[slot];
    }
    return -1;
  }

  /** Takes a place, or gives −1 when there is none. */
  add(state: number, guestPort: number, hostPort: number): number {
    const r = this.r;
    if (r.live === CONNECTIONS_MAX || this.full) return -1;
    let slot = r.hint;
    while (r.state[slot] !== VsockState.FREE) slot = (slot + 1) % CONNECTIONS_MAX;
    r.hint = (slot + 1) % CONNECTIONS_MAX;
    r.live++;
    r.state[slot] = state;
    r.guestPort[slot] = guestPort;
    r.hostPort[slot] = hostPort;
    // Keys have 32 bits.
    r.generation[slot] = (r.generation[slot] + 1) % 2 ** 22;
    r.peerAlloc[slot] = r.peerFwd[slot] = r.sent[slot] = 0;
    r.received[slot] = r.fwd[slot] = r.toldFwd[slot] = 0;
    r.guestShut[slot] = r.hostShut[slot] = r.say[slot] = 0;
    const bucket = hash(guestPort, hostPort);
    r.next[slot] = r.first[bucket];
    r.first[bucket] = slot + 1;
    return slot;
  }

  remove(slot: number): void {
    const r = this.r;
    const bucket = hash(r.guestPort[slot], r.hostPort[slot]);
    if (r.first[bucket] === slot + 1) r.first[bucket] = r.next[slot];
    else {
      let before = r.first[bucket] - 1;
      while (r.next[before] !== slot + 1) before = r.next[before] - 1;
      r.next[before] = r.next[slot];
    }
    r.state[slot] = VsockState.FREE;
    // It may still be in the ring; whoever comes to it finds nothing to say.
    r.say[slot] = 0;
    r.live--;
  }

  /** What a backend knows a connection by. */
  key(slot: number): number {
    return this.r.generation[slot] * CONNECTIONS_MAX + slot;
  }

  /** The place of a key, or −1 when that connection is no more. */
  slot(key: number): number {
    const r = this.r;
    const slot = key % CONNECTIONS_MAX;
    if (r.state[slot] === VsockState.FREE || this.key(slot) !== key) return -1;
    return slot;
  }

  /** Has something to be sent. */
  say(slot: number, what: number): void {
    const r = this.r;
    r.say[slot] |= what;
    if (r.queued[slot] !== 0) return;
    r.queued[slot] = 1;
    r.ready[(r.readyHead + r.readyCount) % CONNECTIONS_MAX] = slot;
    r.readyCount++;
  }

  /** Takes the next one that has something to send, or −1. */
  nextReady(): number {
    const r = this.r;
    if (r.readyCount === 0) return -1;
    const slot = r.ready[r.readyHead];
    r.readyHead = (r.readyHead + 1) % CONNECTIONS_MAX;
    r.readyCount--;
    r.queued[slot] = 0;
    return slot;
  }

  /** There is room: see `full`. */
  addReset(guestPort: number, hostPort: number, type: number): void {
    const r = this.r;
    const at = (r.resetHead + r.resetCount) % RESETS_MAX;
    r.resetGuestPort[at] = guestPort;
    r.resetHostPort[at] = hostPort;
    r.resetType[at] = type;
    r.resetCount++;
  }

  /** A port for a connection from the host to a guest's port, that no other has. */
  freeHostPort(guestPort: number): number {
    const r = this.r;
    // From 2^30 on, where no service listens. There are more ports than connections.
    do {
      r.lastHostPort = 2 ** 30 + ((r.lastHostPort + 1) % 2 ** 30);
    } while (this.find(guestPort, r.lastHostPort) >= 0);
    return r.lastHostPort;
  }

  /** Forgets all; keys of before stay unknown. */
  clear(): void {
    const r = this.r;
    const { lastHostPort } = r;
    const generation = r.generation.slice();
    r.resetAll();
    r.generation.set(generation);
    r.lastHostPort = lastHostPort;
  }
}

function hash(guestPort: number, hostPort: number): number {
  const mixed = Math.imul(guestPort, 0x9e3779b1) ^ Math.imul(hostPort, 0x85ebca6b);
  return (mixed >>> 16) % CONNECTIONS_MAX;
}
