/** What GDB's `monitor` says to the stub itself. */
import type { DebugTarget } from "./target.ts";

const HELP = `help             these lines
info registers   the processor's registers, the hidden ones too
phys [on|off]    addresses of memory are guest-physical
reset            start again, as after power-on, and stand still there
`;

/** What of a session can be changed. */
export interface MonitorSession {
  /** Sets, where `on` is given; returns how it is then. */
  physical(on?: boolean): boolean;
}

export class Monitor {
  readonly #target: DebugTarget;

  constructor(target: DebugTarget) {
    this.#target = target;
  }

  /** @returns what to print. */
  command(text: string, session: MonitorSession): string {
    const words = text.trim().split(/\s+/);
    switch (words.join(" ")) {
      case "":
      case "help":
        return HELP;
      case "info registers":
        return `${this.#target.describe()}\n`;
      case "reset":
        this.#target.reset();
        return "the machine is reset; GDB's registers are from before: say `maintenance flush register-cache`\n";
      case "phys":
      case "phys on":
      case "phys off":
        return `physical addresses: ${
          session.physical(words.length < 2 ? undefined : words[1] === "on") ? "on" : "off"
        }\n`;
      default:
        return `no such command; try "monitor help"\n`;
    }
  }
}
