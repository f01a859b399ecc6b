/**
 * Socket device: virtio 1.2, § 5.10, with stream sockets between the guest and the host.
 *
 * What the guest sends goes to the backend at once, which may keep 64 KiB of it: the guest is told
 * of no more room than that (§ 5.10.6.3). What comes from the host is read straight into the
 * guest's buffers, when it has some and there is credit. So the device holds no data, and a
 * connection that stands still holds no other.
 */
import type { Chain } from "./chain.ts";
import type { VirtioDevice, VirtioTransport } from "./device.ts";
import { LATER, serve } from "./serve.ts";
import { READ_END, READ_GONE, type VsockBackend, type VsockEvents } from "./vsock-backend.ts";
import {
  HEADER_SIZE,
  HOST_CID,
  VsockHeader,
  VsockOp,
  VsockShutdown,
  VsockType,
} from "./vsock-packet.ts";
import {
  CONNECTIONS_MAX,
  type VsockRegisterSet,
  VsockState as State,
  VsockTable,
} from "./vsock-table.ts";

/** Bytes that may be on their way from the guest, for each connection. */
export const BUFFER = 65_536;
/** A packet has no more payload: as in Linux. */
const PAYLOAD_MAX = 65_536;
/** The guest is told of so much room that is new, if nothing else is said to it. */
const UPDATE = BUFFER / 4;

const RECEIVE = 0;
const TRANSMIT = 1;
const EVENT = 2;

/** What a connection has to send, in the order in which it goes. */
const Say = { REQUEST: 1, RESPONSE: 2, UPDATE: 4, ASK: 8, DATA: 16, SHUTDOWN: 32 } as const;

export class Vsock implements VirtioDevice, VsockEvents {
  readonly type = 19;
  /** Without any, § 5.10.3: stream sockets only. */
  readonly features = [0, 0] as const;
  readonly queueSizes = [128, 128, 64];
  readonly configSize = 8;
  readonly #table: VsockTable;
  readonly #r: VsockRegisterSet;
  readonly #transport: VirtioTransport;
  readonly #backend: VsockBackend;
  readonly #cid: number;
  /** Of a packet from the guest, and of one to it. */
  readonly #from = new VsockHeader();
  readonly #to = new VsockHeader();
  /** The connection whose bytes are moved, and what has become of them. */
  #key = 0;
  #moved = 0;
  #cut = false;
  #result = 0;

  /** @param cid the guest's: 3 to 2^32 − 2. */
  constructor(
    registers: VsockRegisterSet,
    transport: VirtioTransport,
    backend: VsockBackend,
    cid: number,
  ) {
    this.#r = registers;
    this.#table = new VsockTable(registers);
    this.#transport = transport;
    this.#backend = backend;
    this.#cid = cid;
    backend.attach(this);
  }

