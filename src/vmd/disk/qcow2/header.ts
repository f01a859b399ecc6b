/**
 * The header of a qcow2 image, every field checked. Source: QEMU, docs/interop/qcow2.txt, "Header"
 * and "Header extensions"; the limits on tables are QEMU's own.
 */
import { DiskError, hex } from "../error.ts";
import type { HostFile } from "../host-file.ts";

export const QCOW2_MAGIC = 0x514649fb;
const LENGTH_V2 = 72;
const LENGTH_V3 = 104;
const CLUSTER_BITS_MIN = 9;
const CLUSTER_BITS_MAX = 21;
/** Bytes. */
const L1_MAX = 2 ** 25;
export const REFCOUNT_TABLE_MAX = 2 ** 23;
const SNAPSHOTS_MAX = 65536;
/** A snapshot's entry has at least so many bytes. */
const SNAPSHOT_MIN = 40;
const BACKING_NAME_MAX = 1023;

const DIRTY = 0;
const CORRUPT = 1;
const EXTERNAL_DATA = 2;
const COMPRESSION_TYPE = 3;
const EXTENDED_L2 = 4;
const BITMAPS = 0;
const RAW_EXTERNAL_DATA = 1;

const EXTENSION_END = 0;
const EXTENSION_BACKING_FORMAT = 0xe2792aca;
const EXTENSION_FEATURE_NAMES = 0x6803f857;
const EXTENSION_BITMAPS = 0x23852875;
const EXTENSION_ENCRYPTION = 0x0537be77;
const FEATURE_NAME_LENGTH = 48;

/** Where the refcount table's place is in the header: u64 offset, u32 clusters. */
export const REFCOUNT_TABLE_FIELD = 48;
export const AUTOCLEAR_FIELD = 88;

export interface Qcow2Header {
  version: 2 | 3;
  clusterBits: number;
  /** Bytes. */
  clusterSize: number;
  /** Of the disk, bytes. */
  size: number;
  /** Where the active L1 table starts, and how many of its entries the disk's size needs. */
  l1Offset: number;
  l1Entries: number;
  refcountTableOffset: number;
  refcountTableClusters: number;
  /** A reference count has 1 << refcountOrder bits. */
  refcountOrder: number;
  /** Reference counts may be wrong. */
  dirty: boolean;
  /** Some auto-clear feature is set: a writer that doesn't know it clears it. */
  autoclear: boolean;
  compression: "zlib" | "zstd";
  /** The image that this one is based on, as written in it; `format` where that is written too. */
  backing: { name: string; format: string | undefined } | undefined;
}

/** The fields of the first cluster, big-endian; each accessor names the field in its error. */
class Fields {
  readonly view: DataView;

  constructor(
    readonly file: HostFile,
    readonly bytes: Uint8Array,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  error(field: string, sentence: string): DiskError {
    return new DiskError(`${this.file.name}: ${field}: ${sentence}`);
  }

  u32(offset: number): number {
    return this.view.getUint32(offset);
  }

  /** A size or an offset: at most 2^53 - 1. */
  u64(offset: number, field: string): number {
    const value = this.u32(offset) * 2 ** 32 + this.u32(offset + 4);
    if (!Number.isSafeInteger(value)) throw this.error(field, `${hex(value)} is too large`);
    return value;
  }

  /** The numbers of the bits set in a 64-bit field. */
  bits(offset: number): number[] {
    const high = this.u32(offset);
    const low = this.u32(offset + 4);
    const isSet = (bit: number) => ((bit < 32 ? low : high) >>> (bit % 32)) & 1;
    return Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => isSet(bit));
  }

  /** Throws unless a table at a cluster boundary lies in the file's clusters. */
  table(field: string, offset: number, length: number, clusterSize: number): void {
    if (offset % clusterSize !== 0) {
      throw this.error(field, `${hex(offset)} is no multiple of the cluster size`);
    }
    if (length === 0) return;
    if (offset === 0) throw this.error(field, "the table overlaps the header");
    if (offset + length > Math.ceil(this.file.size / clusterSize) * clusterSize) {
      throw this.error(field, `${hex(offset)} + ${hex(length)} reaches beyond the end of the file`);
    }
  }
}

