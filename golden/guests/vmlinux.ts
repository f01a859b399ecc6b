// The ELF file inside a bzImage, kept beside it in the cache.

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { derive } from "./guest.ts";

/** Path of the vmlinux in a bzImage, extracted when it is asked for first. */
export const vmlinux = (bzImage: string) =>
  derive(join(dirname(bzImage), "vmlinux"), () => extractVmlinux(readFileSync(bzImage)));

function extractVmlinux(image: Buffer): Uint8Array {
  const setup = (image[0x1f1] || 4) * 512 + 512;
  const start = setup + image.readUInt32LE(0x248);
  const payload = image.subarray(start, start + image.readUInt32LE(0x24c));
  if (payload.readUInt32LE(0) !== 0x184c2102) throw new Error("the kernel is not packed with LZ4");
  const size = payload.readUInt32LE(payload.length - 4);
  const out = new Uint8Array(size);
  let to = 0;
  for (let at = 4; to < size;) {
    const length = payload.readUInt32LE(at);
    to = unpackBlock(payload.subarray(at + 4, at + 4 + length), out, to);
    at += 4 + length;
  }
  return out;
}

function unpackBlock(block: Uint8Array, out: Uint8Array, to: number): number {
  let at = 0;
  const longer = (length: number) => {
    if (length < 15) return length;
    let more: number;
    do length += more = block[at++];
    while (more === 255);
    return length;
  };
  while (at < block.length) {
    const token = block[at++];
    const literals = longer(token >> 4);
    out.set(block.subarray(at, at + literals), to);
    at += literals;
    to += literals;
    if (at >= block.length) break;
    const back = block[at] | (block[at + 1] << 8);
    at += 2;
    for (let left = longer(token & 15) + 4; left > 0; left--, to++) out[to] = out[to - back];
  }
  return to;
}
