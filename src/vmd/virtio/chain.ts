/**
 * A descriptor chain that the queue has checked: segments of guest RAM, first those that the
 * device reads, then those that it writes.
 *
 * How a driver cuts a request into segments says nothing about the request (virtio 1.2, § 2.7.4.1),
 * so devices read and write at byte offsets, and never look at segments as such.
 *
 * Addresses are checked and fetched once: the driver may change its descriptors afterwards without
 * any effect. It may change the contents too, so what a device checks it copies first.
 */
import type { GuestMemory } from "../../vmm/memory.ts";

export class Chain {
  readonly #memory: GuestMemory;
  /** Index of the first descriptor: what is given back. */
  head = 0;
  /** Segments, and how many of them, the first ones, the device reads. */
  count = 0;
  readable = 0;
  /** Guest-physical address and bytes of each segment, and where this process has it. */
  readonly address: number[] = [];
  readonly length: number[] = [];
  readonly host: number[] = [];
  /** Bytes that the device reads and writes. */
  readableBytes = 0;
  writableBytes = 0;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  clear(head: number): void {
    this.head = head;
    this.count = 0;
    this.readable = 0;
    this.readableBytes = 0;
    this.writableBytes = 0;
  }

  add(address: number, length: number, writable: boolean, host: number): void {
    this.address[this.count] = address;
    this.length[this.count] = length;
    this.host[this.count] = host;
    this.count++;
    if (writable) {
      this.writableBytes += length;
    } else {
      this.readable++;
      this.readableBytes += length;
    }
  }

  /**
   * Copies from the device-readable part, from byte `offset` on, into all of `into`, or as much as
   * there is.
   * @returns bytes copied.
   */
  read(offset: number, into: Uint8Array): number {
    let done = 0;
    let at = offset;
    for (let i = 0; i < this.readable && done < into.length; i++) {
      const length = this.length[i];
      if (at >= length) {
        at -= length;
        continue;
      }
      const span = Math.min(length - at, into.length - done);
      const whole = done === 0 && span === into.length;
      this.#memory.read(this.address[i] + at, whole ? into : into.subarray(done, done + span));
      done += span;
      at = 0;
    }
    return done;
  }

  /**
   * Copies `bytes` into the device-writable part, from byte `offset` on, or as much as fits.
   * @returns bytes copied.
   */
  write(offset: number, bytes: Uint8Array): number {
    let done = 0;
    let at = offset;
    for (let i = this.readable; i < this.count && done < bytes.length; i++) {
      const length = this.length[i];
      if (at >= length) {
        at -= length;
        continue;
      }
      const span = Math.min(length - at, bytes.length - done);
      const whole = done === 0 && span === bytes.length;
      this.#memory.write(this.address[i] + at, whole ? bytes : bytes.subarray(done, done + span));
      done += span;
      at = 0;
    }
    return done;
  }

  /** Writes one byte of the device-writable part; false when there is none at `offset`. */
  writeByte(offset: number, value: number): boolean {
    let at = offset;
    for (let i = this.readable; i < this.count; i++) {
      if (at < this.length[i]) {
        this.#memory.write8(this.address[i] + at, value);
        return true;
      }
      at -= this.length[i];
    }
    return false;
  }

  /**
   * Calls `use` with each piece of guest memory behind bytes [offset, offset + length) of the part
   * that is `writable` or not, and with its host address. The range must lie inside it.
   */
  spans(
    writable: boolean,
    offset: number,
    length: number,
    use: (address: number, length: number, host: number) => void,
  ): void {
    let at = offset;
    let left = length;
    const end = writable ? this.count : this.readable;
    for (let i = writable ? this.readable : 0; i < end && left > 0; i++) {
      if (at >= this.length[i]) {
        at -= this.length[i];
        continue;
      }
      const span = Math.min(this.length[i] - at, left);
      use(this.address[i] + at, span, this.host[i] + at);
      left -= span;
      at = 0;
    }
  }
}