/** Reads and checks the header. @throws DiskError that names the file and the field. */
export function readHeader(file: HostFile): Qcow2Header {
  const fixed = new Fields(file, new Uint8Array(LENGTH_V3 + 8));
  const length = file.read(0, fixed.bytes, 0, fixed.bytes.length);
  if (length < LENGTH_V2) throw fixed.error("header", "the file is too short");
  if (fixed.u32(0) !== QCOW2_MAGIC) throw fixed.error("magic", "not a qcow2 image");
  const version = fixed.u32(4);
  if (version !== 2 && version !== 3) throw fixed.error("version", `${version} is not 2 or 3`);
  const clusterBits = fixed.u32(20);
  if (clusterBits < CLUSTER_BITS_MIN || clusterBits > CLUSTER_BITS_MAX) {
    const range = `${CLUSTER_BITS_MIN} to ${CLUSTER_BITS_MAX}`;
    throw fixed.error("cluster_bits", `${clusterBits} is not ${range}`);
  }
  const clusterSize = 2 ** clusterBits;
  const headerLength = version === 2 ? LENGTH_V2 : fixed.u32(100);
  if (version === 3) {
    if (headerLength < LENGTH_V3 || headerLength > clusterSize || headerLength % 8 !== 0) {
      throw fixed.error("header_length", `${headerLength} is no length of a header`);
    }
  }
  const cluster = new Uint8Array(Math.min(clusterSize, file.size));
  const whole = new Fields(file, cluster.subarray(0, file.read(0, cluster, 0, cluster.length)));
  if (headerLength > whole.bytes.length) throw fixed.error("header_length", "the file is shorter");
  const backing = backingName(whole, headerLength, clusterSize);
  const extensions = readExtensions(whole, headerLength, backing?.start ?? whole.bytes.length);
  const features = version === 3 ? readFeatures(fixed, extensions, headerLength) : undefined;
  const method = fixed.u32(32);
  if (method !== 0 || extensions.encryption) {
    const name = ["", "AES", "LUKS"][method] || `method ${method}`;
    throw fixed.error("crypt_method", `encrypted images (${name}) aren't supported`);
  }
  const refcountOrder = version === 3 ? fixed.u32(96) : 4;
  if (refcountOrder > 6) throw fixed.error("refcount_order", `${refcountOrder} is more than 6`);
  return {
    version,
    clusterBits,
    clusterSize,
    ...readTables(fixed, clusterSize),
    refcountOrder,
    dirty: features?.dirty ?? false,
    autoclear: features?.autoclear ?? false,
    compression: features?.compression ?? "zlib",
    backing: backing && { name: backing.name, format: extensions.backingFormat },
  };
}

function readTables(fields: Fields, clusterSize: number) {
  const size = fields.u64(24, "size");
  const l1Size = fields.u32(36);
  const l1Offset = fields.u64(40, "l1_table_offset");
  const l1Entries = l1EntriesFor(size, clusterSize);
  if (l1Size * 8 > L1_MAX) throw fields.error("l1_size", `${l1Size} is too large`);
  if (l1Size < l1Entries) {
    throw fields.error("l1_size", `${l1Size} is too small for a disk of ${size} bytes`);
  }
  fields.table("l1_table_offset", l1Offset, l1Size * 8, clusterSize);
  const refcountTableOffset = fields.u64(REFCOUNT_TABLE_FIELD, "refcount_table_offset");
  const refcountTableClusters = fields.u32(REFCOUNT_TABLE_FIELD + 8);
  const refcountTableLength = refcountTableClusters * clusterSize;
  if (refcountTableClusters === 0 || refcountTableLength > REFCOUNT_TABLE_MAX) {
    throw fields.error("refcount_table_clusters", `${refcountTableClusters} is out of range`);
  }
  fields.table("refcount_table_offset", refcountTableOffset, refcountTableLength, clusterSize);
  const snapshots = fields.u32(60);
  if (snapshots > SNAPSHOTS_MAX) throw fields.error("nb_snapshots", `${snapshots} is too large`);
  const snapshotsOffset = fields.u64(64, "snapshots_offset");
  fields.table("snapshots_offset", snapshotsOffset, snapshots * SNAPSHOT_MIN, clusterSize);
  return { size, l1Offset, l1Entries, refcountTableOffset, refcountTableClusters };
}

/** Entries of an L1 table for a disk of `size` bytes. */
export function l1EntriesFor(size: number, clusterSize: number): number {
  return Math.ceil(size / (clusterSize * (clusterSize / 8)));
}

/** Throws unless QEMU and this driver can address a disk of `size` bytes. */
export function checkSize(name: string, size: number, clusterSize: number): void {
  if (l1EntriesFor(size, clusterSize) * 8 > L1_MAX) {
    throw new DiskError(`${name}: size: ${size} bytes are too many for qcow2`);
  }
}

function backingName(fields: Fields, headerLength: number, clusterSize: number) {
  const start = fields.u64(8, "backing_file_offset");
  if (start === 0) return undefined;
  const length = fields.u32(16);
  if (start < headerLength || start + length > clusterSize) {
    throw fields.error("backing_file_offset", `${hex(start)} is not in the header's cluster`);
  }
  if (length === 0 || length > BACKING_NAME_MAX) {
    throw fields.error("backing_file_size", `${length} is not 1 to ${BACKING_NAME_MAX}`);
  }
  if (start + length > fields.bytes.length) {
    throw fields.error("backing_file_offset", "the name reaches beyond the end of the file");
  }
  const bytes = fields.bytes.subarray(start, start + length);
  let name: string;
  try {
    name = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw fields.error("backing file name", "not UTF-8");
  }
  if (name.includes("\0")) throw fields.error("backing file name", "has a NUL in it");
  return { start, name };
}

interface Extensions {
  backingFormat: string | undefined;
  bitmaps: boolean;
  encryption: boolean;
  /** Names of incompatible features, by bit. */
  featureNames: Map<number, string>;
}

