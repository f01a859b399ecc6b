/** Colours of states: only on a terminal, and not where NO_COLOR is set. */
import { fstatSync } from "node:fs";
import { createColors } from "picocolors";
import type { VmState } from "../vmd/protocol.ts";

/** Major numbers of consoles and pseudo terminals: Documentation/admin-guide/devices.txt. */
const CONSOLES = [4, 5];
const PTY_FIRST = 136;
const PTY_LAST = 143;

// Asking Node whether standard output is a terminal takes 20 ms.
function isTerminal(descriptor: number): boolean {
  const status = fstatSync(descriptor);
  const major = (status.rdev >> 8) & 0xfff;
  const known = CONSOLES.includes(major) || (major >= PTY_FIRST && major <= PTY_LAST);
  return status.isCharacterDevice() && known;
}

/** A state as it is printed, its spaces included. */
export function colourState(state: VmState, text: string): string {
  const { NO_COLOR } = process.env;
  if (!isTerminal(1) || (NO_COLOR !== undefined && NO_COLOR !== "")) return text;
  const colours = createColors(true);
  switch (state) {
    case "running":
      return colours.green(text);
    case "stopped":
      return colours.dim(text);
    case "paused":
      return colours.yellow(text);
    default:
      return colours.cyan(text);
  }
}
