/**
 * Puts what a VM boots from into its machine. Kernels are large beside the process that runs them, so
 * their files are mapped, and given back as soon as they are in the guest: the heap would keep their
 * pages.
 */
import { closeSync } from "node:fs";
import { basename } from "node:path";
import { check, hostBuffer, hostLibrary } from "../vmm/native.ts";
import { repeatableRandom } from "./backend/random.ts";
import { type Boot, loadKernel, romRange } from "./boot/index.ts";
import {
  type BootFile,
  type BootSet,
  bootSetFiles,
  FileError,
  openBootFiles,
} from "./boot-files.ts";
import type { ClassicMachine } from "./machine.ts";
import type { VcpuOptions, VmOptions } from "./vm-options.ts";

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
