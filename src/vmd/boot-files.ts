/** Reads the files that a VM's options name, and boots a machine with them. */
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { type Boot, type BootModule, loadKernel, romRange } from "./boot/index.ts";
import type { ClassicMachine } from "./machine.ts";
import type { VmOptions } from "./vm.ts";

/** A file that can't be read, in one sentence. */
export class FileError extends Error {
  override name = "FileError";
}

const REASONS: Record<string, string> = {
  ENOENT: "no such file",
  EISDIR: "is a directory",
  EACCES: "permission denied",
};

/** @throws FileError */
export function readFile(path: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    throw new FileError(`${path}: ${REASONS[code] ?? code}`);
  }
}

/** What a VM boots from, read. */
export class BootFiles {
  readonly #options: VmOptions;
  #kernel: Uint8Array;

  /** @throws FileError */
  constructor(options: VmOptions) {
    this.#options = options;
    this.#kernel = readFile(options.kernel);
  }

  /** The ROM that the machine must have; undefined for none. */
  get rom(): { base: number; size: number } | undefined {
    return romRange(this.#kernel, this.#options.format);
  }

  /**
   * Loads everything into a machine just reset, and keeps nothing of the files: this is done once.
   * @throws BootError, FileError
   */
  load(machine: ClassicMachine): Boot {
    const { kernel, initrd, cmdline, modules, format, bits, virtualTime } = this.#options;
    const boot = loadKernel({
      name: basename(kernel),
      kernel: this.#kernel,
      initrd: initrd === undefined ? undefined : readFile(initrd),
      cmdline,
      modules: modules?.map(readModule),
      format,
      bits,
      random: virtualTime ? repeatable() : undefined,
      memory: machine.memory,
      e820: machine.e820,
    });
    if (boot.rom !== undefined) machine.memory.placeRom(boot.rom.base, boot.rom.bytes);
    this.#kernel = new Uint8Array();
    return boot;
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

function readModule(specification: string): BootModule {
  const space = specification.indexOf(" ");
  const path = space < 0 ? specification : specification.slice(0, space);
  const args = space < 0 ? undefined : specification.slice(space + 1);
  return { name: basename(path), data: readFile(path), args };
}
