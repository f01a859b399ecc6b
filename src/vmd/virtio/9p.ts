/**
 * virtio-9p: a file share. Virtio lists the device (type 9) and leaves it to Linux's
 * net/9p/trans_virtio.c: one queue, in each chain a request of 9P to read and room for its reply,
 * and the name to mount it by in the configuration.
 *
 * It knows no request but by its size and tag. Who answers is a backend, in its own time and order.
 */
import { ERROR_SIZE, encodeReply, HEADER, MSIZE_MAX, tagOf } from "../share/messages.ts";
import type { Chain } from "./chain.ts";
import type { VirtioDevice, VirtioTransport } from "./device.ts";
import { LATER, serve, TAKEN } from "./serve.ts";

const QUEUE = 128;
/** Bit 0 of its features. */
const MOUNT_TAG = 1;
/** Bytes of a mount tag, as QEMU has it. */
export const MOUNT_TAG_MAX = 255;
/** Requests that may be out, with those of before a reset. */
const OUT_MAX = 4 * QUEUE;
/** How long replies may take before a snapshot, ms. */
const QUIESCE = 5000;
/** Of messages: Tversion, Tattach, Tclunk. */
const VERSION = 100;
const ATTACH = 104;
const CLUNK = 120;
const EIO = 5;
const EMSGSIZE = 90;

/** Who answers requests. Their tags are the device's: replies have the same. */
export interface NinePBackend {
  /** Whether another request would be taken now. */
  readonly ready: boolean;
  /** No request will ever be answered any more. */
  readonly gone: boolean;
  /** Takes a request; the bytes are the backend's from then on. */
  send(request: Uint8Array): void;
  /** Gives replies that have come; each is the backend's again afterwards. @returns whether there may be more */
  receive(take: (reply: Uint8Array) => void): boolean;
  /** Waits a little while for a reply. */
  wait(): void;
}

interface Out {
  /** Undefined: the device was reset since. */
  chain: Chain | undefined;
  /** The guest's. */
  tag: number;
}

export class NineP implements VirtioDevice {
  readonly type = 9;
  readonly features = [MOUNT_TAG, 0] as const;
  readonly queueSizes = [QUEUE];
  readonly configSize: number;
  readonly #config: Uint8Array;
  readonly #transport: VirtioTransport;
  readonly #backend: NinePBackend;
  /** By the tag that the backend sees: a guest may use one of its own twice. */
  readonly #out: (Out | undefined)[] = Array.from({ length: OUT_MAX });
  readonly #free = Array.from({ length: OUT_MAX }, (_, i) => OUT_MAX - 1 - i);
  readonly #header = new Uint8Array(HEADER);
  readonly #view = new DataView(this.#header.buffer);
  readonly #error = new Uint8Array(ERROR_SIZE);
  #answered = false;
  /** Fids that the guest attached: it has the share mounted while there are any. */
  readonly #roots = new Set<number>();

  /** @param tag what a guest mounts it by: 1 to 255 bytes */
  constructor(transport: VirtioTransport, tag: string, backend: NinePBackend) {
    this.#transport = transport;
    this.#backend = backend;
    const name = new TextEncoder().encode(tag);
    if (name.length === 0 || name.length > MOUNT_TAG_MAX)
      throw new RangeError(`mount tag "${tag}"`);
    this.#config = Uint8Array.of(name.length & 0xff, name.length >> 8, ...name);
    this.configSize = this.#config.length;
  }

  readConfig(offset: number): number {
    return this.#config[offset];
  }

