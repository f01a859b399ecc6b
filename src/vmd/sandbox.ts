/** A process gives up what it no longer needs; native/sandbox.c. */
import { hostLibrary, processLibrary, ptr, sandboxLibrary, Sentence } from "../vmm/native.ts";

/**
 * enum vmm_profile: a VM on KVM, one on the software engine, the reader of clients, a switch, a share, a
 * fuzzer on either engine.
 */
const PROFILE = { kvm: 0, control: 1, unicorn: 2, switch: 3, share: 4, fuzzer: 5 } as const;

/** A process that can't be confined, in one sentence. It is to end. */
export class SandboxError extends Error {
  override name = "SandboxError";
}

export interface SandboxOptions {
  profile: keyof typeof PROFILE;
  /** Whom to become; absent: as it is. */
  uid?: number;
  gid?: number;
  /**
   * Of a share and a fuzzer: descriptor of the directory that it keeps; a share's must stay open. Where
   * the host has no Landlock, a fuzzer keeps all files.
   */
  tree?: { root: number; writable: boolean };
}

export interface Sandbox {
  /** The host's Landlock ABI; 0 when it has none. */
  landlock: number;
  /** Threads that were confined. */
  threads: number;
}

/**
 * From here on, for every thread: no other user, no capability, no file, few system calls. Whatever
 * is to be used must be open.
 * @throws SandboxError
 */
export function enterSandbox({ profile, uid = -1, gid = -1, tree }: SandboxOptions): Sandbox {
  // What every confined process goes on using: nothing is loaded later.
  processLibrary();
  hostLibrary();
  const found = new Int32Array(2);
  const why = new Sentence();
  const { vmm_sandbox, vmm_sandbox_tree } = sandboxLibrary();
  if (tree !== undefined) vmm_sandbox_tree(tree.root, tree.writable ? 1 : 0);
  const result = vmm_sandbox(PROFILE[profile], uid, gid, ptr(found), why.pointer, why.size);
  if (result < 0) throw new SandboxError(why.toString());
  return { landlock: found[0], threads: found[1] };
}
