/** Images without a name: they go with the last process that has them open. */
import { ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { emptyQcow2 } from "./create.ts";
import { readHeader } from "./qcow2/header.ts";
import { DescriptorFile } from "./host-file.ts";
import type { DiskFile } from "./open.ts";

const CLUSTER_BITS = 16;

/** The disk's size, bytes, in the first of some open images. @throws DiskError */
export function sizeOfImage([{ name, descriptor, format }]: readonly DiskFile[]): number {
  const file = new DescriptorFile(name, descriptor);
  return format === "qcow2" ? readHeader(file).size : file.size;
}

/**
 * A new qcow2 image of a disk of `size` bytes, on a base.
 * @returns its descriptor
 * @throws an errno error
 */
export function scratchImage(size: number, backing: { name: string; format: string }): number {
  const folder = mkdtempSync(join(tmpdir(), "vmd-scratch-"));
  try {
    const descriptor = openSync(join(folder, "image"), "wx+", 0o600);
    const { length, writes } = emptyQcow2("scratch", size, { backing, clusterBits: CLUSTER_BITS });
    ftruncateSync(descriptor, length);
    for (const { at, bytes } of writes) writeSync(descriptor, bytes, 0, bytes.length, at);
    return descriptor;
  } finally {
    rmSync(folder, { recursive: true });
  }
}
