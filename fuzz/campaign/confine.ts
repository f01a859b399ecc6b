/** What a process gives up before it meets a guest: all but the files of a campaign. */
import { closeSync, constants, openSync } from "node:fs";
import { enterSandbox } from "../../src/vmd/sandbox.ts";
import { hostLibrary } from "../../src/vmm/native.ts";

/** Of the kernel's headers, where Node has none. */
const O_PATH = 0o10000000;

/** What of that this host can't do, as a sentence; undefined: nothing. */
export function unconfined(): string | undefined {
  if (hostLibrary().vmm_landlock_abi() > 0) return undefined;
  return "workers may open any file of yours: this kernel has no Landlock";
}

/**
 * No other user's rights, no program, no network, no file outside of the folder; what is open stays so.
 * Where the host has no Landlock, files outside of it are kept, too.
 * @param folder absent: nothing is opened any more
 * @throws SandboxError
 */
export function confine(folder?: string): void {
  if (folder === undefined) {
    enterSandbox({ profile: "fuzzer" });
    return;
  }
  const root = openSync(folder, O_PATH | constants.O_DIRECTORY);
  try {
    enterSandbox({ profile: "fuzzer", tree: { root, writable: true } });
  } finally {
    closeSync(root);
  }
}
