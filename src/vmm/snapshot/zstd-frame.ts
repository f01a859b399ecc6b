/**
 * Looks at a zstd frame before it is decompressed (RFC 8878, 3.1.1): a small one may say that it
 * holds gigabytes.
 */

const MAGIC = 0xfd2fb528;
/** Bytes that a block may decompress to at most. */
const BLOCK_MAX = 128 * 1024;
/** What the blocks of a frame could hold together, at the utmost: few of them are that full. */
const MOST = 64 * 2 ** 20;
const RAW = 0;
const RLE = 1;
const COMPRESSED = 2;

/** Whether `bytes` are one frame, and nothing else, that says it holds `size` bytes. */
export function isFrameOf(bytes: Uint8Array, size: number): boolean {
  if (bytes.length < 9) return false;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0, true) !== MAGIC) return false;
  const descriptor = bytes[4];
  const single = (descriptor & 0x20) !== 0;
  // Reserved; dictionaries are not used.
  if ((descriptor & 0x08) !== 0 || (descriptor & 3) !== 0) return false;
  const checksum = (descriptor & 4) !== 0 ? 4 : 0;
  const field = [single ? 1 : 0, 2, 4, 8][descriptor >> 6];
  let at = 5 + (single ? 0 : 1);
  if (at + field > bytes.length) return false;
  const content = contentSize(view, at, field);
  if (content !== size) return false;
  at += field;
  let most = 0;
  for (;;) {
    if (at + 3 > bytes.length) return false;
    const header = bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16);
    at += 3;
    const kind = (header >> 1) & 3;
    const length = header >>> 3;
    if (kind > COMPRESSED) return false;
    most += kind === COMPRESSED ? BLOCK_MAX : length;
    at += kind === RLE ? 1 : length;
    if (kind === RAW && length > BLOCK_MAX) return false;
    // Compressed blocks may hold less than they could, so this is no exact measure.
    if (at > bytes.length || most > MOST) return false;
    if ((header & 1) !== 0) break;
  }
  return at + checksum === bytes.length;
}

/** -1: it isn't said, or no such number is. */
function contentSize(view: DataView, at: number, field: number): number {
  switch (field) {
    case 1:
      return view.getUint8(at);
    case 2:
      return view.getUint16(at, true) + 256;
    case 4:
      return view.getUint32(at, true);
    case 8:
      return Number(view.getBigUint64(at, true));
    default:
      return -1;
  }
}
