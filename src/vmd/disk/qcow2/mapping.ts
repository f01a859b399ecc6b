/**
 * Which cluster of the file holds a cluster of the disk: the L1 table and the L2 tables. Source:
 * QEMU, docs/interop/qcow2.txt, "Cluster mapping". Entries are read as two halves of 32 bits.
 */
import { DiskError, hex } from "../error.ts";
import { type HostFile, readPadded } from "../host-file.ts";
import type { Qcow2Header } from "./header.ts";
import { entryOffset, type Table, TableCache } from "./tables.ts";

/** What an L2 entry says of a cluster. */
export const ClusterKind = {
  /** As the base has it, or zero. */
  UNALLOCATED: 0,
  /** All zero; may have a cluster in the file already. */
  ZERO: 1,
  DATA: 2,
  COMPRESSED: 3,
} as const;
export type ClusterKind = (typeof ClusterKind)[keyof typeof ClusterKind];

/** Bit 63 of an entry: the cluster is used once, by this entry. */
const COPIED = 0x80000000;
const COMPRESSED = 0x40000000;
const L1_RESERVED_HIGH = 0x7f000000;
const L1_RESERVED_LOW = 0x1ff;
const L2_RESERVED_HIGH = 0x3f000000;
const L2_RESERVED_LOW = 0x1fe;
const ZERO = 1;

/** What the mapping needs of the rest of the driver once it is written to. */
export interface MappingOwner {
  /** A free cluster of the file, now used once. */
  allocate(): number;
  /** Gives up one use of a cluster as soon as no table in the file names it. */
  releaseLater(offset: number): void;
  /** Makes everything durable that tables name, then writes the tables. */
  commit(): void;
  /** A cluster becomes a table, or is none any more. */
  addTable(offset: number): void;
  removeTable(offset: number): void;
}

export class Mapping {
  /** Of the last lookup: its kind, host offset (0 for none), and whether it is used only once. */
  kind: ClusterKind = ClusterKind.UNALLOCATED;
  host = 0;
  copied = false;
  /** Bytes of a compressed cluster, from `host` to the end of its last sector. */
  length = 0;
  readonly #file: HostFile;
  readonly #header: Qcow2Header;
  readonly #owner: MappingOwner;
  readonly #l1: DataView;
  readonly #l1Changed = new Set<number>();
  readonly #tables: TableCache;
  readonly #entries: number;

  /** @throws DiskError */
  constructor(file: HostFile, header: Qcow2Header, owner: MappingOwner) {
    this.#file = file;
    this.#header = header;
    this.#owner = owner;
    this.#entries = header.clusterSize / 8;
    const l1 = new Uint8Array(header.l1Entries * 8);
    readPadded(file, header.l1Offset, l1, 0, l1.length);
    this.#l1 = new DataView(l1.buffer);
    this.#tables = new TableCache(file, header.clusterSize, () => owner.commit());
  }

  /** Tables differ from the file's. */
  get dirty(): boolean {
    return this.#tables.dirty || this.l1Dirty;
  }

  get l1Dirty(): boolean {
    return this.#l1Changed.size > 0;
  }

  /** Writes changed L2 tables: what they name must be durable before. */
  writeTables(): void {
    this.#tables.write();
  }

