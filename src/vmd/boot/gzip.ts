/**
 * Kernels compressed by gzip, unpacked within a limit. Source: RFC 1952.
 *
 * The container is read here, so that damage, a cut-off file and trailing bytes each become a
 * sentence; the deflate streams go to zlib.
 */

import { BootError, Bytes, hex, size as text } from "./bytes.ts";

const FHCRC = 2;
const FEXTRA = 4;
const FNAME = 8;
const FCOMMENT = 16;
const RESERVED = 0xe0;
/** Members in one file (`cat a.gz b.gz`): a kernel has one, and each costs a zlib stream. */
const MEMBERS_MAX = 16;

/** Loaded for a file that is packed: for all others it would cost a VM's start 15 ms. */
const zlib = () => process.getBuiltinModule("node:zlib");

export function isGzip(file: Bytes): boolean {
  return file.size >= 2 && file.u16(0, "magic") === 0x8b1f;
}

/**
 * Unpacks a gzip file of one or more members to at most `limit` bytes. Trailing zeroes are padding;
 * anything else after the last member is an error, as are wrong checksums. Throws BootError.
 */
export function gunzip(file: Bytes, limit: number): Uint8Array {
  const parts: Uint8Array[] = [];
  let total = 0;
  let offset = 0;
  do {
    if (parts.length === MEMBERS_MAX) throw file.error(`gzip: more than ${MEMBERS_MAX} members`);
    const data = memberData(file, offset);
    const { bytes, used } = inflate(file, data, limit - total, limit);
    offset = data + used;
    if (file.u32(offset, "gzip CRC32") !== zlib().crc32(bytes)) {
      throw file.error("gzip: wrong checksum: the file is damaged");
    }
    if (file.u32(offset + 4, "gzip ISIZE") !== bytes.length % 2 ** 32) {
      throw file.error("gzip: wrong length: the file is damaged");
    }
    offset += 8;
    parts.push(bytes);
    total += bytes.length;
  } while (offset + 2 <= file.size && file.u16(offset, "magic") === 0x8b1f);
  const rest = file.data.subarray(offset);
  if (rest.some((byte) => byte !== 0)) {
    throw file.error(`gzip: ${text(rest.length)} after the compressed data are not gzip`);
  }
  return parts.length === 1 ? parts[0] : new Uint8Array(Buffer.concat(parts));
}

/** File offset of a member's deflate stream: after its header and the header's optional fields. */
function memberData(file: Bytes, start: number): number {
  const method = file.u8(start + 2, "gzip CM");
  if (method !== 8) throw file.error(`gzip: compression method ${method} is not deflate`);
  const flags = file.u8(start + 3, "gzip FLG");
  if (flags & RESERVED) throw file.error(`gzip: reserved flags are set: ${hex(flags)}`);
  let offset = start + 10;
  if (flags & FEXTRA) offset += 2 + file.u16(offset, "gzip XLEN");
  for (const flag of [FNAME, FCOMMENT]) {
    if ((flags & flag) === 0) continue;
    const end = file.data.indexOf(0, offset);
    if (end < 0) throw file.error("gzip: the file ends within its header");
    offset = end + 1;
  }
  if (flags & FHCRC) offset += 2;
  file.check(offset, 1, "gzip data");
  return offset;
}

interface Inflated {
  bytes: Uint8Array;
  /** Length of the compressed stream. */
  used: number;
}

function inflate(file: Bytes, start: number, room: number, limit: number): Inflated {
  try {
    const options = { maxOutputLength: Math.max(room, 1), info: true };
    const result = zlib().inflateRawSync(file.data.subarray(start), options) as unknown as {
      buffer: Buffer;
      engine: { bytesWritten: number };
    };
    const { buffer, engine } = result;
    const bytes = new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.length);
    return { bytes, used: engine.bytesWritten };
  } catch (error) {
    throw new BootError(`${file.name}: gzip: ${reason(error as { code?: string }, limit)}`);
  }
}

function reason(error: { code?: string; message?: string }, limit: number): string {
  if (error.code === "ERR_BUFFER_TOO_LARGE") {
    return `unpacks to more than ${text(limit)}, which is the limit for this machine`;
  }
  if (error.code === "Z_BUF_ERROR") return "the file is cut off";
  return `the file is damaged (${error.message})`;
}
