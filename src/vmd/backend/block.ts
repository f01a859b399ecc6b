/**
 * A disk image behind a block device. Data moves in I/O threads between files and guest memory,
 * without a copy; what only the image's driver can do (compressed clusters, copies of a base's) is
 * done at once, through a buffer.
 *
 * A flush waits for the writes before it, and keeps back what comes after it: image drivers write
 * tables in between, and these may only name data that is there.
 */
import { IoOperation, type IoOwner, type IoThreads, SEGMENTS_MAX } from "../../vmm/io-threads.ts";
import type { GuestMemory } from "../../vmm/memory.ts";
import {
  type Disk,
  DiskError,
  emptyExtent,
  errnoName,
  ExtentKind,
  Qcow2Disk,
  strerror,
} from "../disk/index.ts";
import type { BlockBackend } from "../virtio/blk.ts";
import type { Chain } from "../virtio/chain.ts";

/** What the image's driver does by itself goes through so many bytes at a time. */
const BOUNCE = 65536;

const SECTOR = 512;
/** "QFI\xfb" */
const QCOW2_MAGIC = [0x51, 0x46, 0x49, 0xfb];

const Kind = { READ: 0, WRITE: 1, FLUSH: 2, DISCARD: 3, ZERO: 4, UNMAP: 5 } as const;
type Kind = (typeof Kind)[keyof typeof Kind];

/** A request from its beginning to its end. */
interface Request {
  kind: Kind;
  tag: number;
  chain: Chain | undefined;
  /** Where its data begins in that part of the chain. */
  at: number;
  offset: number;
  length: number;
  /** Bytes that are on their way or done. */
  begun: number;
  /** Operations that threads have. */
  out: number;
  started: boolean;
  failed: boolean;
}

/** What a thread has of a request. */
interface Operation {
  request: Request | undefined;
  kind: Kind;
  /** Part of the request's data. */
  from: number;
  length: number;
}

export interface DiskBackendOptions {
  /** The guest must not write what would pass for an image of another format: see disk-files.ts. */
  readonly guessedRaw: boolean;
  /** Told, in a sentence, what the host could not do. */
  readonly failed: (why: string) => void;
}