  /** Writes changed L1 entries: the L2 tables that they name must be durable before. */
  writeL1(): void {
    const bytes = new Uint8Array(this.#l1.buffer);
    for (const index of this.#l1Changed) {
      this.#file.write(this.#header.l1Offset + index * 8, bytes, index * 8, 8);
      this.#l1Changed.delete(index);
    }
  }

  /** Offsets of all L2 tables, whether they are right or not. */
  tableOffsets(): number[] {
    const offsets: number[] = [];
    for (let i = 0; i < this.#l1.byteLength; i += 8) {
      const high = this.#l1.getUint32(i) & 0xffffff;
      const offset = high * 2 ** 32 + ((this.#l1.getUint32(i + 4) & 0xfffffe00) >>> 0);
      if (offset !== 0) offsets.push(offset);
    }
    return offsets;
  }

  /** Finds a cluster of the disk by its number; the answer is in the fields. @throws DiskError */
  lookup(cluster: number): ClusterKind {
    this.host = 0;
    this.copied = false;
    const index = cluster % this.#entries;
    const offset = this.#tableOffset((cluster - index) / this.#entries);
    if (offset === 0) return (this.kind = ClusterKind.UNALLOCATED);
    const { view } = this.#tables.load(offset);
    const high = view.getUint32(index * 8);
    const low = view.getUint32(index * 8 + 4);
    if (high === 0 && low === 0) return (this.kind = ClusterKind.UNALLOCATED);
    this.copied = (high & COPIED) !== 0;
    const where = () => `${this.#file.name}: L2 entry ${index} at ${hex(offset)}`;
    if (high & COMPRESSED) return this.#compressed(high, low, where);
    if (high & L2_RESERVED_HIGH || low & L2_RESERVED_LOW) {
      throw new DiskError(`${where()}: reserved bits are set`);
    }
    this.host = entryOffset(this.#file, high, low, this.#header.clusterSize, where);
    if (low & ZERO) {
      if (this.#header.version === 2) throw new DiskError(`${where()}: zero flag in version 2`);
      return (this.kind = ClusterKind.ZERO);
    }
    if (this.host === 0) throw new DiskError(`${where()}: offset 0 is the header`);
    return (this.kind = ClusterKind.DATA);
  }

  #compressed(high: number, low: number, where: () => string): ClusterKind {
    // The offset has the low 62 - (cluster_bits - 8) bits; the number of further sectors follows.
    const highBits = 30 - (this.#header.clusterBits - 8);
    const offset = (high & (2 ** highBits - 1)) * 2 ** 32 + low;
    const sectors = (high & 0x3fffffff) >>> highBits;
    if (this.copied) throw new DiskError(`${where()}: a compressed cluster marked as used once`);
    if (offset >= this.#file.size) {
      throw new DiskError(`${where()}: ${hex(offset)} lies beyond the end of the file`);
    }
    this.host = offset;
    this.length = (sectors + 1) * 512 - (offset % 512);
    return (this.kind = ClusterKind.COMPRESSED);
  }

  /** How many clusters from this one on have no L2 table: 0 if it has one. */
  unmapped(cluster: number): number {
    const index = cluster % this.#entries;
    const first = (cluster - index) / this.#entries;
    let l1 = first;
    while (l1 < this.#header.l1Entries && this.#tableOffset(l1) === 0) l1++;
    return l1 === first ? 0 : l1 * this.#entries - cluster;
  }

  /** Maps a cluster to one of the file that only it uses, and whose data is written. */
  set(cluster: number, host: number): void {
    const index = cluster % this.#entries;
    const table = this.#writable((cluster - index) / this.#entries);
    table.view.setUint32(index * 8, (COPIED | (host / 2 ** 32)) >>> 0);
    table.view.setUint32(index * 8 + 4, host % 2 ** 32);
    this.#tables.changed(table, index * 8, index * 8 + 8);
  }

  /** Maps a cluster to none: it reads as zero, or if `zero` isn't asked for, as the base has it. */
  unset(cluster: number, zero: boolean): void {
    const index = cluster % this.#entries;
    const table = this.#writable((cluster - index) / this.#entries);
    table.view.setUint32(index * 8, 0);
    table.view.setUint32(index * 8 + 4, zero ? ZERO : 0);
    this.#tables.changed(table, index * 8, index * 8 + 8);
  }

  /** The L2 table of an L1 entry: allocated if there is none, copied if a snapshot uses it too. */
  #writable(l1: number): Table {
    const old = this.#tableOffset(l1);
    if (old !== 0 && this.#l1.getUint32(l1 * 8) & COPIED) return this.#tables.load(old);
    const content = old === 0 ? undefined : this.#tables.load(old).bytes;
    const offset = this.#owner.allocate();
    const table = this.#tables.create(offset, content);
    this.#l1.setUint32(l1 * 8, (COPIED | (offset / 2 ** 32)) >>> 0);
    this.#l1.setUint32(l1 * 8 + 4, offset % 2 ** 32);
    this.#l1Changed.add(l1);
    this.#owner.addTable(offset);
    if (old !== 0) {
      this.#tables.drop(old);
      this.#owner.removeTable(old);
      this.#owner.releaseLater(old);
    }
    return table;
  }

  #tableOffset(l1: number): number {
    const high = this.#l1.getUint32(l1 * 8);
    const low = this.#l1.getUint32(l1 * 8 + 4);
    if (high === 0 && low === 0) return 0;
    const where = () => `${this.#file.name}: L1 entry ${l1}`;
    if (high & L1_RESERVED_HIGH || low & L1_RESERVED_LOW) {
      throw new DiskError(`${where()}: reserved bits are set`);
    }
    return entryOffset(this.#file, high, low, this.#header.clusterSize, where);
  }
}
