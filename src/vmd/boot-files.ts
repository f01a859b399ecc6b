/**
 * Reads the files that a VM's options name, and boots a machine with them.
 *
 * Kernels are large beside the process that runs them, so they are read into mappings of their own,
 * which are given back as soon as they are in the guest: the heap would keep their pages.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { basename } from "node:path";
import { check, hostBuffer, hostLibrary } from "../vmm/native.ts";
import { type Boot, type BootModule, loadKernel, romRange } from "./boot/index.ts";
import type { ClassicMachine } from "./machine.ts";
import type { VmOptions } from "./vm.ts";

/** No file is larger than the largest ArrayBuffer. */
const LARGEST = 2 ** 32;

/** A file that can't be read, in one sentence. */
export class FileError extends Error {
  override name = "FileError";
}

const REASONS: Record<string, string> = {
  ENOENT: "no such file",
  EISDIR: "is a directory",
  EACCES: "permission denied",
};

/** A file's bytes, until it is disposed of. */
class MappedFile implements Disposable {
  readonly bytes: Uint8Array;
  readonly #address: number;
  readonly #size: number;

  /** @throws FileError */
  constructor(path: string) {
    let file: number | undefined;
    try {
      // Not to wait for the other end of a pipe, which isn't taken anyway.
      file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      const status = fstatSync(file);
      if (status.isDirectory()) throw new FileError(`${path}: is a directory`);
      if (!status.isFile()) throw new FileError(`${path}: not a regular file`);
      if (status.size > LARGEST) throw new FileError(`${path}: larger than 4 GiB`);
      this.#size = Math.max(1, status.size);
      this.#address = check(path, hostLibrary().vmm_memory_map(this.#size, this.#size));
      const buffer = new Uint8Array(hostBuffer(this.#address, this.#size));
      let length = 0;
      while (length < status.size) {
        const count = readSync(file, buffer, length, status.size - length, length);
        if (count === 0) break; // it became shorter
        length += count;
      }
      this.bytes = buffer.subarray(0, length);
    } catch (error) {
      if (error instanceof FileError) throw error;
      const code = (error as NodeJS.ErrnoException).code ?? String(error);
      throw new FileError(`${path}: ${REASONS[code] ?? code}`);
    } finally {
      if (file !== undefined) closeSync(file);
    }
  }

  /** No view of the bytes may be used afterwards. */
  [Symbol.dispose](): void {
    hostLibrary().vmm_memory_unmap(this.#address, this.#size);
  }
}

/** What a VM boots from. */
export class BootFiles implements Disposable {
  readonly #options: VmOptions;
  readonly #files = new DisposableStack();
  readonly #kernel: Uint8Array;

  /** Opens the kernel. @throws FileError */
  constructor(options: VmOptions) {
    this.#options = options;
    this.#kernel = this.#read(options.kernel);
  }

  /** The ROM that the machine must have; undefined for none. */
  get rom(): { base: number; size: number } | undefined {
    return romRange(this.#kernel, this.#options.format);
  }

  /** Loads everything into a machine just reset. @throws BootError, FileError */
  load(machine: ClassicMachine): Boot {
    const { kernel, initrd, cmdline, modules, format, bits, virtualTime } = this.#options;
    const boot = loadKernel({
      name: basename(kernel),
      kernel: this.#kernel,
      initrd: initrd === undefined ? undefined : this.#read(initrd),
      cmdline,
      modules: modules?.map((module) => this.#module(module)),
      format,
      bits,
      random: virtualTime ? repeatable() : undefined,
      memory: machine.memory,
      e820: machine.e820,
    });
    if (boot.rom !== undefined) machine.memory.placeRom(boot.rom.base, boot.rom.bytes);
    return boot;
  }

  #read(path: string): Uint8Array {
    return this.#files.use(new MappedFile(path)).bytes;
  }

  #module(specification: string): BootModule {
    const space = specification.indexOf(" ");
    const path = space < 0 ? specification : specification.slice(0, space);
    const args = space < 0 ? undefined : specification.slice(space + 1);
    return { name: basename(path), data: this.#read(path), args };
  }

  /** Gives the files back; what `load` returned stays. */
  [Symbol.dispose](): void {
    this.#files.dispose();
  }
}

// Runs that repeat need the same "random" bytes: Marsaglia's xorshift32.
function repeatable(): (into: Uint8Array) => void {
  let state = 0x9e3779b9;
  return (into) => {
    for (let i = 0; i < into.length; i++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      into[i] = state;
    }
  };
}
