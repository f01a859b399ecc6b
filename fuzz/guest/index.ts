/** guest/: an executor on a VM's snapshot, or a kernel. Campaigns open it by `openGuest`. */
import { GuestExecutor } from "./executor.ts";
import type { GuestOptions } from "./options.ts";

export { GuestExecutor } from "./executor.ts";
export { FuzzError } from "./machine.ts";
export { type GuestOptions } from "./options.ts";
export { Command, FUZZ_PORT } from "./port.ts";
export { Symbols } from "./symbols.ts";

/** @throws FuzzError and other errors with a sentence for the user */
export function openGuest(options: GuestOptions): GuestExecutor {
  return new GuestExecutor(options);
}
