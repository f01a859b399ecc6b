/**
 * The files that a VM boots from: opened by whoever has the right to, read by whoever runs it.
 *
 * Kernels are large beside the process that runs them, so they are mapped, and given back as soon
 * as they are in the guest: the heap would keep their pages.
 */
import { closeSync, constants, fstatSync, openSync } from "node:fs";
import { basename } from "node:path";
import { check, hostBuffer, hostLibrary } from "../vmm/native.ts";
import { repeatableRandom } from "./backend/random.ts";
import { type Boot, loadKernel, romRange } from "./boot/index.ts";
import type { ClassicMachine } from "./machine.ts";
import type { VcpuOptions, VmOptions } from "./vm-options.ts";

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
  ENOTDIR: "not a directory",
  EROFS: "read-only file system",
};

function failure(path: string, error: unknown): FileError {
  if (error instanceof FileError) return error;
  const code = (error as NodeJS.ErrnoException).code ?? String(error);
  return new FileError(`${path}: ${REASONS[code] ?? code}`);
}

/** An open file under the name that the user knows. */
export interface BootFile {
  readonly path: string;
  readonly descriptor: number;
}

/** What a machine boots from. */
export interface BootSet {
  readonly kernel: BootFile;
  readonly initrd?: BootFile;
  readonly modules?: readonly (BootFile & { readonly args?: string })[];
}

/** Opens a file for reading as the user who runs this. @throws an errno error */
export function openPlainly(path: string): number {
  // Not to wait for the other end of a pipe, which isn't taken anyway.
  return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
}

/**
 * Opens the files that options name.
 * @param open opens one; throws an error with an errno code.
 * @throws FileError that names the file
 */
export function openBootFiles(
  options: Pick<VcpuOptions, "kernel" | "initrd" | "modules">,
  open: (path: string) => number = openPlainly,
): BootSet {
  const opened: number[] = [];
  const file = (path: string): BootFile => {
    const one = openBootFile(path, open);
    opened.push(one.descriptor);
    return one;
  };
  try {
    return {
      kernel: file(options.kernel),
      initrd: options.initrd === undefined ? undefined : file(options.initrd),
      modules: options.modules?.map((specification) => {
        const space = specification.indexOf(" ");
        if (space < 0) return file(specification);
        return {
          ...file(specification.slice(0, space)),
          args: specification.slice(space + 1),
        };
      }),
    };
  } catch (error) {
    for (const descriptor of opened) closeSync(descriptor);
    throw error;
  }
}

/** Opens one that must be a regular file. @throws FileError that names it */
export function openBootFile(path: string, open: (path: string) => number): BootFile {
  let descriptor: number | undefined;
  try {
    descriptor = open(path);
    const status = fstatSync(descriptor);
    if (status.isDirectory()) throw new FileError(`${path}: is a directory`);
    if (!status.isFile()) throw new FileError(`${path}: not a regular file`);
    if (status.size > LARGEST) throw new FileError(`${path}: larger than 4 GiB`);
    return { path, descriptor };
  } catch (error) {
    if (descriptor !== undefined) closeSync(descriptor);
    throw failure(path, error);
  }
}

/** Opens a file that a trace is to be written to, anew. @throws FileError */
export function openTraceFile(path: string, open = () => openSync(path, "w", 0o600)): BootFile {
  try {
    return { path, descriptor: open() };
  } catch (error) {
    throw failure(path, error);
  }
}

/** All files of a set, in an order that names them again. */
export function bootSetFiles(set: BootSet): BootFile[] {
  return [set.kernel, ...(set.initrd === undefined ? [] : [set.initrd]), ...(set.modules ?? [])];
}

/** A file's bytes, until it is disposed of. */
class MappedFile implements Disposable {
  readonly bytes: Uint8Array;
  readonly #address: number;
  readonly #size: number;

  /** @throws FileError */
  constructor({ path, descriptor }: BootFile) {
    this.#size = check(path, hostLibrary().vmm_file_size(descriptor));
    this.#address = 0;
    this.bytes = new Uint8Array();
    if (this.#size === 0) return;
    try {
      this.#address = check(path, hostLibrary().vmm_file_map(descriptor, this.#size));
    } catch (error) {
      throw new FileError((error as Error).message);
    }
    this.bytes = new Uint8Array(hostBuffer(this.#address, this.#size));
  }

  /** No view of the bytes may be used afterwards. */
  [Symbol.dispose](): void {
    if (this.#address !== 0) hostLibrary().vmm_memory_unmap(this.#address, this.#size);
  }
}

/** Opened files, mapped, to be put into a machine. */
export class BootFiles implements Disposable {
  readonly #set: BootSet;
  readonly #options: VmOptions;
  readonly #files = new DisposableStack();
  readonly #kernel: Uint8Array;

  /** @param set stays the caller's to close. @throws FileError */
  constructor(options: VmOptions, set: BootSet) {
    this.#options = options;
    this.#set = set;
    this.#kernel = this.#map(set.kernel);
  }

  /** Opens the files that options name, for one boot. @throws FileError */
  static open(options: VcpuOptions): BootFiles {
    const set = openBootFiles(options);
    const files = new BootFiles(options, set);
    for (const { descriptor } of bootSetFiles(set)) {
      files.#files.defer(() => closeSync(descriptor));
    }
    return files;
  }

  /** The ROM that the machine must have; undefined for none. */
  get rom(): { base: number; size: number } | undefined {
    return romRange(this.#kernel, this.#options.format);
  }

  /** Loads everything into a machine just reset. @throws BootError, FileError */
  load(machine: ClassicMachine): Boot {
    const { cmdline, format, bits, virtualTime } = this.#options;
    const { kernel, initrd, modules } = this.#set;
    const boot = loadKernel({
      name: basename(kernel.path),
      kernel: this.#kernel,
      initrd: initrd === undefined ? undefined : this.#map(initrd),
      cmdline,
      modules: modules?.map((module) => ({
        name: basename(module.path),
        data: this.#map(module),
        args: module.args,
      })),
      format,
      bits,
      random: virtualTime ? repeatableRandom() : undefined,
      memory: machine.memory,
      e820: machine.e820,
    });
    if (boot.rom !== undefined) machine.memory.placeRom(boot.rom.base, boot.rom.bytes);
    return boot;
  }

  #map(file: BootFile): Uint8Array {
    return this.#files.use(new MappedFile(file)).bytes;
  }

  /** Gives the files back; what `load` returned stays. */
  [Symbol.dispose](): void {
    this.#files.dispose();
  }
}
