/** A guest's registers and its memory by linear addresses, as they are now. */
import { CR0, CR4, EFER, GENERAL_REGISTERS } from "../../src/vmm/cpu.ts";
import { CPU_LAYOUT, SEGMENTS } from "../../src/vmm/cpu-codec.ts";
import type { GuestMemory } from "../../src/vmm/memory.ts";
import {
  entriesOf,
  type PagingRegisters,
  pagingRegisters,
  type ReadEntry,
  translate,
} from "../../src/vmm/paging.ts";
import type { VmLife } from "../../src/vmd/vm-life.ts";
import type { RegisterName } from "./options.ts";

// struct kvm_sregs, linux/kvm.h
const SREGS = CPU_LAYOUT.sregs;
const SEGMENT_SIZE = 24;
const LONG_CODE = 19;
const IDT = SREGS + 208;
const PAGE = 4096;
/** Of a page table's entry. */
const USER = 4n;

export class GuestView {
  readonly #cpu: DataView;
  readonly #memory: GuestMemory;
  readonly #paging: PagingRegisters;
  readonly #read: ReadEntry;

  /** Registers are read once, here. */
  constructor({ engine, image }: VmLife) {
    engine.saveCpu();
    // The image's own copy is the next one's.
    const { cpu } = image;
    this.#cpu = new DataView(cpu.buffer.slice(cpu.byteOffset, cpu.byteOffset + CPU_LAYOUT.size));
    this.#memory = image.memory;
    this.#paging = pagingRegisters(this.#cpu);
    this.#read = entriesOf(image.memory);
  }

  register(name: RegisterName | "rip"): bigint {
    return this.#cpu.getBigUint64(GENERAL_REGISTERS.indexOf(name) * 8, true);
  }

  /** The linear address of the next instruction. */
  get rip(): bigint {
    const base = this.#cpu.getBigUint64(SREGS + SEGMENTS.indexOf("cs") * SEGMENT_SIZE, true);
    return BigInt.asUintN(64, this.register("rip") + base);
  }

  /** Bytes of a pointer. */
  get word(): 4 | 8 {
    return this.#cpu.getUint8(SREGS + SEGMENTS.indexOf("cs") * SEGMENT_SIZE + LONG_CODE) ? 8 : 4;
  }

  /** The guest-physical address of a linear one; undefined: nothing is mapped there. */
  physical(linear: bigint): number | undefined {
    return translate(this.#paging, BigInt.asUintN(64, linear), this.#read);
  }

  /** Whether code of the lowest privilege may be at a linear address: all entries that map it say so. */
  isUser(linear: bigint): boolean {
    const { cr0, cr4, efer } = this.#paging;
    let user = (cr0 & CR0.PG) !== 0;
    // PAE's four first entries have no such bit.
    let counts = (cr4 & CR4.PAE) === 0 || (efer & EFER.LMA) !== 0;
    const at = translate(this.#paging, BigInt.asUintN(64, linear), (address, size) => {
      const entry = this.#read(address, size);
      if (counts && entry !== undefined && (entry & USER) === 0n) user = false;
      counts = true;
      return entry;
    });
    return at !== undefined && user;
  }

  /** A little-endian number at a linear address; undefined: not all of it is there, or on one page. */
  read(linear: bigint, size: 4 | 8): bigint | undefined {
    const address = this.physical(linear);
    if (address === undefined || (address & (PAGE - 1)) > PAGE - size) return undefined;
    return this.#read(address, size);
  }

  /** Where linear memory lies, page by page; undefined: not all of it is mapped. */
  pieces(linear: bigint, length: number): { address: number; length: number }[] | undefined {
    const pieces: { address: number; length: number }[] = [];
    for (let done = 0; done < length;) {
      const at = BigInt.asUintN(64, linear + BigInt(done));
      const count = Math.min(length - done, PAGE - Number(at % BigInt(PAGE)));
      const address = this.physical(at);
      if (address === undefined || !this.#memory.contains(address, count)) return undefined;
      const last = pieces.at(-1);
      if (last !== undefined && last.address + last.length === address) last.length += count;
      else pieces.push({ address, length: count });
      done += count;
    }
    return pieces;
  }

  /** The linear address of an exception's handler, Intel SDM vol. 3A, 6.11 and 6.14; undefined: none. */
  handler(vector: number): bigint | undefined {
    const long = (this.#paging.efer & EFER.LMA) !== 0;
    const size = long ? 16 : 8;
    const entry = this.#cpu.getBigUint64(IDT, true) + BigInt(vector * size);
    if (vector * size + size - 1 > this.#cpu.getUint16(IDT + 8, true)) return undefined;
    const low = this.read(entry, 4);
    const middle = this.read(entry + 4n, 4);
    const high = long ? this.read(entry + 8n, 4) : 0n;
    if (low === undefined || middle === undefined || high === undefined) return undefined;
    const present = (middle & 0x8000n) !== 0n;
    return present ? (high << 32n) | (middle & 0xffff0000n) | (low & 0xffffn) : undefined;
  }
}
