/**
 * The input of the run that is under way, in a file that is mapped: when a worker dies in a run or never
 * comes back from one, its parent reads there what did it. It costs a run nothing.
 */
import { readFileSync, writeFileSync } from "node:fs";

/** Bytes of the head: the input's length and a count of runs, 32 bits each. */
const HEAD = 8;

export interface Inflight {
  /** As long as inputs can be. */
  readonly input: Uint8Array;
  /** The input's length, and a number that differs from run to run. */
  readonly head: Uint32Array;
}

/** One that nobody else sees. */
export function privateInflight(capacity: number): Inflight {
  return { input: new Uint8Array(capacity), head: new Uint32Array(2) };
}

export function mapInflight(path: string, capacity: number): Inflight {
  writeFileSync(path, new Uint8Array(HEAD + capacity));
  const { buffer, byteOffset } = Bun.mmap(path, { shared: true });
  return {
    input: new Uint8Array(buffer, byteOffset + HEAD, capacity),
    head: new Uint32Array(buffer, byteOffset, 2),
  };
}

/** Undefined if no run has begun. */
export function readInflight(
  path: string,
): { readonly input: Uint8Array; readonly runs: number } | undefined {
  let file: Buffer;
  try {
    file = readFileSync(path);
  } catch {
    return undefined;
  }
  if (file.length < HEAD) return undefined;
  const [length, runs] = [file.readUInt32LE(0), file.readUInt32LE(4)];
  if (runs === 0 || HEAD + length > file.length) return undefined;
  return { input: new Uint8Array(file.subarray(HEAD, HEAD + length)), runs };
}
