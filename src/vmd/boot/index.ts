/**
 * boot/: what puts a kernel or firmware into a machine.
 *
 * A loader is a function of a file's bytes and guest memory: it checks the file, places it with
 * what its boot protocol asks for, and returns the state to start the CPU in. It opens no file,
 * knows no device and no engine, and fails only with a BootError.
 */

import type { Boot, BootFormat, BootOptions } from "./boot.ts";
import { BootError, Bytes } from "./bytes.ts";
import { isBzImage, loadLinux } from "./linux.ts";

export type { Boot, BootFormat, BootModule, BootOptions } from "./boot.ts";
export { BootError } from "./bytes.ts";
export {
  classicMemoryMap,
  classicRam,
  E820_ACPI,
  E820_NVS,
  E820_RAM,
  E820_RESERVED,
  type E820Entry,
  packE820,
} from "./e820.ts";

type Loader = (file: Bytes, options: BootOptions) => Boot;

const LOADERS: Partial<Record<BootFormat, Loader>> = {
  linux: loadLinux,
};

/**
 * Puts `options.kernel` into `options.memory` and returns how to enter it. `format` "auto" (the
 * default) looks at the file. Memory must be zeroed. Throws BootError and nothing else.
 */
export function loadKernel(options: BootOptions & { format?: BootFormat | "auto" }): Boot {
  try {
    const file = new Bytes(options.name, options.kernel);
    const { format = "auto" } = options;
    const chosen = format === "auto" ? detectFormat(file) : format;
    const loader = LOADERS[chosen];
    if (loader === undefined) throw file.error(`no loader for the format ${chosen}`);
    return loader(file, options);
  } catch (error) {
    if (error instanceof BootError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new BootError(`${options.name}: can't be loaded: ${reason}`, { cause: error });
  }
}

/** The format of a file, by its contents. Throws BootError when it is none that is known. */
export function detectFormat(file: Bytes): BootFormat {
  if (isBzImage(file)) return "linux";
  throw file.error("not a kernel: neither ELF nor a Linux bzImage");
}
