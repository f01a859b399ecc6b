/**
 * Compressed clusters. Their length is known to the sector only: the stream ends where it says so,
 * and what follows belongs to others. Sources: QEMU, docs/interop/qcow2.txt, "Compressed Clusters
 * Descriptor"; RFC 1951; RFC 8878, section 3.1.1.
 */
import { constants, inflateRawSync, zstdDecompressSync } from "node:zlib";

const ZSTD_MAGIC = 0xfd2fb528;
/** RFC 8878 asks decoders for no more; frames that need more memory are refused. */
const ZSTD_WINDOW_MAX = 2 ** 23;
/** A block's type in its header. */
const RLE = 1;

/** The cluster that `bytes` begin with; undefined if they are damaged. */
export function decompress(
  bytes: Uint8Array,
  compression: "zlib" | "zstd",
  clusterSize: number,
): Uint8Array | undefined {
  try {
    const options = { maxOutputLength: clusterSize };
    const cluster =
      compression === "zlib"
        ? inflateRawSync(bytes, { ...options, finishFlush: constants.Z_SYNC_FLUSH })
        : zstdDecompressSync(zstdFrame(bytes), options);
    return cluster.length === clusterSize ? cluster : undefined;
  } catch {
    return undefined;
  }
}

/** The first frame alone: zstd refuses what may follow it. @throws RangeError */
function zstdFrame(bytes: Uint8Array): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0, true) !== ZSTD_MAGIC) throw new RangeError("no zstd frame");
  const descriptor = view.getUint8(4);
  const single = (descriptor >> 5) & 1;
  let at = 5;
  if (!single) {
    const window = view.getUint8(at++);
    const base = 2 ** (10 + (window >> 3));
    if (base + (base / 8) * (window & 7) > ZSTD_WINDOW_MAX) throw new RangeError("window");
  }
  at += [0, 1, 2, 4][descriptor & 3];
  at += [single, 2, 4, 8][descriptor >> 6];
  for (let last = 0; last === 0;) {
    const header = view.getUint16(at, true) | (view.getUint8(at + 2) << 16);
    last = header & 1;
    at += 3 + (((header >> 1) & 3) === RLE ? 1 : header >> 3);
  }
  if (descriptor & 4) at += 4;
  if (at > bytes.length) throw new RangeError("cut off");
  return bytes.subarray(0, at);
}
