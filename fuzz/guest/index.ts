/** guest/: an executor on a VM's snapshot, or a kernel. Campaigns open it by `openGuest`. */
import { GuestExecutor } from "./executor.ts";
import type { GuestOptions } from "./options.ts";
import { openStructure } from "./structure.ts";

export { GuestExecutor } from "./executor.ts";
export { FuzzError } from "./machine.ts";
export { type GuestOptions } from "./options.ts";
export { Command, FUZZ_PORT } from "./port.ts";
export { Symbols } from "./symbols.ts";

/**
 * @param opened called when all files are open and the guest has not run yet
 * @throws FuzzError and other errors with a sentence for the user
 */
export async function openGuest(
  options: GuestOptions,
  opened?: () => void,
): Promise<GuestExecutor> {
  const encode =
    options.structure === undefined ? undefined : await openStructure(options.structure);
  return new GuestExecutor(options, encode, opened);
}
