/**
 * LZ4's legacy frame, in which Linux packs its kernel: a magic number, then blocks, each with its
 * packed size in front and at most 8 MiB unpacked.
 * Sources: LZ4 frame format ("Legacy frame") and LZ4 block format descriptions, lz4.org.
 */

import type { Bytes } from "./bytes.ts";

export const LZ4_LEGACY_MAGIC = 0x184c2102;
const MIN_MATCH = 4;
const MORE = 15;

/** Unpacks a legacy frame to exactly `size` bytes. Throws BootError when it has more or less. */
export function unpackLz4(file: Bytes, size: number): Uint8Array {
  const out = new Uint8Array(size);
  let written = 0;
  for (let at = 4; at < file.size;) {
    const length = file.u32(at, "LZ4 block size");
    const block = file.slice(at + 4, length, "LZ4 block");
    written = unpackBlock(file, block, out, written);
    at += 4 + length;
  }
  if (written !== size) throw file.error(`LZ4: unpacks to ${written} bytes instead of ${size}`);
  return out;
}

/** Appends a block's contents to out[0..to). Matches may reach into earlier blocks' output. */
function unpackBlock(file: Bytes, block: Uint8Array, out: Uint8Array, to: number): number {
  let at = 0;
  const damaged = () => file.error("LZ4: the data is damaged");
  const extended = (nibble: number) => {
    let length = nibble;
    if (nibble === MORE) {
      let byte: number;
      do {
        if (at >= block.length) throw damaged();
        byte = block[at++];
        length += byte;
      } while (byte === 255);
    }
    return length;
  };
  while (at < block.length) {
    const token = block[at++];
    const literals = extended(token >> 4);
    if (at + literals > block.length || to + literals > out.length) throw damaged();
    out.set(block.subarray(at, at + literals), to);
    at += literals;
    to += literals;
    // The last sequence of a block has literals only.
    if (at === block.length) break;
    if (at + 2 > block.length) throw damaged();
    const distance = block[at] | (block[at + 1] << 8);
    at += 2;
    const length = extended(token & 15) + MIN_MATCH;
    if (distance === 0 || distance > to || to + length > out.length) throw damaged();
    copyMatch(out, to, distance, length);
    to += length;
  }
  return to;
}

/** A match may overlap itself: then its first `distance` bytes repeat. */
function copyMatch(out: Uint8Array, to: number, distance: number, length: number): void {
  const end = to + length;
  for (let span = distance; to < end; span *= 2) {
    const count = Math.min(span, end - to);
    out.copyWithin(to, to - span, to - span + count);
    to += count;
  }
}