function readExtensions(fields: Fields, start: number, end: number): Extensions {
  const extensions: Extensions = {
    backingFormat: undefined,
    bitmaps: false,
    encryption: false,
    featureNames: new Map(),
  };
  for (let at = start; at + 8 <= end;) {
    const type = fields.u32(at);
    const length = fields.u32(at + 4);
    if (type === EXTENSION_END) break;
    if (at + 8 + length > end) {
      throw fields.error(`header extension ${hex(type)}`, `its length, ${length}, is too large`);
    }
    const data = fields.bytes.subarray(at + 8, at + 8 + length);
    if (type === EXTENSION_BACKING_FORMAT) extensions.backingFormat = ascii(data);
    else if (type === EXTENSION_BITMAPS) extensions.bitmaps = true;
    else if (type === EXTENSION_ENCRYPTION) extensions.encryption = true;
    else if (type === EXTENSION_FEATURE_NAMES) {
      for (let i = 0; i + FEATURE_NAME_LENGTH <= data.length; i += FEATURE_NAME_LENGTH) {
        if (data[i] !== 0) continue;
        extensions.featureNames.set(data[i + 1], ascii(data.subarray(i + 2, i + 48)));
      }
    }
    at += 8 + Math.ceil(length / 8) * 8;
  }
  return extensions;
}

/** Text up to a NUL, at most 64 characters, fit for a terminal. */
function ascii(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  const text = bytes.subarray(0, Math.min(end < 0 ? bytes.length : end, 64));
  return String.fromCharCode(...text).replace(/[^\x20-\x7e]/g, "?");
}

function readFeatures(fields: Fields, extensions: Extensions, headerLength: number) {
  const incompatible = fields.bits(72);
  const field = "incompatible_features";
  for (const bit of incompatible) {
    if (bit === DIRTY || bit === COMPRESSION_TYPE) continue;
    if (bit === CORRUPT) throw fields.error(field, "the image is marked as corrupt");
    if (bit === EXTERNAL_DATA) throw fields.error(field, "external data files aren't supported");
    if (bit === EXTENDED_L2) throw fields.error(field, "extended L2 entries aren't supported");
    const name = extensions.featureNames.get(bit);
    throw fields.error(field, `bit ${bit} (${name ?? "nameless"}) is not a known feature`);
  }
  const autoclear = fields.bits(AUTOCLEAR_FIELD);
  if (autoclear.includes(BITMAPS) && !extensions.bitmaps) {
    throw fields.error("autoclear_features", "bitmaps without the bitmaps extension");
  }
  if (autoclear.includes(RAW_EXTERNAL_DATA)) {
    throw fields.error("autoclear_features", "raw external data without an external data file");
  }
  const type = headerLength > LENGTH_V3 ? fields.bytes[LENGTH_V3] : 0;
  if (incompatible.includes(COMPRESSION_TYPE) !== type > 0 || type > 1) {
    throw fields.error("compression_type", `${type} is unknown or contradicts the feature bits`);
  }
  return {
    dirty: incompatible.includes(DIRTY),
    autoclear: autoclear.length > 0,
    compression: type === 1 ? ("zstd" as const) : ("zlib" as const),
  };
}

/** What a new image's header says; all of it is version 3 with 16-bit reference counts. */
export interface NewHeader {
  clusterBits: number;
  size: number;
  l1Offset: number;
  refcountTableOffset: number;
  refcountTableClusters: number;
  backing?: { name: string; format: string };
}

/** The header and its extensions, as many bytes as they need. @throws DiskError */
export function headerBytes(file: string, header: NewHeader): Uint8Array {
  const clusterSize = 2 ** header.clusterBits;
  const bytes = new Uint8Array(clusterSize);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, QCOW2_MAGIC);
  view.setUint32(4, 3);
  view.setUint32(20, header.clusterBits);
  view.setBigUint64(24, BigInt(header.size));
  view.setUint32(36, l1EntriesFor(header.size, clusterSize));
  view.setBigUint64(40, BigInt(header.l1Offset));
  view.setBigUint64(REFCOUNT_TABLE_FIELD, BigInt(header.refcountTableOffset));
  view.setUint32(REFCOUNT_TABLE_FIELD + 8, header.refcountTableClusters);
  view.setUint32(96, 4);
  view.setUint32(100, LENGTH_V3);
  let at = LENGTH_V3;
  if (header.backing !== undefined) {
    const format = new TextEncoder().encode(header.backing.format);
    view.setUint32(at, EXTENSION_BACKING_FORMAT);
    view.setUint32(at + 4, format.length);
    bytes.set(format, at + 8);
    at += 8 + Math.ceil(format.length / 8) * 8;
  }
  at += 8; // the end of the extensions is all zeroes
  if (header.backing !== undefined) {
    const name = new TextEncoder().encode(header.backing.name);
    if (name.length > BACKING_NAME_MAX || at + name.length > clusterSize) {
      throw new DiskError(`${file}: the base's name is too long`, "ENAMETOOLONG");
    }
    view.setUint32(12, at);
    view.setUint32(16, name.length);
    bytes.set(name, at);
    at += name.length;
  }
  return bytes.subarray(0, at);
}
