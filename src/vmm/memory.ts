/**
 * Guest-physical memory: the one place where an address that a guest supplied is checked.
 *
 * Numbers are doubles: addresses up to 2^53 are exact, and no machine has more. 64-bit values are
 * read and written as numbers too; what can't be exact is cut to 53 bits on reading, which no
 * valid address needs.
 */

import { hostLibrary } from "./native.ts";

/** RAM or ROM at a guest-physical address. */
export interface MemoryRange {
  /** First guest-physical address, page-aligned. */
  readonly base: number;
  /** Bytes, page-aligned. */
  readonly size: number;
  readonly readonly: boolean;
  /** Host address, 0 where there is none (tests). */
  readonly host: number;
}

/** An access outside guest memory. Only code that works for the host (loaders) lets it happen. */
export class GuestAddressError extends RangeError {
  constructor(address: number, length: number) {
    super(`guest memory has no ${length} bytes at 0x${address.toString(16)}`);
    this.name = "GuestAddressError";
  }
}

// An ArrayBuffer holds at most 4 GiB, so larger ranges are cut into windows of 2 GiB. RAM ranges
// that touch stay separate: no guest structure may straddle a hole.
const WINDOW = 2 ** 31;

interface Window {
  readonly base: number;
  readonly end: number;
  readonly u8: Uint8Array;
  readonly view: DataView;
  readonly range: MemoryRange;
}

/** Makes an ArrayBuffer of host memory; bun:ffi's toArrayBuffer for real machines. */
export type MapWindow = (range: MemoryRange, offset: number, length: number) => ArrayBuffer;

export class GuestMemory {
  readonly ranges: readonly MemoryRange[];
  /** RAM in bytes, without ROM. */
  readonly size: number;
  /** A file is behind some of it: a snapshot's. */
  hasFile = false;
  readonly #windows: Window[] = [];
  readonly #writeObservers: ((address: number, length: number) => void)[] = [];
  #readObserver: ((address: number, length: number) => void) | undefined;

