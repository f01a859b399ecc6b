/** How a process gives up what it doesn't need, before it meets what a guest has made. */
import { enterSandbox, type SandboxOptions } from "./sandbox.ts";
import type { Confinement } from "./vm-messages.ts";

/** @returns what is missing, as a sentence; empty when nothing is. @throws SandboxError */
export function confine(
  confinement: Confinement | undefined,
  profile: SandboxOptions["profile"],
  tree?: SandboxOptions["tree"],
): string {
  if (confinement === undefined) {
    return "no sandbox: the process keeps its user, namespaces, files and system calls";
  }
  const { landlock } = enterSandbox({ profile, tree, ...confinement });
  const namespaces = process.env.VMD_NAMESPACES;
  const missing = [
    landlock === 0 ? "this kernel has no Landlock" : "",
    namespaces === "own" ? "" : `no namespaces of its own (${namespaces ?? "not launched so"})`,
  ].filter(Boolean);
  return missing.length === 0 ? "" : `sandbox without a part: ${missing.join(", ")}`;
}
