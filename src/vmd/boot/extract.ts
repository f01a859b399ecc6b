/**
 * The vmlinux inside a bzImage, for those who want to skip unpacking in the guest.
 * Source: Documentation/arch/x86/boot.rst (payload_offset, payload_length).
 */

import { Bytes, size as text } from "./bytes.ts";
import { gunzip } from "./gzip.ts";
import { readSetupHeader } from "./linux.ts";
import { LZ4_LEGACY_MAGIC, unpackLz4 } from "./lz4.ts";

/** Deflate's limit; a kernel shrinks to a quarter. Keeps a wrong size from costing memory. */
const RATIO_MAX = 1032;
/** No vmlinux without debugging information is larger. In bytes. */
const VMLINUX_MAX = 2 ** 29;
const ZSTD_MAGIC = 0xfd2fb528;
/** First bytes, as a little-endian number, of what can't be unpacked here. */
const UNSUPPORTED: [mask: number, magic: number, name: string][] = [
  [0xffffffff, 0x587a37fd, "xz"],
  [0xffffff, 0x685a42, "bzip2"],
  [0xffffff, 0x00005d, "LZMA"],
  [0xffffffff, 0x4f5a4c89, "LZO"],
];

/**
 * Unpacks the ELF file in a bzImage packed with gzip, LZ4 or zstd; for relocatable kernels their
 * relocations follow it. `name` is for sentences. Throws BootError.
 */
export function extractVmlinux(bzImage: Uint8Array, name = "bzImage"): Uint8Array {
  const file = new Bytes(name, bzImage);
  const { payloadOffset, payloadSize } = readSetupHeader(file);
  if (payloadSize < 8) throw file.error("payload_length: there is no packed kernel in this file");
  const bytes = file.slice(payloadOffset, payloadSize, "payload_length");
  const payload = new Bytes(`${name}: payload`, bytes, "the payload");
  // The build appends the unpacked size, except for gzip, whose last field is the same number.
  const size = payload.u32(payloadSize - 4, "unpacked size");
  if (size > Math.min(VMLINUX_MAX, payloadSize * RATIO_MAX)) {
    throw payload.error(`the unpacked size, ${text(size)}, is too large for ${text(payloadSize)}`);
  }
  const vmlinux = unpack(payload, size);
  if (vmlinux.length !== size) {
    throw payload.error(`unpacks to ${vmlinux.length} bytes instead of ${size}`);
  }
  return vmlinux;
}

function unpack(payload: Bytes, size: number): Uint8Array {
  const magic = payload.u32(0, "magic");
  const packed = new Bytes(payload.name, payload.data.subarray(0, payload.size - 4), "the payload");
  if ((magic & 0xffff) === 0x8b1f) return gunzip(payload, size);
  if (magic === LZ4_LEGACY_MAGIC) return unpackLz4(packed, size);
  if (magic === ZSTD_MAGIC) return unzstd(packed, size);
  for (const [mask, value, name] of UNSUPPORTED) {
    if ((magic & mask) >>> 0 === value) {
      throw payload.error(`packed with ${name}, which can't be unpacked here`);
    }
  }
  throw payload.error("packed in an unknown way");
}

function unzstd(packed: Bytes, size: number): Uint8Array {
  try {
    const { buffer, byteOffset, length } = process
      .getBuiltinModule("node:zlib")
      .zstdDecompressSync(packed.data, {
        maxOutputLength: Math.max(size, 1),
      });
    return new Uint8Array(buffer, byteOffset, length);
  } catch (error) {
    throw packed.error(`zstd: ${(error as Error).message}`);
  }
}
