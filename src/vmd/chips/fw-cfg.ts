/**
 * QEMU's firmware configuration device: how firmware and some kernels get tables, the memory map
 * and the boot order from the host.
 *
 *   0x510  selector (16 bits)       0x511  data (8 bits)
 *   0x514  DMA address, high half   0x518  low half, whose write starts the operation;
 *          both big-endian, and read as the signature "QEMU CFG"
 *
 * Source: QEMU's docs/specs/fw_cfg.rst. Items come from the machine's configuration and can't be
 * written: the registers hold only where the guest is reading.
 */
import type { GuestMemory } from "../../vmm/memory.ts";
import { declareRegisters, u16, u32, type Registers } from "../../vmm/registers.ts";
import type { PortDevice, Resettable, Size } from "../device.ts";

// Well-known items
const SIGNATURE = 0x00;
const ID = 0x01;
const NOGRAPHIC = 0x04;
const CPUS = 0x05;
const MAX_CPUS = 0x0f;
const DIRECTORY = 0x19;
const FIRST_FILE = 0x20;
/** Keys are 14 bits; above them, "write" and "architecture-local". */
const KEY = 0x3fff;
const ARCHITECTURE_LOCAL = 0x8000;
/** Item 1: the ports above, and DMA. */
const TRADITIONAL_AND_DMA = 3;
const MAX_FILES = KEY - FIRST_FILE;

// The DMA descriptor: { u32 control, u32 length, u64 address }, big-endian.
const DESCRIPTOR = 16;
const ERROR = 0x01;
const READ = 0x02;
const SKIP = 0x04;
const SELECT = 0x08;
const WRITE = 0x10;
/**
 * How far beyond an item's end one read may zero memory, bytes: reads are of the size that the
 * guest was told, and a longer one must not keep the host busy.
 */
const MAX_EXCESS = 0x100000;

const declaration = {
  selector: u16(0),
  offset: u32(0),
  /** High half of the next descriptor's address. */
  dmaHigh: u32(0),
};

export const FwCfgRegisters = declareRegisters("fw-cfg", declaration);

/** A named file; names have at most 55 bytes, by custom with slashes ("etc/e820"). */
export interface FwCfgFile {
  readonly name: string;
  readonly data: Uint8Array;
}

export interface FwCfgOptions {
  readonly cpus: number;
  /** Whether the machine has no display. Default true. */
  readonly nographic?: boolean;
  readonly files: readonly FwCfgFile[];
}

export class FwCfg implements PortDevice, Resettable {
  readonly #r: Registers<typeof declaration>;
  readonly #memory: GuestMemory;
  readonly #items: (Uint8Array | undefined)[] = [];

  /** @throws RangeError for a file name that the directory can't hold. */
  constructor(
    registers: Registers<typeof declaration>,
    memory: GuestMemory,
    options: FwCfgOptions,
  ) {
    this.#r = registers;
    this.#memory = memory;
    const files = [...options.files].sort((a, b) => (a.name < b.name ? -1 : 1));
    const directory = packDirectory(files);
    this.#items = Array.from<Uint8Array | undefined>({ length: FIRST_FILE });
    this.#items[SIGNATURE] = new TextEncoder().encode("QEMU");
    this.#items[ID] = little(TRADITIONAL_AND_DMA, 4);
    this.#items[NOGRAPHIC] = little(options.nographic === false ? 0 : 1, 2);
    this.#items[CPUS] = little(options.cpus, 2);
    this.#items[MAX_CPUS] = little(options.cpus, 2);
    this.#items[DIRECTORY] = directory;
    for (const { data } of files) this.#items.push(data);
  }

  reset(): void {
    this.#r.resetAll();
  }

  read(port: number, size: Size): number {
    if (port >= 0x514) return signature(port - 0x514, size);
    return port === 0x511 ? this.#next() : 0;
  }

