/**
 * Tables of one cluster (L2 tables, refcount blocks), kept in memory while they are in use. Changes
 * stay there until they are written: whoever owns the tables knows when that is safe.
 */
import { DiskError, hex } from "../error.ts";
import { type HostFile, readPadded } from "../host-file.ts";

/** Each cache keeps tables of so many bytes, and at least so many of them. */
const CACHE_BYTES = 2 ** 22;
const CACHE_MIN = 4;
/** What changed is written in whole sectors. */
const SECTOR = 512;

export class Table {
  readonly view: DataView;
  #low = Infinity;
  #high = 0;

  constructor(
    /** Where it lies in the file. */
    readonly offset: number,
    readonly bytes: Uint8Array,
  ) {
    this.view = new DataView(bytes.buffer);
  }

  /** Bytes [low, high) differ from the file's. */
  changed(low: number, high: number): void {
    this.#low = Math.min(this.#low, low);
    this.#high = Math.max(this.#high, high);
  }

  write(file: HostFile): void {
    if (this.#high === 0) return;
    const low = Math.floor(this.#low / SECTOR) * SECTOR;
    const high = Math.ceil(this.#high / SECTOR) * SECTOR;
    file.write(this.offset + low, this.bytes, low, high - low);
    this.#low = Infinity;
    this.#high = 0;
  }
}

export class TableCache {
  readonly #file: HostFile;
  readonly #clusterSize: number;
  /** Least recently used first. */
  readonly #tables = new Map<number, Table>();
  readonly #capacity: number;
  readonly #dirty = new Set<Table>();
  readonly #save: () => void;

  /** @param save writes this cache, after whatever must be written before it. */
  constructor(file: HostFile, clusterSize: number, save: () => void) {
    this.#file = file;
    this.#clusterSize = clusterSize;
    this.#capacity = Math.max(CACHE_MIN, CACHE_BYTES / clusterSize);
    this.#save = save;
  }

  get dirty(): boolean {
    return this.#dirty.size > 0;
  }

  /** The table at a checked offset. */
  load(offset: number): Table {
    const present = this.#tables.get(offset);
    if (present !== undefined) {
      this.#tables.delete(offset);
      this.#tables.set(offset, present);
      return present;
    }
    this.#makeRoom();
    const table = new Table(offset, new Uint8Array(this.#clusterSize));
    readPadded(this.#file, offset, table.bytes, 0, this.#clusterSize);
    this.#tables.set(offset, table);
    return table;
  }

  /** A new table in place of what the cluster held: `content`, or zeroes. */
  create(offset: number, content?: Uint8Array): Table {
    this.drop(offset);
    this.#makeRoom();
    const table = new Table(offset, content?.slice() ?? new Uint8Array(this.#clusterSize));
    this.#tables.set(offset, table);
    this.changed(table, 0, this.#clusterSize);
    return table;
  }

  /** Forgets a table whose cluster is no table any more. */
  drop(offset: number): void {
    const table = this.#tables.get(offset);
    if (table === undefined) return;
    this.#tables.delete(offset);
    this.#dirty.delete(table);
  }

  changed(table: Table, low: number, high: number): void {
    table.changed(low, high);
    this.#dirty.add(table);
  }

  /** Writes what changed. */
  write(): void {
    for (const table of this.#dirty) {
      table.write(this.#file);
      this.#dirty.delete(table);
    }
  }

  #makeRoom(): void {
    if (this.#tables.size < this.#capacity) return;
    const [offset, table] = this.#tables.entries().next().value as [number, Table];
    if (this.#dirty.has(table)) this.#save();
    this.#tables.delete(offset);
  }
}

/**
 * The offset in a table's entry: bits 9 to 55 (to 63 where `wide`).
 * @param where names the entry, for the error.
 * @throws DiskError unless it is a cluster that begins in the file, or 0.
 */
export function entryOffset(
  file: HostFile,
  high: number,
  low: number,
  clusterSize: number,
  where: () => string,
  wide = false,
): number {
  const offset = ((wide ? high : high & 0xffffff) >>> 0) * 2 ** 32 + ((low & 0xfffffe00) >>> 0);
  if (offset === 0) return 0;
  if (offset % clusterSize !== 0) {
    throw new DiskError(`${where()}: ${hex(offset)} is no multiple of the cluster size`);
  }
  if (offset >= file.size) {
    throw new DiskError(`${where()}: ${hex(offset)} lies beyond the end of the file`);
  }
  return offset;
}