  /** § 5.10.4: guest_cid. */
  readConfig(offset: number): number {
    return offset < 4 ? (this.#cid >>> (8 * offset)) & 0xff : 0;
  }

  notify(queue: number): void {
    if (queue === TRANSMIT) {
      this.#transmit();
      this.#receive();
    } else if (queue === RECEIVE) {
      // With new buffers, resets that were in the way of the guest's packets may go.
      this.poll();
    }
  }

  poll(): void {
    if (!this.#transport.live) return;
    this.#receive();
    if (!this.#transport.queue(TRANSMIT).waiting) return;
    this.#transmit();
    this.#receive();
  }

  reset(): void {
    const r = this.#r;
    for (let slot = 0; slot < CONNECTIONS_MAX && r.live > 0; slot++) {
      if (r.state[slot] !== State.FREE) this.#drop(slot);
    }
    this.#table.clear();
  }

  /** § 5.10.6.7, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET: what connections led to is another host's. */
  restored(): void {
    this.#table.clear();
    const queue = this.#transport.queue(EVENT);
    const chain = queue.pop();
    // Without a buffer the guest finds out by resets.
    if (chain === undefined) return;
    queue.push(chain, chain.write(0, new Uint8Array(4)));
    this.#transport.notifyUsed(queue);
  }

  connected(key: number): void {
    const slot = this.#table.slot(key);
    if (slot < 0 || this.#r.state[slot] !== State.CONNECTING) return;
    this.#r.state[slot] = State.OPEN;
    this.#table.say(slot, Say.RESPONSE | Say.DATA);
  }

  refused(key: number): void {
    const slot = this.#table.slot(key);
    if (slot < 0 || this.#r.state[slot] !== State.CONNECTING) return;
    this.#refuse(slot);
  }

  available(key: number): void {
    const slot = this.#table.slot(key);
    if (slot >= 0) this.#table.say(slot, Say.DATA);
  }

  room(key: number, bytes: number): void {
    const slot = this.#table.slot(key);
    if (slot < 0) return;
    this.#r.fwd[slot] += bytes;
    this.#left(slot);
  }

  ended(key: number): void {
    const slot = this.#table.slot(key);
    if (slot >= 0) this.#end(slot);
  }

  incoming(port: number): number | undefined {
    if (!this.#transport.live) return undefined;
    const slot = this.#table.add(State.REQUESTED, port, this.#table.freeHostPort(port));
    if (slot < 0) return undefined;
    this.#table.say(slot, Say.REQUEST);
    return this.#table.key(slot);
  }

  hostPort(key: number): number {
    const slot = this.#table.slot(key);
    return slot < 0 ? 0 : this.#r.hostPort[slot];
  }

  // --- from the guest

  #transmit(): void {
    serve(this.#transport, this.#transport.queue(TRANSMIT), this.#take);
  }

  readonly #take = (chain: Chain): number => {
    // § 5.10.6.1.1: no packet is taken whose answer has no place to wait in.
    if (this.#table.full) return LATER;
    const header = this.#from;
    if (chain.read(0, header.bytes) < HEADER_SIZE) {
      this.#transport.queue(TRANSMIT).fail(`a packet has ${chain.readableBytes} bytes`);
      return 0;
    }
    // There is nobody whom an answer could go to, or come from.
    if (header.sourceCid !== this.#cid || header.destinationCid !== HOST_CID) return 0;
    const { sourcePort, destinationPort } = header;
    if (header.type !== VsockType.STREAM) this.#reject();
    else {
      const slot = this.#table.find(sourcePort, destinationPort);
      if (slot < 0) this.#begin();
      else this.#handle(slot, chain);
    }
    return 0;
  };

  /** Answers the packet by RST, unless it is one. */
  #reject(): void {
    const { op, sourcePort, destinationPort, type } = this.#from;
    if (op !== VsockOp.RST) this.#table.addReset(sourcePort, destinationPort, type);
  }

  /** A packet of no connection. */
  #begin(): void {
    const { op, sourcePort, destinationPort, bufAlloc, fwdCnt } = this.#from;
    const slot =
      op === VsockOp.REQUEST ? this.#table.add(State.CONNECTING, sourcePort, destinationPort) : -1;
    if (slot < 0) {
      this.#reject();
      return;
    }
    this.#r.peerAlloc[slot] = bufAlloc;
    this.#r.peerFwd[slot] = fwdCnt;
    if (!this.#backend.connect(this.#table.key(slot), destinationPort)) this.#refuse(slot);
  }

  #handle(slot: number, chain: Chain): void {
    const r = this.#r;
    const { op, bufAlloc, fwdCnt, flags } = this.#from;
    if (op === VsockOp.RST) {
      this.#drop(slot);
      return;
    }
    // § 5.10.6.3: every packet has both.
    r.peerAlloc[slot] = bufAlloc;
    r.peerFwd[slot] = fwdCnt;
    const state = r.state[slot];
    if (state === State.OPEN && this.#credit(slot) > 0) this.#table.say(slot, Say.DATA);
    if (op === VsockOp.CREDIT_UPDATE) return;
    if (op === VsockOp.CREDIT_REQUEST) this.#table.say(slot, Say.UPDATE);
    else if (op === VsockOp.SHUTDOWN) this.#shut(slot, flags & VsockShutdown.BOTH);
    else if (op === VsockOp.RESPONSE && state === State.REQUESTED) {
      r.state[slot] = State.OPEN;
      this.#backend.accepted(this.#table.key(slot));
      this.#table.say(slot, Say.DATA);
    } else if (op !== VsockOp.RW || !this.#data(slot, chain)) this.#abort(slot);
  }

  /** @returns false when the guest must not send that. */
  #data(slot: number, chain: Chain): boolean {
    const r = this.#r;
    const { length } = this.#from;
    const state = r.state[slot];
    if (length > PAYLOAD_MAX || length > chain.readableBytes - HEADER_SIZE) return false;
    if (state !== State.OPEN && state !== State.ENDED) return false;
    if ((r.guestShut[slot] & VsockShutdown.SEND) !== 0) return false;
    const waiting = (r.received[slot] - r.fwd[slot]) >>> 0;
    if (waiting + length > BUFFER) return false;
    r.received[slot] += length;
    if (state === State.ENDED) this.#moved = length;
    else {
      this.#moved = 0;
      this.#key = this.#table.key(slot);
      chain.spans(false, HEADER_SIZE, length, this.#write);
    }
    r.fwd[slot] += this.#moved;
    this.#left(slot);
    return true;
  }

  readonly #write = (address: number, length: number): void => {
    this.#moved += this.#backend.write(this.#key, address, length);
  };

  /** Bytes have left the buffer: the guest may have to know, or wait for it. */
  #left(slot: number): void {
    const r = this.#r;
    if (r.state[slot] === State.CLOSING && r.received[slot] === r.fwd[slot]) this.#abort(slot);
    else if ((r.fwd[slot] - r.toldFwd[slot]) >>> 0 >= UPDATE) this.#table.say(slot, Say.UPDATE);
  }

  /** § 5.10.6.5: once both are said, the answer is RST. */
  #shut(slot: number, what: number): void {
    const r = this.#r;
    const before = r.guestShut[slot];
    r.guestShut[slot] |= what;
    if (r.state[slot] !== State.OPEN) {
      if (r.guestShut[slot] === VsockShutdown.BOTH && r.state[slot] !== State.CLOSING) {
        this.#abort(slot);
      }
      return;
    }
    const added = what & ~before;
    if (r.guestShut[slot] !== VsockShutdown.BOTH) {
      if (added !== 0) this.#backend.shutdown(this.#table.key(slot), added);
      return;
    }
    if (r.received[slot] === r.fwd[slot]) {
      this.#abort(slot);
      return;
    }
    r.state[slot] = State.CLOSING;
    this.#backend.shutdown(this.#table.key(slot), added);
  }

  // --- ends

  /** The backend refused it. */
  #refuse(slot: number): void {
    this.#resetLater(slot);
    this.#table.remove(slot);
  }

  /** Ends it on both sides. */
  #abort(slot: number): void {
    this.#resetLater(slot);
    this.#drop(slot);
  }

  #resetLater(slot: number): void {
    this.#table.addReset(this.#r.guestPort[slot], this.#r.hostPort[slot], VsockType.STREAM);
  }

  #drop(slot: number): void {
    // The backend has forgotten the others.
    if (this.#r.state[slot] !== State.ENDED) this.#backend.close(this.#table.key(slot));
    this.#table.remove(slot);
  }

  /** The host's side is gone. */
  #end(slot: number): void {
    const r = this.#r;
    const state = r.state[slot];
    if (state === State.ENDED) return;
    if (state !== State.OPEN) {
      this.#abort(slot);
      return;
    }
    this.#backend.close(this.#table.key(slot));
    r.state[slot] = State.ENDED;
    r.fwd[slot] = r.received[slot];
    r.hostShut[slot] = VsockShutdown.BOTH;
    this.#table.say(slot, Say.SHUTDOWN);
  }