  write(port: number, size: Size, value: number): void {
    const r = this.#r;
    if (port === 0x510) {
      if (size === 2) this.#select(value);
    } else if (size === 4 && port === 0x514) {
      r.dmaHigh = swap32(value);
    } else if (size === 4 && port === 0x518) {
      const descriptor = r.dmaHigh * 2 ** 32 + swap32(value);
      r.dmaHigh = 0;
      this.#dma(descriptor);
    }
  }

  #select(key: number): void {
    this.#r.selector = key;
    this.#r.offset = 0;
  }

  /** The selected item; nothing for a key without one. */
  get #item(): Uint8Array | undefined {
    const selector = this.#r.selector;
    return (selector & ARCHITECTURE_LOCAL) !== 0 ? undefined : this.#items[selector & KEY];
  }

  /** The item's next byte; zeroes beyond its end. */
  #next(): number {
    const r = this.#r;
    const item = this.#item;
    if (item === undefined || r.offset >= item.length) return 0;
    return item[r.offset++];
  }

  #dma(descriptor: number): void {
    const memory = this.#memory;
    if (!memory.contains(descriptor, DESCRIPTOR)) return;
    const control = swap32(memory.read32(descriptor));
    const length = swap32(memory.read32(descriptor + 4));
    const high = swap32(memory.read32(descriptor + 8));
    const address = high * 2 ** 32 + swap32(memory.read32(descriptor + 12));
    if ((control & SELECT) !== 0) this.#select(control >>> 16);
    let done = true;
    if ((control & READ) !== 0) done = this.#copy(address, length);
    else if ((control & WRITE) !== 0) done = false;
    else if ((control & SKIP) !== 0) this.#skip(length);
    memory.write32(descriptor, swap32(done ? 0 : ERROR));
  }

  /** `length` bytes from the item to guest memory; false when the memory isn't there. */
  #copy(address: number, length: number): boolean {
    if (!this.#memory.contains(address, length)) return false;
    const { offset } = this.#r;
    const item = this.#item;
    const left = item === undefined ? 0 : Math.max(0, item.length - offset);
    const copied = Math.min(length, left);
    if (length - copied > MAX_EXCESS) return false;
    if (item !== undefined && copied > 0) {
      this.#memory.write(address, item.subarray(offset, offset + copied));
    }
    if (length > copied) this.#memory.fill(address + copied, length - copied, 0);
    this.#skip(length);
    return true;
  }

  #skip(length: number): void {
    this.#r.offset = Math.min(this.#r.offset + length, 0xffffffff);
  }
}

/** Bytes of "QEMU CFG" from `at`, in the order of addresses. */
function signature(at: number, size: number): number {
  let value = 0;
  for (let i = 0; i < size; i++) value |= ("QEMU CFG".charCodeAt((at + i) & 7) & 0xff) << (8 * i);
  return value >>> 0;
}

function swap32(value: number): number {
  return (
    ((value << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | (value >>> 24)) >>> 0
  );
}

function little(value: number, size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => value >>> (8 * i));
}

/** Item 0x19: a big-endian count, then per file { u32 size, u16 key, u16 0, char name[56] }. */
function packDirectory(files: readonly FwCfgFile[]): Uint8Array {
  if (files.length > MAX_FILES) throw new RangeError(`fw_cfg can't hold ${files.length} files`);
  const bytes = new Uint8Array(4 + 64 * files.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, files.length);
  for (const [i, { name, data }] of files.entries()) {
    const encoded = new TextEncoder().encode(name);
    if (encoded.length === 0 || encoded.length > 55 || files[i - 1]?.name === name) {
      throw new RangeError(`fw_cfg can't hold a file named "${name}"`);
    }
    const at = 4 + 64 * i;
    view.setUint32(at, data.length);
    view.setUint16(at + 4, FIRST_FILE + i);
    bytes.set(encoded, at + 8);
  }
  return bytes;
}
