/** Which code a guest enters: struct vmm_coverage of native/vmm_fuzz.h, which the engine fills. */
import { check, type EngineLibrary, hostBuffer, type Pointer, ptr } from "./native.ts";

// struct vmm_coverage
const FLAGS = 0;
const PLACES = 4;
const TOUCHED = 8;
const SEEN = 12;
const COMPARES = 16;
const BLOCKS = 20;
const RANGES = 24;
const RANGE = 32;
const COUNTS = 160;
const LIST = 168;
const COMPARE = 176;
const BLOCK = 184;
const SIZE = 192;

const MAX_RANGES = 8;
const MAX_COMPARES = 4096;
const COMPARE_SIZE = 32;
const MAX_BLOCKS = 65536;
const BLOCK_SIZE = 16;

/** enum vmm_coverage_flags */
const Flag = { EDGES: 1, COMPARES: 2, TRACE: 4 } as const;

/** Linear addresses, the end not among them. */
export interface AddressRange {
  readonly from: bigint;
  readonly to: bigint;
}

/** A comparison or subtraction. */
export interface GuestCompare {
  /** Linear address of the instruction. */
  readonly at: bigint;
  readonly left: bigint;
  readonly right: bigint;
  /** Bytes of each. */
  readonly size: number;
}

/** A translated block that was entered. */
export interface GuestBlock {
  /** Linear. */
  readonly address: bigint;
  /** Bytes of code. */
  readonly size: number;
  /** The place in the map of the edge that led to it. */
  readonly edge: number;
}

export class Coverage {
  readonly places: number;
  readonly #library: EngineLibrary;
  readonly #vmm: Pointer;
  readonly #shared: Uint32Array;
  readonly #wide: BigUint64Array;
  readonly #list: Uint32Array;
  readonly #counts: Uint8Array;
  readonly #compares: DataView;
  readonly #blocks: DataView;

  /** @param address of the struct, which lives as long as the engine */
  constructor(library: EngineLibrary, vmm: Pointer, address: number) {
    this.#library = library;
    this.#vmm = vmm;
    const buffer = hostBuffer(address, SIZE);
    this.#shared = new Uint32Array(buffer);
    this.#wide = new BigUint64Array(buffer);
    this.places = this.#shared[PLACES / 4];
    const at = (offset: number, size: number) => {
      const host = Number(this.#wide[offset / 8]);
      return host === 0 ? new ArrayBuffer(0) : hostBuffer(host, size);
    };
    this.#counts = new Uint8Array(at(COUNTS, this.places));
    this.#list = new Uint32Array(at(LIST, this.places * 4));
    this.#compares = new DataView(at(COMPARE, MAX_COMPARES * COMPARE_SIZE));
    this.#blocks = new DataView(at(BLOCK, MAX_BLOCKS * BLOCK_SIZE));
  }

  /**
   * What else is noted: blocks in their order, and comparisons, for which each instruction is a block
   * of its own: such a run has other edges, and costs more of its budget.
   */
  note({ compares = false, blocks = false }): void {
    const more = (compares ? Flag.COMPARES : 0) | (blocks ? Flag.TRACE : 0);
    this.#shared[FLAGS / 4] = Flag.EDGES | more;
  }

  /** Only blocks of these count; at most 8, none for all. */
  limit(ranges: readonly AddressRange[]): void {
    if (ranges.length > MAX_RANGES) throw new RangeError(`more than ${MAX_RANGES} ranges`);
    ranges.forEach(({ from, to }, index) => {
      this.#wide[RANGE / 8 + index * 2] = from;
      this.#wide[RANGE / 8 + index * 2 + 1] = to;
    });
    this.#shared[RANGES / 4] = ranges.length;
  }

  /**
   * Where blocks of code begin, for an engine that tells of nothing else: of each once, when it is
   * entered for the first time. Its place in the map is its place in the list. There has to be a point.
   * @param blocks linear addresses, and where they lie in guest-physical memory
   * @throws NativeError
   */
  trap(blocks: readonly { readonly address: bigint; readonly physical: number }[]): void {
    const list = new BigUint64Array(Math.max(1, blocks.length) * 2);
    blocks.forEach(({ address, physical }, index) => {
      list[index * 2] = address;
      list[index * 2 + 1] = BigInt(physical);
    });
    const result = this.#library.vmm_coverage_traps(this.#vmm, ptr(list), blocks.length);
    check("blocks to be told of", result);
  }

  /** A new run begins. A fuzzer's run does it by itself. */
  begin(): void {
    this.#library.vmm_coverage_begin(this.#vmm);
  }

  /**
   * Of this run: 0 nothing that wasn't seen before; 1 a known edge, more or less often than ever; 2 a
   * new edge. It is seen then.
   */
  novelty(): number {
    return this.#library.vmm_coverage_novelty(this.#vmm);
  }

  /** Of this run's edges and how often they were taken, in AFL's eight buckets: 32 bits. */
  hash(): number {
    return this.#library.vmm_coverage_hash(this.#vmm);
  }

  /** Edges that `novelty` has seen in all runs. */
  get seen(): number {
    return this.#shared[SEEN / 4];
  }

  /** This run's edges, in the order in which they came; until the next run. */
  edges(): Uint32Array {
    return this.#list.subarray(0, this.#shared[TOUCHED / 4]);
  }

  /** How often this run took an edge; 255 for more. */
  count(edge: number): number {
    return this.#counts[edge];
  }

  /** This run's comparisons, when they are noted: the first 4096. */
  compares(): GuestCompare[] {
    const view = this.#compares;
    return Array.from({ length: this.#shared[COMPARES / 4] }, (_, index) => {
      const at = index * COMPARE_SIZE;
      return {
        at: view.getBigUint64(at, true),
        left: view.getBigUint64(at + 8, true),
        right: view.getBigUint64(at + 16, true),
        size: view.getUint32(at + 24, true),
      };
    });
  }

  /** This run's blocks, when they are noted: the first 65,536. */
  blocks(): GuestBlock[] {
    const view = this.#blocks;
    return Array.from({ length: this.#shared[BLOCKS / 4] }, (_, index) => {
      const at = index * BLOCK_SIZE;
      return {
        address: view.getBigUint64(at, true),
        size: view.getUint32(at + 8, true),
        edge: view.getUint32(at + 12, true),
      };
    });
  }
}
