/** For tests: images in memory, a record of what reached them, and QEMU's qemu-img. */
import { closeSync, ftruncateSync, openSync, writeSync } from "node:fs";
import { emptyQcow2 } from "./create.ts";
import type { HostFile } from "./host-file.ts";

const PAGE = 16384;

/** A file in memory. */
export class MemoryFile implements HostFile {
  readonly regular = true;
  readonly descriptor: number | undefined = undefined;
  /** A missing page is all zero. */
  #pages: (Uint8Array | undefined)[] = [];
  /** Pages that no clone has too. */
  #own = new Set<number>();
  #size = 0;

  constructor(
    readonly name: string,
    content: Uint8Array = new Uint8Array(),
  ) {
    this.#write(0, content);
  }

  /** A copy, at the cost of what is written to either. */
  clone(): MemoryFile {
    const copy = new MemoryFile(this.name);
    copy.#pages = this.#pages.slice();
    copy.#size = this.#size;
    this.#own.clear();
    return copy;
  }

  get size(): number {
    return this.#size;
  }

  /** A copy of its bytes. */
  content(): Uint8Array {
    const bytes = new Uint8Array(this.#size);
    this.read(0, bytes, 0, bytes.length);
    return bytes;
  }

  read(position: number, into: Uint8Array, start: number, length: number): number {
    const count = Math.max(0, Math.min(length, this.#size - position));
    for (let done = 0; done < count;) {
      const within = (position + done) % PAGE;
      const part = Math.min(PAGE - within, count - done);
      const page = this.#pages[(position + done - within) / PAGE];
      if (page === undefined) into.fill(0, start + done, start + done + part);
      else into.set(page.subarray(within, within + part), start + done);
      done += part;
    }
    return count;
  }

  write(position: number, from: Uint8Array, start: number, length: number): void {
    this.#write(position, from.subarray(start, start + length));
  }

  #write(position: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length;) {
      const within = (position + done) % PAGE;
      const part = Math.min(PAGE - within, bytes.length - done);
      const page = this.#ownPage((position + done - within) / PAGE);
      page.set(bytes.subarray(done, done + part), within);
      done += part;
    }
    this.#size = Math.max(this.#size, position + bytes.length);
  }

  #ownPage(index: number): Uint8Array {
    let page = this.#pages[index];
    if (page === undefined || !this.#own.has(index)) {
      page = page === undefined ? new Uint8Array(PAGE) : new Uint8Array(page);
      this.#pages[index] = page;
      this.#own.add(index);
    }
    return page;
  }

  resize(size: number): void {
    if (size < this.#size) throw new Error("no driver makes its file shorter");
    this.#size = size;
  }

  sync(): void {}

  lost(): void {}

  close(): void {}

  /** Writes it to the host, with holes. */
  save(path: string): void {
    const file = openSync(path, "w");
    ftruncateSync(file, this.#size);
    this.#pages.forEach((page, index) => {
      if (page === undefined) return;
      writeSync(file, page, 0, Math.min(PAGE, this.#size - index * PAGE), index * PAGE);
    });
    closeSync(file);
  }
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
    const bytes = new Uint8Array(from.subarray(start, start + length));
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
  // Nothing of a sanitizer's: QEMU's programs take minutes with AddressSanitizer, or don't end.
  const { exitCode, stdout, stderr } = Bun.spawnSync(command, { env: { PATH: process.env.PATH } });
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
