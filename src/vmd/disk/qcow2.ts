/**
 * qcow2 images: sparse, copied on write from a base. Source: QEMU, docs/interop/qcow2.txt.
 *
 * Order of writes: data and reference counts go to the file at once or stay uncommitted; tables
 * that name new clusters are written after those are durable; clusters that tables no longer name
 * are freed after that is durable. So a crash at any point loses clusters at worst, and only what
 * wasn't flushed.
 */
import { checkRange, checkWritable, type Disk, type Extent, ExtentKind } from "./disk.ts";
import { DiskError, hex } from "./error.ts";
import { type HostFile, readPadded } from "./host-file.ts";
import { decompress } from "./qcow2/compressed.ts";
import { AUTOCLEAR_FIELD, type Qcow2Header } from "./qcow2/header.ts";
import { ClusterKind, Mapping } from "./qcow2/mapping.ts";
import { MetadataClusters } from "./qcow2/metadata.ts";
import { Refcounts } from "./qcow2/refcounts.ts";

/** Clusters that wait to be freed cause a flush when they are so many. */
const RELEASES_MAX = 1024;

const { UNALLOCATED, ZERO, DATA, COMPRESSED } = ClusterKind;

export class Qcow2Disk implements Disk {
  readonly size: number;
  readonly readOnly: boolean;
  /** Called before tables are written outside a flush: what was located must be written by then. */
  beforeCommit: (() => void) | undefined;
  readonly #file: HostFile;
  readonly #header: Qcow2Header;
  readonly #clusterSize: number;
  readonly #base: Disk | undefined;
  readonly #mapping: Mapping;
  readonly #writing: { metadata: MetadataClusters; refcounts: Refcounts } | undefined;
  #autoclear: boolean;
  #releases: number[] = [];
  /** One cluster, for what is copied. */
  #scratch: Uint8Array | undefined;
  /** The last compressed cluster that was read, by its offset in the file. */
  #unpacked: { offset: number; bytes: Uint8Array } | undefined;

