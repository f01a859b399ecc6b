/** For tests: images in memory, a record of what reached them, and QEMU's qemu-img. */
import { emptyQcow2 } from "./create.ts";
import type { HostFile } from "./host-file.ts";

/** A file in memory. */
export class MemoryFile implements HostFile {
  readonly regular = true;
  #bytes: Uint8Array;
  #size: number;

  constructor(
    readonly name: string,
    content: Uint8Array = new Uint8Array(),
  ) {
    this.#bytes = content.slice();
    this.#size = content.length;
  }

  get size(): number {
    return this.#size;
  }

  /** A copy of the file. */
  content(): Uint8Array {
    return this.#bytes.slice(0, this.#size);
  }

  read(position: number, into: Uint8Array, start: number, length: number): number {
    const count = Math.max(0, Math.min(length, this.#size - position));
    into.set(this.#bytes.subarray(position, position + count), start);
    return count;
  }

  write(position: number, from: Uint8Array, start: number, length: number): void {
    if (position + length > this.#size) this.#grow(position + length);
    this.#bytes.set(from.subarray(start, start + length), position);
  }

  resize(size: number): void {
    this.#grow(size);
  }

  #grow(size: number): void {
    if (size > 2 ** 28) throw new Error(`a test's file grew to ${size} bytes`);
    if (size > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(size, this.#bytes.length * 2));
      larger.set(this.#bytes.subarray(0, this.#size));
      this.#bytes = larger;
    } else if (size < this.#size) this.#bytes.fill(0, size, this.#size);
    this.#size = size;
  }

  sync(): void {}

  close(): void {}
}

/** What a driver did to its file; `mark` is a note of the test's own. */
export type Operation =
  | { kind: "write"; position: number; bytes: Uint8Array }
  | { kind: "resize"; size: number }
  | { kind: "sync" }
  | { kind: "mark"; note: number };

/** A file in memory that keeps a record. */
export class RecordingFile extends MemoryFile {
  readonly operations: Operation[] = [];

  override write(position: number, from: Uint8Array, start: number, length: number): void {
    const bytes = from.slice(start, start + length);
    this.operations.push({ kind: "write", position, bytes });
    super.write(position, from, start, length);
  }

  override resize(size: number): void {
    this.operations.push({ kind: "resize", size });
    super.resize(size);
  }

  override sync(): void {
    this.operations.push({ kind: "sync" });
  }

  mark(note: number): void {
    this.operations.push({ kind: "mark", note });
  }
}

/** An empty qcow2 image in memory. */
export function emptyImage(
  size: number,
  clusterBits: number,
  backing?: { name: string; format: string },
): Uint8Array {
  const { length, writes } = emptyQcow2("test", size, { backing, clusterBits });
  const bytes = new Uint8Array(length);
  for (const write of writes) bytes.set(write.bytes, write.at);
  return bytes;
}

/** Marsaglia's xorshift32: numbers below `limit`, the same for the same seed. */
export function random(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % limit;
  };
}

export const qemuMissing =
  Bun.which("qemu-img") === null ? "there is no qemu-img (Debian: qemu-utils)" : undefined;

function qemu(command: string[], allowed: readonly number[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(command);
  const output = `${stdout.toString()}${stderr.toString()}`;
  if (allowed.includes(exitCode)) return output;
  throw new Error(`${command.join(" ")}: status ${exitCode}\n${output}`);
}

/** Runs qemu-img; throws with its output unless its status is one of `allowed`. */
export function qemuImg(args: string[], allowed: readonly number[] = [0]): string {
  return qemu(["qemu-img", ...args], allowed);
}

/** Has qemu-io do one command on a qcow2 image. */
export function qemuIo(path: string, command: string): string {
  return qemu(["qemu-io", "-f", "qcow2", "-c", command, path], [0]);
}

/** qemu-img check's status where the image is right but for clusters that nobody uses. */
export const LEAKS = 3;
