/**
 * A machine is one image: guest RAM, every chip's registers and every CPU's registers lie in one
 * mapping. A copy of it is a snapshot; what several machines map of that is shared by them.
 *
 * ```
 * 0x000000  header: magic, version, sizes, fingerprint of all register layouts
 * 0x000100  struct vmm_clock (native/vmm.h)
 * 0x001000  struct vmm_cpu
 * 0x003000  the chips' registers, in the order in which the machine declared them
 * 0x200000  RAM and ROM, range after range
 * ```
 */
import { hash } from "bun";
import { GuestMemory, type MemoryRange } from "./memory.ts";
import { check, hostBuffer, hostLibrary, ptr } from "./native.ts";
import { commonRuns, Prefetch } from "./prefetch.ts";
import type { Declaration, RegisterLayout, Registers } from "./registers.ts";
import type { Run } from "./snapshot/format.ts";

const MAGIC = 0x4d44_4d56; // "VMDM"
const VERSION = 1;
const CLOCK_OFFSET = 0x100;
const CPU_OFFSET = 0x1000;
const CPU_SIZE = 0x2000;
const REGISTERS_OFFSET = CPU_OFFSET + CPU_SIZE;
const MEMORY_OFFSET = 0x200000;
const HUGE_PAGE = 0x200000;
const PAGE = 4096;

/** A range of guest-physical memory that a machine wants. */
export interface RangeRequest {
  readonly base: number;
  /** Bytes, page-aligned. */
  readonly size: number;
  readonly readonly: boolean;
}

/** A chip's registers in the image. */
export interface PlacedBlock {
  readonly layout: RegisterLayout;
  /** From the image's beginning, bytes. */
  readonly offset: number;
}

export class MachineImage implements Disposable {
  readonly memory: GuestMemory;
  /** Bytes, RAM and ROM included. */
  readonly size: number;
  /** Host address. */
  readonly address: number;
  readonly #head: ArrayBuffer;
  readonly #layouts: string[] = [];
  readonly #blocks: PlacedBlock[] = [];
  readonly #overlaid: Run[] = [];
  #next = REGISTERS_OFFSET;
  #prefetch: Prefetch | undefined;
  #closed = false;