  /**
   * Takes over the file and the base; on an error they are left open.
   * @param header of that file.
   * @throws DiskError
   */
  constructor(file: HostFile, header: Qcow2Header, base: Disk | undefined, readOnly: boolean) {
    this.#file = file;
    this.#header = header;
    this.#clusterSize = header.clusterSize;
    this.#base = base;
    this.size = header.size;
    this.readOnly = readOnly;
    this.#autoclear = header.autoclear;
    if (!file.regular) throw new DiskError(`${file.name}: a qcow2 image must be a regular file`);
    this.#mapping = new Mapping(file, header, {
      allocate: () => this.#refcounts.allocate(),
      releaseLater: (offset) => void this.#releases.push(offset),
      addTable: (offset) => this.#writing?.metadata.add(offset),
      removeTable: (offset) => this.#writing?.metadata.remove(offset),
      commit: () => this.#commit(),
    });
    if (!readOnly) this.#writing = this.#startWriting();
  }

  get name(): string {
    return this.#file.name;
  }

  #startWriting() {
    if (this.#header.dirty) {
      throw new DiskError(
        `${this.name}: incompatible_features: the image is marked as dirty, its reference counts ` +
          `may be wrong; it can only be read until "qemu-img check -r all" has repaired it`,
      );
    }
    const metadata = new MetadataClusters(Float64Array.from(this.#mapping.tableOffsets()));
    metadata.add(0);
    const { l1Offset, l1Entries } = this.#header;
    const l1End = l1Offset + l1Entries * 8;
    for (let at = l1Offset; at < l1End; at += this.#clusterSize) metadata.add(at);
    return { metadata, refcounts: new Refcounts(this.#file, this.#header, metadata) };
  }

  read(offset: number, into: Uint8Array): void {
    checkRange(this, offset, into.length);
    const mapping = this.#mapping;
    for (let done = 0; done < into.length;) {
      const within = (offset + done) % this.#clusterSize;
      const cluster = (offset + done - within) / this.#clusterSize;
      let length = Math.min(this.#clusterSize - within, into.length - done);
      const kind = mapping.lookup(cluster);
      if (kind === DATA) {
        const host = mapping.host;
        length = this.#run(cluster, host, length, into.length - done, false);
        readPadded(this.#file, host + within, into, done, length);
      } else if (kind === COMPRESSED) {
        const bytes = this.#unpack();
        into.set(bytes.subarray(within, within + length), done);
      } else if (kind === UNALLOCATED) {
        this.#readBase(offset + done, into, done, length);
      } else {
        into.fill(0, done, done + length);
      }
      done += length;
    }
  }

  write(offset: number, bytes: Uint8Array): void {
    checkWritable(this);
    checkRange(this, offset, bytes.length);
    if (this.#autoclear) this.#clearFeatures();
    const mapping = this.#mapping;
    for (let done = 0; done < bytes.length;) {
      const within = (offset + done) % this.#clusterSize;
      const cluster = (offset + done - within) / this.#clusterSize;
      let length = Math.min(this.#clusterSize - within, bytes.length - done);
      if (mapping.lookup(cluster) === DATA && mapping.copied) {
        const host = mapping.host;
        this.#checkData(host);
        length = this.#run(cluster, host, length, bytes.length - done, true);
        this.#file.write(host + within, bytes, done, length);
      } else {
        this.#replace(cluster, within, bytes, done, length);
      }
      done += length;
    }
    if (this.#releases.length > RELEASES_MAX) this.flush();
  }

  flush(): void {
    for (const _ of this.flushing()) this.#file.sync();
  }

  /** Its files are one: bases are not written. */
  *flushing(): Generator<number, void> {
    if (this.#writing === undefined) return;
    const descriptor = this.#file.descriptor ?? -1;
    for (const _ of this.#committing()) yield descriptor;
    yield descriptor;
    const releases = this.#releases;
    this.#releases = [];
    for (const offset of releases) this.#writing.refcounts.release(offset);
    this.#writing.refcounts.write();
  }

  lost(error: DiskError): void {
    this.#file.lost(error);
  }

  close(): void {
    try {
      this.flush();
    } finally {
      try {
        this.#file.close();
      } finally {
        this.#base?.close();
      }
    }
  }

  zeroes(offset: number): number {
    checkRange(this, offset, 0);
    if (offset === this.size) return 0;
    const within = offset % this.#clusterSize;
    const cluster = (offset - within) / this.#clusterSize;
    let length = this.#mapping.unmapped(cluster) * this.#clusterSize - within;
    if (length < 0) {
      length = this.#clusterSize - within;
      const kind = this.#mapping.lookup(cluster);
      if (kind !== UNALLOCATED) return kind === ZERO ? Math.min(length, this.size - offset) : 0;
    }
    length = Math.min(length, this.size - offset);
    const base = this.#base;
    if (base === undefined || offset >= base.size) return length;
    const known = base.zeroes(offset);
    return offset + known < base.size ? Math.min(length, known) : length;
  }

  /** In the middle of a request: a cache is full. */
  #commit(): void {
    this.beforeCommit?.();
    for (const _ of this.#committing()) this.#file.sync();
  }

  /**
   * Reference counts and data, then L2 tables, then the L1 table: what is named is durable. At each
   * yield the file must become so.
   */
  *#committing(): Generator<undefined, void> {
    this.#refcounts.write();
    if (!this.#mapping.dirty) return;
    yield;
    this.#mapping.writeTables();
    if (!this.#mapping.l1Dirty) return;
    yield;
    this.#mapping.writeL1();
  }

  locate(offset: number, length: number, writing: boolean, extent: Extent): void {
    checkRange(this, offset, length);
    const within = offset % this.#clusterSize;
    const cluster = (offset - within) / this.#clusterSize;
    const first = Math.min(this.#clusterSize - within, length);
    const mapping = this.#mapping;
    if (writing) {
      checkWritable(this);
      if (this.#autoclear) this.#clearFeatures();
    }
    const { descriptor } = this.#file;
    let kind = mapping.lookup(cluster);
    extent.length = first;
    extent.kind = ExtentKind.INDIRECT;
    if (descriptor === undefined) return;
    if (writing && !(kind === DATA && mapping.copied)) {
      if (!this.#allocateFor(cluster, within, first, kind)) return;
      kind = mapping.lookup(cluster);
    }
    if (kind === DATA) {
      const { host } = mapping;
      if (writing) this.#checkData(host);
      extent.length = this.#run(cluster, host, first, length, writing);
      extent.kind = ExtentKind.FILE;
      extent.descriptor = descriptor;
      extent.position = host + within;
    } else if (kind === ZERO) {
      extent.kind = ExtentKind.ZERO;
    } else if (kind === UNALLOCATED) {
      this.#locateInBase(offset, first, extent);
    }
  }

  #locateInBase(offset: number, length: number, extent: Extent): void {
    const there = Math.max(0, Math.min(length, (this.#base?.size ?? 0) - offset));
    if (there > 0) this.#base?.locate(offset, there, false, extent);
    else extent.kind = ExtentKind.ZERO;
  }

  /**
   * A new place for a cluster that is about to be written, in whole or so that the rest of the place
   * reads as the cluster did; false when it takes more than that.
   */
  #allocateFor(cluster: number, within: number, length: number, kind: ClusterKind): boolean {
    const whole = within === 0 && length === this.#clusterSize;
    const empty =
      kind === ZERO ||
      (kind === UNALLOCATED && cluster * this.#clusterSize >= (this.#base?.size ?? 0));
    const { host: old, copied } = this.#mapping;
    // A place that was used before keeps what was there; compressed ones are shared.
    if (kind === COMPRESSED || (kind === ZERO && old !== 0 && copied) || !(whole || empty)) {
      return false;
    }
    const host = this.#refcounts.allocate();
    if (!whole && !this.#refcounts.fresh) {
      this.#refcounts.release(host);
      return false;
    }
    try {
      this.#mapping.set(cluster, host);
    } catch (error) {
      this.#refcounts.release(host);
      throw error;
    }
    if (old !== 0) this.#releases.push(old);
    return true;
  }

  clear(offset: number, length: number, discard: boolean, extent: Extent): void {
    checkWritable(this);
    checkRange(this, offset, length);
    if (this.#autoclear) this.#clearFeatures();
    const within = offset % this.#clusterSize;
    const cluster = (offset - within) / this.#clusterSize;
    const end = Math.min(this.size, (cluster + 1) * this.#clusterSize);
    extent.length = Math.min(length, end - offset);
    extent.kind = ExtentKind.ZERO;
    const mapping = this.#mapping;
    const kind = mapping.lookup(cluster);
    const base = cluster * this.#clusterSize < (this.#base?.size ?? 0);
    if (kind === ZERO || (kind === UNALLOCATED && !base)) return;
    const whole = within === 0 && offset + extent.length === end;
    // Version 2 can't say that a cluster hides what its base has.
    if (!whole || (base && this.#header.version === 2)) {
      if (!discard) this.locate(offset, extent.length, true, extent);
      return;
    }
    const { host: old, length: oldLength } = mapping;
    mapping.unset(cluster, base);
    if (old === 0) return;
    if (kind !== COMPRESSED) this.#releases.push(old);
    else this.#releaseCompressed(old, oldLength);
    // A flush gives the clusters back; a discard of all of a large disk is many of them.
    if (this.#releases.length > RELEASES_MAX) this.beforeCommit?.();
    if (this.#releases.length > RELEASES_MAX) this.flush();
  }

  get #refcounts(): Refcounts {
    if (this.#writing === undefined) throw new DiskError(`${this.name}: the disk is read-only`);
    return this.#writing.refcounts;
  }

  /** Extends a request for the cluster at `host` while the file has the next clusters next to it. */
  #run(cluster: number, host: number, length: number, limit: number, forWrite: boolean): number {
    const mapping = this.#mapping;
    let run = length;
    for (let i = 1; run < limit; i++) {
      const next = host + i * this.#clusterSize;
      if (mapping.lookup(cluster + i) !== DATA || mapping.host !== next) break;
      if (forWrite && (!mapping.copied || this.#writing?.metadata.has(next))) break;
      run += Math.min(this.#clusterSize, limit - run);
    }
    return run;
  }

  /** A guest must never write the image's own structures. */
  #checkData(host: number): void {
    if (!this.#writing?.metadata.has(host)) return;
    throw new DiskError(`${this.name}: ${hex(host)} is data and a table at once: corrupt`);
  }

  /** Writes part of a cluster to a new place in the file, with the rest of what the cluster was. */
  #replace(
    cluster: number,
    within: number,
    bytes: Uint8Array,
    start: number,
    length: number,
  ): void {
    const mapping = this.#mapping;
    const { kind, host: old, length: oldLength } = mapping;
    const reuse = kind === ZERO && old !== 0 && mapping.copied;
    const whole = length === this.#clusterSize;
    const previous = whole ? undefined : this.#previous(cluster, kind);
    if (reuse) this.#checkData(old);
    const host = reuse ? old : this.#refcounts.allocate();
    const hole = !reuse && this.#refcounts.fresh;
    try {
      if (whole || (hole && previous === undefined)) {
        this.#file.write(host + within, bytes, start, length);
      } else {
        const scratch = (this.#scratch ??= new Uint8Array(this.#clusterSize));
        if (previous === undefined) scratch.fill(0);
        else if (previous !== scratch) scratch.set(previous);
        scratch.set(bytes.subarray(start, start + length), within);
        this.#file.write(host, scratch, 0, this.#clusterSize);
      }
      mapping.set(cluster, host);
    } catch (error) {
      if (!reuse) this.#refcounts.release(host);
      throw error;
    }
    if (reuse || old === 0) return;
    if (kind !== COMPRESSED) this.#releases.push(old);
    else this.#releaseCompressed(old, oldLength);
  }

  /** The cluster just looked up, as it reads; undefined if it is all zero. */
  #previous(cluster: number, kind: ClusterKind): Uint8Array | undefined {
    if (kind === ZERO) return undefined;
    if (kind === COMPRESSED) return this.#unpack();
    const start = cluster * this.#clusterSize;
    if (kind === UNALLOCATED && start >= (this.#base?.size ?? 0)) return undefined;
    const scratch = (this.#scratch ??= new Uint8Array(this.#clusterSize));
    if (kind === DATA) readPadded(this.#file, this.#mapping.host, scratch, 0, this.#clusterSize);
    else this.#readBase(start, scratch, 0, this.#clusterSize);
    return scratch;
  }

  #readBase(offset: number, into: Uint8Array, start: number, length: number): void {
    const there = Math.max(0, Math.min(length, (this.#base?.size ?? 0) - offset));
    if (there > 0) this.#base?.read(offset, into.subarray(start, start + there));
    into.fill(0, start + there, start + length);
  }

  /** The compressed cluster just looked up. */
  #unpack(): Uint8Array {
    const { host, length } = this.#mapping;
    if (this.#unpacked?.offset === host) return this.#unpacked.bytes;
    const packed = new Uint8Array(Math.min(length, this.#file.size - host));
    readPadded(this.#file, host, packed, 0, packed.length);
    const bytes = decompress(packed, this.#header.compression, this.#clusterSize);
    if (bytes === undefined) {
      throw new DiskError(`${this.name}: the compressed cluster at ${hex(host)} is damaged`);
    }
    this.#unpacked = { offset: host, bytes };
    return bytes;
  }

  /** Each compressed cluster is one use of every cluster of the file that its sectors lie in. */
  #releaseCompressed(host: number, length: number): void {
    this.#unpacked = undefined;
    const first = Math.floor(host / this.#clusterSize) * this.#clusterSize;
    for (let at = first; at < host + length; at += this.#clusterSize) this.#releases.push(at);
  }

  /** Bitmaps and whatever else this driver doesn't keep are no longer right once it writes. */
  #clearFeatures(): void {
    this.#file.write(AUTOCLEAR_FIELD, new Uint8Array(8), 0, 8);
    this.#file.sync();
    this.#autoclear = false;
  }
}