export class DiskBackend implements BlockBackend, IoOwner {
  done: (tag: number, ok: boolean) => void = () => {};
  #disk: Disk;
  readonly #memory: GuestMemory;
  readonly #io: IoThreads;
  readonly #failed: (why: string) => void;
  readonly #guessedRaw: boolean;
  readonly #waiting: Request[] = [];
  readonly #spare: Request[] = [];
  readonly #operations: Operation[] = [];
  readonly #freeOperations: number[] = [];
  readonly #extent = emptyExtent();
  readonly #bounce = new Uint8Array(BOUNCE);
  /** Requests that are begun and not ended; of these, those that write. */
  #running = 0;
  #writing = 0;
  #flush: { request: Request; steps: Generator<number, void> } | undefined;
  #syncing = false;
  // What `spans` works on.
  #slot = 0;
  #room = 0;
  #taken = 0;
  readonly #addSegment = (_address: number, length: number, host: number) => {
    if (this.#room === 0) return;
    this.#room--;
    this.#taken += length;
    this.#io.addSegment(this.#slot, host, length);
  };
  readonly #noteWritten = (address: number, length: number) => {
    this.#memory.written(address, length);
  };
  readonly #fillZero = (address: number, length: number) => {
    this.#memory.fill(address, length, 0);
  };

  constructor(
    disk: Disk,
    memory: GuestMemory,
    io: IoThreads,
    { guessedRaw, failed }: DiskBackendOptions,
  ) {
    this.#guessedRaw = guessedRaw;
    this.#disk = disk;
    this.#memory = memory;
    this.#io = io;
    this.#failed = failed;
    this.replace(disk);
  }

  /** Its requests go to another disk of the same size, from now on: nothing is under way. */
  replace(disk: Disk): void {
    this.#disk = disk;
    if (disk instanceof Qcow2Disk) disk.beforeCommit = () => this.#io.wait();
  }

  get size(): number {
    return this.#disk.size;
  }

  get readOnly(): boolean {
    return this.#disk.readOnly;
  }

  /** @param at where in the device-writable part the data go. */
  read(tag: number, chain: Chain, offset: number, length: number, at = 0): void {
    this.#start(Kind.READ, tag, chain, at, offset, length);
  }

  write(tag: number, chain: Chain, at: number, offset: number, length: number): void {
    this.#start(Kind.WRITE, tag, chain, at, offset, length);
  }

  flush(tag: number): void {
    this.#start(Kind.FLUSH, tag, undefined, 0, 0, 0);
  }

  discard(tag: number, offset: number, length: number): void {
    this.#start(Kind.DISCARD, tag, undefined, 0, offset, length);
  }

  zero(tag: number, offset: number, length: number, unmap: boolean): void {
    this.#start(unmap ? Kind.UNMAP : Kind.ZERO, tag, undefined, 0, offset, length);
  }

  poll(): void {
    this.#io.poll();
    if (this.#waiting.length === 0) return;
    // Other disks may have had all slots.
    this.#advance();
    this.#io.poll();
  }

  settle(): void {
    // A thread ends each request: with an error, if the host has no better.
    while (this.#running > 0 || this.#waiting.length > 0) {
      this.#io.wait();
      this.poll();
    }
  }

  abandon(): void {
    // Whoever asked isn't told; but a flush that is under way is done to its end.
    const { done } = this;
    this.done = () => {};
    const [first] = this.#waiting.splice(0);
    if (first?.started === true && first.out === 0) this.#end(first);
    this.#io.wait();
    do {
      this.#io.poll();
      this.#io.wait();
    } while (this.#running > 0 && this.#syncing);
    this.done = done;
  }

  /** Ends what is under way, and closes the image. @throws DiskError */
  close(): void {
    this.abandon();
    this.#disk.close();
  }

  #start(
    kind: Kind,
    tag: number,
    chain: Chain | undefined,
    at: number,
    offset: number,
    length: number,
  ): void {
    const request = this.#spare.pop() ?? ({} as Request);
    request.kind = kind;
    request.tag = tag;
    request.chain = chain;
    request.at = at;
    request.offset = offset;
    request.length = length;
    request.begun = 0;
    request.out = 0;
    request.started = false;
    request.failed = false;
    this.#waiting.push(request);
    this.#advance();
  }

  /** Begins what waits, in order, until something has to wait for what is under way. */
  #advance(): void {
    while (this.#waiting.length > 0 && this.#flush === undefined) {
      const request = this.#waiting[0];
      if (request.kind === Kind.FLUSH) {
        if (this.#writing > 0) return;
        this.#waiting.shift();
        this.#running++;
        this.#beginFlush(request);
        continue;
      }
      if (!request.started) {
        request.started = true;
        this.#running++;
        if (request.kind !== Kind.READ) this.#writing++;
      }
      // What could not be begun waits for a slot.
      if (!this.#begin(request)) return;
      this.#waiting.shift();
      if (request.out === 0) this.#end(request);
    }
  }

  /** Goes on with a request, extent by extent; false when no slot is free. */
  #begin(request: Request): boolean {
    try {
      while (request.begun < request.length && !request.failed) {
        const { kind } = request;
        const moved =
          kind === Kind.READ || kind === Kind.WRITE ? this.#move(request) : this.#clear(request);
        if (moved === 0) return false;
        request.begun += moved;
      }
    } catch (error) {
      this.#fail(request, error);
    }
    return true;
  }

  /** Moves the next extent of data; its bytes, 0 when no slot is free. */
  #move(request: Request): number {
    const writing = request.kind === Kind.WRITE;
    const chain = request.chain as Chain;
    const extent = this.#extent;
    const slot = this.#io.take();
    if (slot < 0) return 0;
    const from = request.begun;
    try {
      this.#disk.locate(request.offset + from, request.length - from, writing, extent);
    } catch (error) {
      this.#io.giveBack(slot);
      throw error;
    }
    const guarded = writing && this.#guessedRaw && request.offset + from === 0;
    if (guarded) {
      extent.kind = ExtentKind.INDIRECT;
      extent.length = Math.min(extent.length, SECTOR);
    }
    if (extent.kind === ExtentKind.FILE) {
      const operation = writing ? IoOperation.WRITE : IoOperation.READ;
      this.#io.prepare(slot, operation, extent.descriptor, extent.position);
      this.#slot = slot;
      this.#room = SEGMENTS_MAX;
      this.#taken = 0;
      chain.spans(!writing, request.at + from, extent.length, this.#addSegment);
      const taken = this.#taken;
      this.#submit(slot, request, request.kind, from, taken);
      return taken;
    }
    this.#io.giveBack(slot);
    if (extent.kind === ExtentKind.ZERO && !writing) {
      chain.spans(true, request.at + from, extent.length, this.#fillZero);
      return extent.length;
    }
    const length = Math.min(extent.length, BOUNCE);
    const bytes = this.#bounce.subarray(0, length);
    if (writing) {
      chain.read(request.at + from, bytes);
      if (guarded && QCOW2_MAGIC.every((byte, index) => bytes[index] === byte)) {
        const why = "the guest wrote a qcow2 header to a disk that nobody said is raw";
        throw new DiskError(`${this.#disk.name}: ${why}`);
      }
      // The driver may copy clusters that are still being written.
      this.#io.wait();
      this.#disk.write(request.offset + from, bytes);
    } else {
      this.#disk.read(request.offset + from, bytes);
      chain.write(request.at + from, bytes);
    }
    return length;
  }

  /** Clears the next extent; its bytes, 0 when no slot is free. */
  #clear(request: Request): number {
    const extent = this.#extent;
    const slot = this.#io.take();
    if (slot < 0) return 0;
    const { kind } = request;
    const from = request.begun;
    const offset = request.offset + from;
    try {
      this.#disk.clear(offset, request.length - from, kind === Kind.DISCARD, extent);
    } catch (error) {
      this.#io.giveBack(slot);
      throw error;
    }
    if (extent.kind === ExtentKind.FILE) {
      const operation =
        kind === Kind.DISCARD
          ? IoOperation.DISCARD
          : kind === Kind.UNMAP
            ? IoOperation.ZERO
            : IoOperation.ZERO_ALLOCATED;
      this.#io.prepare(slot, operation, extent.descriptor, extent.position, extent.length);
      this.#submit(slot, request, kind, from, extent.length);
      return extent.length;
    }
    this.#io.giveBack(slot);
    if (extent.kind === ExtentKind.ZERO) return extent.length;
    const length = Math.min(extent.length, BOUNCE);
    this.#io.wait();
    this.#disk.write(offset, this.#bounce.subarray(0, length).fill(0));
    return length;
  }

  #submit(
    slot: number,
    request: Request | undefined,
    kind: Kind,
    from: number,
    length: number,
  ): void {
    const index = this.#freeOperations.pop() ?? this.#operations.length;
    const operation = (this.#operations[index] ??= { request, kind, from, length });
    operation.request = request;
    operation.kind = kind;
    operation.from = from;
    operation.length = length;
    if (request !== undefined) request.out++;
    this.#io.submit(slot, this, index);
  }

  ioDone(index: number, result: number): void {
    const operation = this.#operations[index];
    const { request } = operation;
    operation.request = undefined;
    this.#freeOperations.push(index);
    if (request === undefined) {
      this.#synced(result);
    } else {
      request.out--;
      this.#moved(request, operation, result);
      // The first of those that wait isn't begun to its end yet.
      if (request.out === 0 && request !== this.#waiting[0]) this.#end(request);
    }
    this.#advance();
  }

  #moved(request: Request, { kind, from, length }: Operation, result: number): void {
    if (result < 0) {
      this.#fail(request, this.#hostError(result));
      return;
    }
    if (kind !== Kind.READ) {
      if (kind === Kind.WRITE && result < length) this.#fail(request, this.#hostError(-5));
      return;
    }
    const chain = request.chain as Chain;
    if (this.#memory.observed) chain.spans(true, request.at + from, result, this.#noteWritten);
    if (result >= length) return;
    // Beyond the end of an image's file there are zeroes; a raw one has become shorter.
    if (this.#disk instanceof Qcow2Disk) {
      chain.spans(true, request.at + from + result, length - result, this.#fillZero);
    } else {
      this.#fail(request, new DiskError(`${this.#disk.name}: the file became shorter`));
    }
  }

  #hostError(result: number): DiskError {
    const code = errnoName(-result);
    return new DiskError(`${this.#disk.name}: ${strerror(code)}`, code);
  }

  #fail(request: Request, error: unknown): void {
    if (!(error instanceof DiskError)) throw error;
    request.failed = true;
    this.#failed(error.message);
  }

  #end(request: Request): void {
    this.#running--;
    if (request.kind !== Kind.READ && request.kind !== Kind.FLUSH) this.#writing--;
    const { tag, failed } = request;
    request.chain = undefined;
    this.#spare.push(request);
    this.done(tag, !failed);
  }

  // --- flushes

  #beginFlush(request: Request): void {
    this.#flush = { request, steps: this.#disk.flushing() };
    this.#stepFlush();
  }

  #stepFlush(): void {
    const flush = this.#flush;
    if (flush === undefined) return;
    try {
      const { done, value } = flush.steps.next();
      if (done !== true) {
        this.#sync(value);
        return;
      }
    } catch (error) {
      this.#fail(flush.request, error);
    }
    this.#flush = undefined;
    this.#end(flush.request);
  }

  #sync(descriptor: number): void {
    const slot = this.#io.take();
    if (slot < 0) {
      // Every slot is taken: this thread does it.
      this.#io.wait();
      this.#io.poll();
      this.#sync(descriptor);
      return;
    }
    this.#syncing = true;
    this.#io.prepare(slot, IoOperation.SYNC, descriptor, 0);
    this.#submit(slot, undefined, Kind.FLUSH, 0, 0);
  }

  #synced(result: number): void {
    this.#syncing = false;
    const flush = this.#flush;
    if (flush === undefined) return;
    if (result < 0) {
      // Linux forgets what it failed to write: nothing that follows may pass for durable.
      const error = this.#hostError(result);
      this.#disk.lost(error);
      flush.steps.return();
      this.#fail(flush.request, error);
      this.#flush = undefined;
      this.#end(flush.request);
      return;
    }
    this.#stepFlush();
  }
}
