/** guest/: an executor on a VM's snapshot, or a kernel. Campaigns open it by `openGuest`. */
import { GuestExecutor } from "./executor.ts";
import type { GuestOptions } from "./options.ts";
import { openStructure } from "./structure.ts";

export { GuestExecutor } from "./executor.ts";
export { FuzzError } from "./machine.ts";
export { type GuestOptions } from "./options.ts";
export { Command, FUZZ_PORT } from "./port.ts";
export { Symbols } from "./symbols.ts";

/** What makes a guest's input of a campaign's bytes; absent: they are it. @throws FuzzError */
export async function encoderOf({ structure }: GuestOptions) {
  return structure === undefined ? undefined : await openStructure(structure);
}

/**
 * @param opened called when all files are open and the guest has not run yet
 * @throws FuzzError and other errors with a sentence for the user
 */
export async function openGuest(
  options: GuestOptions,
  opened?: () => void,
): Promise<GuestExecutor> {
  return new GuestExecutor(options, await encoderOf(options), opened);
}