  // --- to the guest

  #receive(): void {
    if (this.#r.resetCount === 0 && this.#r.readyCount === 0) return;
    serve(this.#transport, this.#transport.queue(RECEIVE), this.#fill);
  }

  readonly #fill = (chain: Chain): number => {
    const r = this.#r;
    if (r.resetCount === 0 && r.readyCount === 0) return LATER;
    if (chain.writableBytes < HEADER_SIZE) {
      this.#transport.queue(RECEIVE).fail(`a receive buffer has ${chain.writableBytes} bytes`);
      return 0;
    }
    if (r.resetCount > 0) return this.#sendReset(chain);
    // Each comes once at most: those that have nothing leave the ring, the first that has ends this.
    for (;;) {
      const slot = this.#table.nextReady();
      if (slot < 0) return LATER;
      const written = this.#send(slot, chain);
      if (r.say[slot] !== 0) this.#table.say(slot, 0);
      if (written > 0) return written;
    }
  };

  #sendReset(chain: Chain): number {
    const r = this.#r;
    const at = r.resetHead;
    const to = this.#to;
    this.#address(r.resetGuestPort[at], r.resetHostPort[at]);
    to.type = r.resetType[at];
    to.bufAlloc = to.fwdCnt = 0;
    r.resetHead = (at + 1) % (2 * CONNECTIONS_MAX);
    r.resetCount--;
    return this.#put(chain, VsockOp.RST, 0, 0);
  }

  /** Sends one packet of a connection's. @returns bytes written, or 0. */
  #send(slot: number, chain: Chain): number {
    const r = this.#r;
    const say = r.say[slot];
    if ((say & Say.REQUEST) !== 0) return this.#control(slot, chain, Say.REQUEST, VsockOp.REQUEST);
    if ((say & Say.RESPONSE) !== 0) {
      return this.#control(slot, chain, Say.RESPONSE, VsockOp.RESPONSE);
    }
    if ((say & Say.UPDATE) !== 0) {
      return this.#control(slot, chain, Say.UPDATE, VsockOp.CREDIT_UPDATE);
    }
    if ((say & Say.ASK) !== 0) {
      return this.#control(slot, chain, Say.ASK, VsockOp.CREDIT_REQUEST);
    }
    if ((say & Say.DATA) !== 0) {
      const written = this.#sendData(slot, chain);
      if (written > 0) return written;
    }
    if ((r.say[slot] & Say.SHUTDOWN) === 0) return 0;
    return this.#control(slot, chain, Say.SHUTDOWN, VsockOp.SHUTDOWN, r.hostShut[slot]);
  }

  #control(slot: number, chain: Chain, said: number, op: number, flags = 0): number {
    this.#r.say[slot] &= ~said;
    this.#connection(slot);
    return this.#put(chain, op, 0, flags);
  }

  #sendData(slot: number, chain: Chain): number {
    const r = this.#r;
    const closed =
      r.state[slot] !== State.OPEN ||
      (r.guestShut[slot] & VsockShutdown.RECEIVE) !== 0 ||
      (r.hostShut[slot] & VsockShutdown.SEND) !== 0;
    r.say[slot] &= ~Say.DATA;
    if (closed) return 0;
    const credit = this.#credit(slot);
    // A packet from the guest goes on with it.
    if (credit === 0) return this.#control(slot, chain, Say.ASK, VsockOp.CREDIT_REQUEST);
    r.say[slot] |= Say.DATA;
    const space = Math.min(chain.writableBytes - HEADER_SIZE, credit, PAYLOAD_MAX);
    // Such a buffer holds no data. It must not be in the way of the next one.
    if (space === 0) return this.#control(slot, chain, Say.UPDATE, VsockOp.CREDIT_UPDATE);
    this.#moved = 0;
    this.#cut = false;
    this.#result = 1;
    this.#key = this.#table.key(slot);
    chain.spans(true, HEADER_SIZE, space, this.#read);
    const length = this.#moved;
    if (this.#result === 0) r.say[slot] &= ~Say.DATA;
    else if (this.#result === READ_GONE) this.#end(slot);
    else if (this.#result === READ_END) {
      r.hostShut[slot] |= VsockShutdown.SEND;
      this.#table.say(slot, Say.SHUTDOWN);
    }
    if (length === 0) return 0;
    r.sent[slot] += length;
    this.#connection(slot);
    return this.#put(chain, VsockOp.RW, length, 0);
  }

  readonly #read = (address: number, length: number): void => {
    // What comes next must lie right behind what came before.
    if (this.#cut) return;
    const got = this.#backend.read(this.#key, address, length);
    this.#cut = got < length;
    if (got > 0) this.#moved += got;
    else this.#result = got;
  };

  /** Bytes that the guest has room for: § 5.10.6.3. */
  #credit(slot: number): number {
    const r = this.#r;
    const waiting = (r.sent[slot] - r.peerFwd[slot]) >>> 0;
    return Math.max(0, r.peerAlloc[slot] - waiting);
  }

  #connection(slot: number): void {
    const r = this.#r;
    const to = this.#to;
    this.#address(r.guestPort[slot], r.hostPort[slot]);
    to.type = VsockType.STREAM;
    to.bufAlloc = BUFFER;
    to.fwdCnt = r.toldFwd[slot] = r.fwd[slot];
  }

  #address(guestPort: number, hostPort: number): void {
    const to = this.#to;
    to.sourceCid = HOST_CID;
    to.destinationCid = this.#cid;
    to.sourcePort = hostPort;
    to.destinationPort = guestPort;
  }

  /** Writes the header over a payload that is there. @returns bytes of the packet. */
  #put(chain: Chain, op: number, length: number, flags: number): number {
    const to = this.#to;
    to.op = op;
    to.flags = flags;
    to.length = length;
    chain.write(0, to.bytes);
    return HEADER_SIZE + length;
  }
}