  constructor(ranges: readonly MemoryRange[], map: MapWindow) {
    this.ranges = ranges;
    this.size = ranges.reduce((sum, range) => sum + (range.readonly ? 0 : range.size), 0);
    for (const range of ranges) {
      for (let offset = 0; offset < range.size; offset += WINDOW) {
        const length = Math.min(WINDOW, range.size - offset);
        const buffer = map(range, offset, length);
        this.#windows.push({
          base: range.base + offset,
          end: range.base + offset + length,
          u8: new Uint8Array(buffer),
          view: new DataView(buffer),
          range,
        });
      }
    }
  }

  /** Memory in the JavaScript heap: for tests. Default: `size` bytes at address 0. */
  static standalone(size: number, base = 0): GuestMemory {
    return new GuestMemory(
      [{ base, size, readonly: false, host: 0 }],
      (_, __, length) => new ArrayBuffer(length),
    );
  }

  /**
   * Told of every write that goes through this object: for engines that cache translations.
   * @returns a function that ends it.
   */
  observeWrites(observer: (address: number, length: number) => void): () => void {
    this.#writeObservers.push(observer);
    return () => {
      this.#writeObservers.splice(this.#writeObservers.indexOf(observer), 1);
    };
  }

  /** Told of every read that goes through this object; for recorders. */
  observeReads(observer: ((address: number, length: number) => void) | undefined): void {
    this.#readObserver = observer;
  }

  /** Whether somebody is told of writes: else nobody need tell of them. */
  get observed(): boolean {
    return this.#writeObservers.length > 0;
  }

  /** Whether [address, address+length) lies in one range of RAM: a device may read and write it. */
  contains(address: number, length: number): boolean {
    return this.locate(address, length) >= 0;
  }

  /** Host address of what lies in one range of RAM, as `contains` says; −1 for all else. */
  locate(address: number, length: number): number {
    const { ranges } = this;
    for (let i = 0; i < ranges.length; i++) {
      const { base, size, readonly, host } = ranges[i];
      if (readonly || !(address >= base) || !(length >= 0)) continue;
      if (address + length <= base + size) return host + (address - base);
    }
    return -1;
  }

  /** Puts firmware into ROM, which no other write changes. */
  placeRom(address: number, bytes: Uint8Array): void {
    const w = this.#windows.find(
      (o) => o.range.readonly && address >= o.base && address + bytes.length <= o.end,
    );
    if (w === undefined) throw new GuestAddressError(address, bytes.length);
    w.u8.set(bytes, address - w.base);
    this.#written(address, bytes.length);
  }

  read8(address: number): number {
    const w = this.#at(address, 1);
    this.#readObserver?.(address, 1);
    return w.u8[address - w.base];
  }

  read16(address: number): number {
    const w = this.#at(address, 2);
    this.#readObserver?.(address, 2);
    return w.view.getUint16(address - w.base, true);
  }

  read32(address: number): number {
    const w = this.#at(address, 4);
    this.#readObserver?.(address, 4);
    return w.view.getUint32(address - w.base, true);
  }

  /** As many words as `into` has, each read once. */
  readWords(address: number, into: Uint32Array): void {
    const length = into.byteLength;
    const windows = this.#windows;
    for (let i = 0; i < windows.length; i++) {
      const { base, end, view } = windows[i];
      if (address < base || address + length > end) continue;
      this.#readObserver?.(address, length);
      for (let word = 0; word < into.length; word++) {
        into[word] = view.getUint32(address - base + 4 * word, true);
      }
      return;
    }
    // Across two windows, or nowhere.
    this.read(address, new Uint8Array(into.buffer, into.byteOffset, length));
  }

  /** The low 53 bits exactly. */
  read64(address: number): number {
    return this.read32(address) + (this.read32(address + 4) & 0x1fffff) * 2 ** 32;
  }

  write8(address: number, value: number): void {
    const w = this.#ram(address, 1);
    w.u8[address - w.base] = value;
    this.#written(address, 1);
  }

  write16(address: number, value: number): void {
    const w = this.#ram(address, 2);
    w.view.setUint16(address - w.base, value, true);
    this.#written(address, 2);
  }

  write32(address: number, value: number): void {
    const w = this.#ram(address, 4);
    w.view.setUint32(address - w.base, value, true);
    this.#written(address, 4);
  }

  write64(address: number, value: number): void {
    this.write32(address, value % 2 ** 32);
    this.write32(address + 4, Math.floor(value / 2 ** 32));
  }

  /** Copies out of guest memory. */
  read(address: number, into: Uint8Array): void {
    if (!this.contains(address, into.length)) throw new GuestAddressError(address, into.length);
    this.#readObserver?.(address, into.length);
    this.#spans(address, into.length, (w, at, offset, length) => {
      into.set(w.u8.subarray(at, at + length), offset);
    });
  }

  /** Copies into guest memory. */
  write(address: number, bytes: Uint8Array): void {
    this.#spans(address, bytes.length, (w, at, offset, length) => {
      w.u8.set(bytes.subarray(offset, offset + length), at);
    });
    this.#written(address, bytes.length);
  }

  fill(address: number, length: number, value: number): void {
    this.#spans(address, length, (w, at, _, span) => w.u8.fill(value, at, at + span));
    this.#written(address, length);
  }

  /** Somebody else wrote here, by `pointer`: whoever observes writes is told. */
  written(address: number, length: number): void {
    this.#written(address, length);
  }

  /**
   * The memory itself, ROM as well: of pages that lie in one range, in as few pieces as there are
   * ArrayBuffers. Whoever writes there tells `written`.
   */
  *bytes(address: number, length: number): Generator<Uint8Array> {
    for (let at = address, end = address + length; at < end;) {
      const w = this.#at(at, 1);
      const to = Math.min(end, w.end);
      yield w.u8.subarray(at - w.base, to - w.base);
      at = to;
    }
  }

  /** Gives whole pages of a checked range back to the host: they read as zero. */
  discard(address: number, length: number): void {
    const host = this.pointer(address, length);
    if (hostLibrary().vmm_memory_discard(host, length, this.hasFile ? 1 : 0) < 0) return;
    this.#written(address, length);
  }

  /** Host address of a checked range, for host calls that read or write guest memory. */
  pointer(address: number, length: number): number {
    for (const range of this.ranges) {
      if (address >= range.base && address + length <= range.base + range.size) {
        return range.host + (address - range.base);
      }
    }
    throw new GuestAddressError(address, length);
  }

  #written(address: number, length: number): void {
    for (let i = 0; i < this.#writeObservers.length; i++) this.#writeObservers[i](address, length);
  }

  #ram(address: number, length: number): Window {
    const w = this.#at(address, length);
    if (w.range.readonly) throw new GuestAddressError(address, length);
    return w;
  }

  #at(address: number, length: number): Window {
    for (const w of this.#windows) {
      if (address >= w.base && address + length <= w.end) return w;
    }
    throw new GuestAddressError(address, length);
  }

  #spans(
    address: number,
    length: number,
    use: (w: Window, at: number, offset: number, length: number) => void,
  ): void {
    if (!this.contains(address, length)) throw new GuestAddressError(address, length);
    for (let offset = 0; offset < length;) {
      const w = this.#at(address + offset, 1);
      const span = Math.min(length - offset, w.end - (address + offset));
      use(w, address + offset - w.base, offset, span);
      offset += span;
    }
  }
}