  constructor(ranges: readonly RangeRequest[]) {
    let end = MEMORY_OFFSET;
    const offsets = ranges.map(({ base, size }) => {
      // Huge pages need host and guest addresses that are equal below their size.
      const offset = end + ((((base - end) % HUGE_PAGE) + HUGE_PAGE) % HUGE_PAGE);
      end = offset + size;
      return offset;
    });
    this.size = end;
    this.address = check(
      `${Math.ceil(this.size / 2 ** 20)} MiB for a machine`,
      hostLibrary().vmm_memory_map(this.size, MEMORY_OFFSET),
    );
    this.#head = hostBuffer(this.address, MEMORY_OFFSET);
    const placed: MemoryRange[] = ranges.map((range, index) => ({
      ...range,
      host: this.address + offsets[index],
    }));
    this.memory = new GuestMemory(placed, (range, at, length) =>
      hostBuffer(range.host + at, length),
    );
    new Uint32Array(this.#head, 0, 2).set([MAGIC, VERSION]);
    new Float64Array(this.#head, 8, 1)[0] = this.size;
  }

  /** A chip's registers, at a place that depends on the order of these calls only. */
  registers<D extends Declaration>(layout: RegisterLayout<D>): Registers<D> {
    if (this.#next + layout.size > MEMORY_OFFSET) {
      throw new RangeError(`registers of ${layout.name}: the image has no room for them`);
    }
    const registers = layout.bind(this.#head, this.#next);
    this.#layouts.push(layout.fingerprint);
    this.#blocks.push({ layout: layout as unknown as RegisterLayout, offset: this.#next });
    this.#next += layout.size;
    new BigUint64Array(this.#head, 16, 1)[0] = BigInt(hash(this.#layouts.join("\n")));
    return registers;
  }

  /** The chips that had registers are gone: others will have theirs there. */
  forgetRegisters(): void {
    new Uint8Array(this.#head, REGISTERS_OFFSET, this.#next - REGISTERS_OFFSET).fill(0);
    this.#next = REGISTERS_OFFSET;
    this.#layouts.length = 0;
    this.#blocks.length = 0;
  }

  /** The registers' blocks, in their order. */
  get blocks(): readonly PlacedBlock[] {
    return this.#blocks;
  }

  /** Host address of struct vmm_clock. */
  get clockAddress(): number {
    return this.address + CLOCK_OFFSET;
  }

  /** struct vmm_clock: origin, warp, blocks as i64; mode, ns_per_block as u32. */
  get clock(): DataView {
    return new DataView(this.#head, CLOCK_OFFSET, 32);
  }

  /** Host address of struct vmm_cpu. */
  get cpuAddress(): number {
    return this.address + CPU_OFFSET;
  }

  /** The bytes of struct vmm_cpu. */
  get cpu(): DataView {
    return new DataView(this.#head, CPU_OFFSET, CPU_SIZE);
  }

  /** The header and all registers: everything that isn't guest memory. */
  get state(): Uint8Array {
    return new Uint8Array(this.#head, 0, this.#next);
  }

  /** Pages of guest memory that have a file behind them, by guest-physical page number. */
  get overlaid(): readonly Run[] {
    return this.#overlaid;
  }

  /**
   * Whole pages of guest memory come from a file, when they are touched; writes don't go there.
   * `hide` when that was all.
   */
  overlay(address: number, length: number, file: number, offset: number): void {
    const host = this.memory.pointer(address, length);
    check("mapping a snapshot", hostLibrary().vmm_memory_overlay(host, length, file, offset));
    this.memory.hasFile = true;
    this.#overlaid.push({ page: address / PAGE, count: length / PAGE });
    this.memory.written(address, length);
  }

  /** Whole pages of guest memory are read from a file, where those of all runs follow each other. */
  readPages(runs: readonly Run[], file: number, offset: number): void {
    const pieces = this.#pieces(runs);
    const read = hostLibrary().vmm_memory_read(ptr(pieces), runs.length, file, offset);
    check("reading a snapshot", read);
    for (const { page, count } of runs) this.memory.written(page * PAGE, count * PAGE);
  }

  /** Pairs of host address and bytes. */
  #pieces(runs: readonly Run[]): BigUint64Array {
    const pieces = new BigUint64Array(2 * runs.length);
    runs.forEach(({ page, count }, index) => {
      const length = count * PAGE;
      pieces[2 * index] = BigInt(this.memory.pointer(page * PAGE, length));
      pieces[2 * index + 1] = BigInt(length);
    });
    return pieces;
  }

  /**
   * Whole pages of guest memory become what they were before anybody wrote to them: what their file
   * holds, or zeros.
   */
  revert(address: number, length: number): void {
    const host = this.memory.pointer(address, length);
    check("reverting pages", hostLibrary().vmm_memory_discard(host, length, 0));
    this.memory.written(address, length);
  }

  /** Whoever writes to these whole pages next needn't wait for them. Where the host can't, they wait. */
  populate(address: number, length: number): void {
    hostLibrary().vmm_memory_populate(this.memory.pointer(address, length), length);
  }

  /**
   * Has pages read and mapped, of those that have a file behind them, while the machine goes on.
   * Once.
   * @param runs in the order of their pages, each in one range
   * @returns how many they are
   */
  prefetch(runs: readonly Run[]): number {
    const common = [...commonRuns(runs, this.#overlaid)];
    this.#prefetch ??= Prefetch.start(this.#pieces(common));
    return common.reduce((pages, { count }) => pages + count, 0);
  }

  /** Whether what is to be prefetched is not all there. */
  get prefetching(): boolean {
    return this.#prefetch?.ended === false;
  }

  /** Keeps what was overlaid out of core dumps: a guest's memory is its own business. */
  hide(): void {
    check("hiding a machine", hostLibrary().vmm_memory_hide(this.address, this.size));
  }

  /** Whole pages of guest memory become zeros. */
  clearPages(address: number, length: number): void {
    for (const bytes of this.memory.bytes(address, length)) bytes.fill(0);
    this.memory.written(address, length);
  }

  /** Bytes of host memory that the image takes now. */
  get resident(): number {
    return check("size of a machine", hostLibrary().vmm_memory_resident(this.address, this.size));
  }

  /** Unmaps everything: no view of the image may be used afterwards. */
  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#prefetch?.[Symbol.dispose]();
    hostLibrary().vmm_memory_unmap(this.address, this.size);
  }
}
