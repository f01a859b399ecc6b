/**
 * From linear to physical addresses by the guest's page tables; Intel SDM vol. 3A, chapter 4. No
 * permission is looked at and no bit is set: for who looks at a guest from outside.
 */
import { CR0, CR4, EFER } from "./cpu.ts";
import { CPU_LAYOUT } from "./cpu-codec.ts";
import type { GuestMemory } from "./memory.ts";

const PRESENT = 1n;
const LARGE = 0x80n;
const FRAME = 0x000f_ffff_ffff_f000n;
const LOW_32 = 0xffff_ffffn;

/** What chooses tables and their format. */
export interface PagingRegisters {
  readonly cr0: number;
  readonly cr3: bigint;
  readonly cr4: number;
  readonly efer: number;
}

/** Reads an entry of `size` bytes at a physical address; undefined where there is no memory. */
export type ReadEntry = (address: number, size: 4 | 8) => bigint | undefined;

// struct kvm_sregs
const CR0_AT = CPU_LAYOUT.sregs + 224;
const CR3_AT = CPU_LAYOUT.sregs + 240;
const CR4_AT = CPU_LAYOUT.sregs + 248;
const EFER_AT = CPU_LAYOUT.sregs + 264;

/** @param cpu struct vmm_cpu */
export function pagingRegisters(cpu: DataView): PagingRegisters {
  return {
    cr0: cpu.getUint32(CR0_AT, true),
    cr3: cpu.getBigUint64(CR3_AT, true),
    cr4: cpu.getUint32(CR4_AT, true),
    efer: cpu.getUint32(EFER_AT, true),
  };
}

/** Entries of tables in a guest's memory. */
export function entriesOf(memory: GuestMemory): ReadEntry {
  return (address, size) => {
    if (!memory.contains(address, size)) return undefined;
    const low = BigInt(memory.read32(address));
    return size === 4 ? low : (BigInt(memory.read32(address + 4)) << 32n) | low;
  };
}

/** @returns the physical address, or undefined when nothing is mapped there. */
export function translate(
  registers: PagingRegisters,
  linear: bigint,
  read: ReadEntry,
): number | undefined {
  const { cr0, cr3, cr4, efer } = registers;
  if ((cr0 & CR0.PG) === 0) return Number(linear & LOW_32);
  if ((cr4 & CR4.PAE) === 0) return walk32(cr3, (cr4 & CR4.PSE) !== 0, linear & LOW_32, read);
  if ((efer & EFER.LMA) !== 0) {
    if (BigInt.asUintN(64, BigInt.asIntN(48, linear)) !== linear) return undefined;
    return walk64(cr3 & FRAME, 39n, linear, read);
  }
  const index = (linear >> 30n) & 3n;
  const directory = read(Number((cr3 & 0xffff_ffe0n) + index * 8n), 8);
  if (directory === undefined || !(directory & PRESENT)) return undefined;
  return walk64(directory & FRAME, 21n, linear & LOW_32, read);
}

/** Entries of 8 bytes: 4.4 and 4.5. Pages of 4 KiB, 2 MiB, 1 GiB. */
function walk64(start: bigint, top: bigint, linear: bigint, read: ReadEntry): number | undefined {
  let table = start;
  for (let shift = top; ; shift -= 9n) {
    const entry = read(Number(table + ((linear >> shift) & 0x1ffn) * 8n), 8);
    if (entry === undefined || !(entry & PRESENT)) return undefined;
    if (shift === 12n || (shift < 39n && entry & LARGE)) {
      const offset = (1n << shift) - 1n;
      return Number((entry & FRAME & ~offset) | (linear & offset));
    }
    table = entry & FRAME;
  }
}

/** Entries of 4 bytes: 4.3. Pages of 4 KiB, and of 4 MiB with 40 bits of address (PSE-36). */
function walk32(cr3: bigint, large: boolean, linear: bigint, read: ReadEntry): number | undefined {
  const directory = read(Number((cr3 & 0xffff_f000n) + ((linear >> 22n) << 2n)), 4);
  if (directory === undefined || !(directory & PRESENT)) return undefined;
  if (large && directory & LARGE) {
    const high = (directory & 0x1f_e000n) << 19n;
    return Number(high | (directory & 0xffc0_0000n) | (linear & 0x3f_ffffn));
  }
  const index = (linear >> 12n) & 0x3ffn;
  const entry = read(Number((directory & 0xffff_f000n) + index * 4n), 4);
  if (entry === undefined || !(entry & PRESENT)) return undefined;
  return Number((entry & 0xffff_f000n) | (linear & 0xfffn));
}
