/**
 * Which clusters of the file are in use: the refcount table and its blocks, 16 bits a cluster.
 * Source: QEMU, docs/interop/qcow2.txt, "Host cluster management".
 *
 * An increment may reach the file at any time: at worst the cluster is lost. A decrement may only
 * once nothing in the file names the cluster; that is the caller's part.
 */
import { DiskError, hex } from "../error.ts";
import { type HostFile, readPadded } from "../host-file.ts";
import { type Qcow2Header, REFCOUNT_TABLE_FIELD, REFCOUNT_TABLE_MAX } from "./header.ts";
import type { MetadataClusters } from "./metadata.ts";
import { entryOffset, TableCache } from "./tables.ts";

/** One allocation looks at no more counts than this before it goes to the file's end. */
const SCAN = 2 ** 20;

export class Refcounts {
  /** Whether the last cluster allocated was never part of the file, and so reads as zero. */
  fresh = false;
  readonly #file: HostFile;
  readonly #clusterSize: number;
  /** Counts in a block. */
  readonly #perBlock: number;
  readonly #metadata: MetadataClusters;
  readonly #blocks: TableCache;
  #table: DataView;
  #tableOffset: number;
  /** No cluster before this one is known to be free. */
  #hint = 0;

  /** @throws DiskError */
  constructor(file: HostFile, header: Qcow2Header, metadata: MetadataClusters) {
    if (header.refcountOrder !== 4) {
      const bits = 1 << header.refcountOrder;
      throw new DiskError(
        `${file.name}: refcount_order: images with ${bits}-bit reference counts can only be read`,
      );
    }
    this.#file = file;
    this.#clusterSize = header.clusterSize;
    this.#perBlock = header.clusterSize / 2;
    this.#metadata = metadata;
    this.#blocks = new TableCache(file, header.clusterSize, () => this.write());
    this.#tableOffset = header.refcountTableOffset;
    this.#table = new DataView(new ArrayBuffer(header.refcountTableClusters * this.#clusterSize));
    const bytes = new Uint8Array(this.#table.buffer);
    readPadded(file, this.#tableOffset, bytes, 0, bytes.length);
    this.#protectTable();
    for (let i = 0; i < this.#table.byteLength / 8; i++) {
      const offset = this.#blockOffset(i);
      if (offset !== 0) metadata.add(offset);
    }
  }

  /** How often a cluster of the file is used. @throws DiskError */
  count(offset: number): number {
    const cluster = offset / this.#clusterSize;
    const index = cluster % this.#perBlock;
    const block = (cluster - index) / this.#perBlock;
    if (block >= this.#entries) return 0;
    const at = this.#blockOffset(block);
    return at === 0 ? 0 : this.#blocks.load(at).view.getUint16(index * 2);
  }

  /** The offset of a cluster that was free and now is used once. @throws DiskError */
  allocate(): number {
    const cluster = this.#findFree();
    const offset = cluster * this.#clusterSize;
    if (this.#metadata.has(offset)) {
      throw new DiskError(
        `${this.#file.name}: refcounts: ${hex(offset)} is a table and counted as free: corrupt`,
      );
    }
    this.#extend(offset + this.#clusterSize, offset);
    this.#set(cluster, 1);
    return offset;
  }

  /** One use of a cluster less. @throws DiskError if it has none. */
  release(offset: number): void {
    const count = this.count(offset);
    if (count === 0) {
      throw new DiskError(
        `${this.#file.name}: refcounts: ${hex(offset)} is in use and counted as free: corrupt`,
      );
    }
    const cluster = offset / this.#clusterSize;
    this.#set(cluster, count - 1);
    if (count === 1) this.#hint = Math.min(this.#hint, cluster);
  }

  /** Writes what changed. */
  write(): void {
    this.#blocks.write();
  }

  get #entries(): number {
    return this.#table.byteLength / 8;
  }

  #blockOffset(index: number): number {
    const high = this.#table.getUint32(index * 8);
    const low = this.#table.getUint32(index * 8 + 4);
    if (high === 0 && low === 0) return 0;
    const where = () => `${this.#file.name}: refcount table entry ${index}`;
    if (low & 0x1ff) throw new DiskError(`${where()}: reserved bits are set`);
    return entryOffset(this.#file, high, low, this.#clusterSize, where, true);
  }

  /** The block must be there. */
  #set(cluster: number, count: number): void {
    const index = cluster % this.#perBlock;
    const block = this.#blocks.load(this.#blockOffset((cluster - index) / this.#perBlock));
    block.view.setUint16(index * 2, count);
    this.#blocks.changed(block, index * 2, index * 2 + 2);
  }

  /** The number of a free cluster whose block is there: the first known one, or one at the end. */
  #findFree(): number {
    let cluster = this.#hint;
    let left = SCAN;
    let atEnd = false;
    for (;;) {
      const index = cluster % this.#perBlock;
      const block = (cluster - index) / this.#perBlock;
      if (block >= this.#entries) {
        this.#grow(cluster);
        continue;
      }
      const at = this.#blockOffset(block);
      if (at === 0) {
        this.#createBlock(block, cluster);
        cluster++;
        continue;
      }
      const { view } = this.#blocks.load(at);
      let free = index;
      while (free < this.#perBlock && view.getUint16(free * 2) !== 0) free++;
      cluster += free - index;
      left -= free - index;
      if (!atEnd) this.#hint = cluster;
      if (free < this.#perBlock) return cluster;
      if (left > 0) continue;
      // The search goes on at the hint next time.
      if (atEnd) {
        throw new DiskError(`${this.#file.name}: refcounts: no cluster is free: corrupt`);
      }
      atEnd = true;
      left = SCAN;
      cluster = Math.max(cluster, Math.ceil(this.#file.size / this.#clusterSize));
    }
  }

  /** Makes the file at least so long, and notes whether the cluster at `offset` is a hole then. */
  #extend(end: number, offset: number): void {
    this.fresh = offset >= this.#file.size;
    if (end > this.#file.size) this.#file.resize(end);
  }

  /**
   * A block for clusters that had none, in one of them. It is durable before the table names it:
   * a lost one would count clusters in use as free.
   */
  #createBlock(index: number, cluster: number): void {
    const offset = cluster * this.#clusterSize;
    if (this.#metadata.has(offset)) {
      throw new DiskError(
        `${this.#file.name}: refcounts: ${hex(offset)} is a table without a count: corrupt`,
      );
    }
    this.#extend(offset + this.#clusterSize, offset);
    const block = this.#blocks.create(offset);
    block.view.setUint16((cluster % this.#perBlock) * 2, 1);
    this.#blocks.write();
    this.#file.sync();
    const entry = new Uint8Array(8);
    putOffset(new DataView(entry.buffer), 0, offset);
    this.#file.write(this.#tableOffset + index * 8, entry, 0, 8);
    putOffset(this.#table, index * 8, offset);
    this.#metadata.add(offset);
  }

  /** A larger table, with blocks for itself, at the end of the file or after `cluster`. */
  #grow(cluster: number): void {
    const end = Math.ceil(this.#file.size / this.#clusterSize);
    const start = Math.max(cluster, end);
    const first = Math.floor(start / this.#perBlock);
    // Each block counts perBlock clusters, the new ones among them.
    const perTable = this.#clusterSize / 8;
    const tables = Math.ceil((Math.max(first, this.#entries) * 1.5) / perTable) + 1;
    let blocks = 1;
    while ((first + blocks) * this.#perBlock < start + tables + blocks) blocks++;
    const size = tables * this.#clusterSize;
    if (size > REFCOUNT_TABLE_MAX || first + blocks > tables * perTable) {
      throw new DiskError(`${this.#file.name}: the file is too long for its refcount table`);
    }
    const table = new DataView(new ArrayBuffer(size));
    new Uint8Array(table.buffer).set(new Uint8Array(this.#table.buffer));
    const tableOffset = start * this.#clusterSize;
    this.#extend((start + tables + blocks) * this.#clusterSize, tableOffset);
    for (let i = 0; i < blocks; i++) {
      const offset = (start + tables + i) * this.#clusterSize;
      const { view } = this.#blocks.create(offset);
      const from = (first + i) * this.#perBlock;
      for (let c = Math.max(from, start); c < from + this.#perBlock; c++) {
        if (c < start + tables + blocks) view.setUint16((c - from) * 2, 1);
      }
      putOffset(table, (first + i) * 8, offset);
      this.#metadata.add(offset);
    }
    this.#blocks.write();
    this.#file.write(tableOffset, new Uint8Array(table.buffer), 0, size);
    this.#file.sync();
    this.#moveTable(table, tableOffset);
  }

  /** The header's field lies in one sector: after a crash it is the old or the new one. */
  #moveTable(table: DataView, offset: number): void {
    const field = new DataView(new ArrayBuffer(12));
    putOffset(field, 0, offset);
    field.setUint32(8, table.byteLength / this.#clusterSize);
    this.#file.write(REFCOUNT_TABLE_FIELD, new Uint8Array(field.buffer), 0, 12);
    this.#file.sync();
    const old = { offset: this.#tableOffset, size: this.#table.byteLength };
    this.#table = table;
    this.#tableOffset = offset;
    this.#protectTable();
    for (let at = old.offset; at < old.offset + old.size; at += this.#clusterSize) {
      this.#metadata.remove(at);
      this.release(at);
    }
  }

  #protectTable(): void {
    const end = this.#tableOffset + this.#table.byteLength;
    for (let at = this.#tableOffset; at < end; at += this.#clusterSize) this.#metadata.add(at);
  }
}

function putOffset(view: DataView, at: number, offset: number): void {
  view.setUint32(at, Math.floor(offset / 2 ** 32));
  view.setUint32(at + 4, offset % 2 ** 32);
}