  notify(): void {
    serve(this.#transport, this.#transport.queue(0), this.#begin);
  }

  poll(): void {
    this.#backend.receive(this.#take);
    if (this.#backend.gone) this.#fail();
    const queue = this.#transport.queue(0);
    if (this.#answered) this.#transport.notifyUsed(queue);
    this.#answered = false;
    if (queue.waiting && this.#canBegin) this.notify();
  }

  obstacle(): string | undefined {
    if (this.#roots.size === 0) return undefined;
    // Who serves it after a restore knows no file that is open now.
    return "the guest has it mounted, which no snapshot can keep; umount it there first";
  }

  quiesce(): string | undefined {
    // Who serves files answers at once, or its disk is broken.
    const end = performance.now() + QUIESCE;
    while (this.#out.some((out) => out?.chain !== undefined)) {
      if (performance.now() > end) return "its process doesn't answer";
      this.#backend.wait();
      this.#backend.receive(this.#take);
      if (this.#backend.gone) this.#fail();
    }
    if (this.#answered) this.#transport.notifyUsed(this.#transport.queue(0));
    this.#answered = false;
    return undefined;
  }

  // What is out is answered yet, but to nobody: its tags stay taken until then.
  reset(): void {
    for (const out of this.#out) if (out !== undefined) out.chain = undefined;
    this.#answered = false;
    this.#roots.clear();
  }

  get #canBegin(): boolean {
    return this.#backend.gone || (this.#backend.ready && this.#free.length > 0);
  }

  readonly #begin = (chain: Chain): number => {
    if (!this.#canBegin) return LATER;
    const request = this.#request(chain);
    if (request === undefined) return TAKEN;
    if (this.#backend.gone) return this.#refuse(chain, tagOf(request), EIO);
    this.#follow(request);
    const slot = this.#free.pop() as number;
    this.#out[slot] = { chain, tag: tagOf(request) };
    setTag(request, slot);
    this.#backend.send(request);
    return TAKEN;
  };

  /** Sees mounts come and go. */
  #follow(request: Uint8Array): void {
    const type = request[4];
    if (type === VERSION) this.#roots.clear();
    if ((type !== ATTACH && type !== CLUNK) || request.length < HEADER + 4) return;
    const fid = new DataView(request.buffer, request.byteOffset).getUint32(HEADER, true);
    if (type === CLUNK) this.#roots.delete(fid);
    else if (this.#roots.size < OUT_MAX) this.#roots.add(fid);
  }

  /** A copy of a chain's request; undefined: it is none, or could not even be refused. */
  #request(chain: Chain): Uint8Array | undefined {
    const read = chain.read(0, this.#header);
    const size = this.#view.getUint32(0, true);
    if (read < HEADER || size < HEADER || size > chain.readableBytes || size > MSIZE_MAX) {
      return this.#broken(`a request of ${size} bytes in ${chain.readableBytes}`);
    }
    if (chain.writableBytes < ERROR_SIZE) {
      return this.#broken(`a request with ${chain.writableBytes} bytes for its reply`);
    }
    const request = new Uint8Array(size);
    request.set(this.#header);
    // The driver may be changing it: the header that was checked is the one that is sent.
    chain.read(HEADER, request.subarray(HEADER));
    return request;
  }

  #broken(why: string): undefined {
    this.#transport.queue(0).fail(why);
    return undefined;
  }

  readonly #take = (reply: Uint8Array): void => {
    const slot = tagOf(reply);
    const out = this.#out[slot];
    // A backend that answers what nobody asked is heard by nobody.
    if (out === undefined) return;
    this.#release(slot);
    const { chain, tag } = out;
    if (chain === undefined) return;
    setTag(reply, tag);
    const fits = reply.length <= chain.writableBytes;
    this.#give(chain, fits ? chain.write(0, reply) : this.#refuse(chain, tag, EMSGSIZE));
  };

  #release(slot: number): void {
    this.#out[slot] = undefined;
    this.#free.push(slot);
  }

  #give(chain: Chain, written: number): void {
    this.#transport.queue(0).push(chain, written);
    this.#answered = true;
  }

  /** Writes an Rlerror. */
  #refuse(chain: Chain, tag: number, ecode: number): number {
    return chain.write(0, encodeReply(this.#error, "lerror", tag, { ecode }));
  }

  /** Answers everything that is out: the backend never will. */
  #fail(): void {
    this.#out.forEach((out, slot) => {
      if (out === undefined) return;
      this.#release(slot);
      if (out.chain !== undefined) this.#give(out.chain, this.#refuse(out.chain, out.tag, EIO));
    });
  }
}

function setTag(message: Uint8Array, tag: number): void {
  message[5] = tag & 0xff;
  message[6] = tag >> 8;
}
