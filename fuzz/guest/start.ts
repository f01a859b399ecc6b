/** From where a machine is to where runs begin. */
import { BreakKind } from "../../src/vmm/engine.ts";
import type { Ready } from "./channels.ts";
import { FuzzError, type FuzzMachine } from "./machine.ts";
import { type GuestOptions, parseAddress } from "./options.ts";
import { Command } from "./port.ts";
import { plain } from "./stack.ts";
import type { Symbols } from "./symbols.ts";
import { GuestView } from "./view.ts";

/** Guest seconds that the way may take. */
const PATIENCE = 60;
/** The longest input that a guest may ask for with READY. */
const SIZE_MAX = 2 ** 20;

/**
 * Runs a machine until the start.
 * @returns what the guest asked for, when its READY is the start
 * @throws FuzzError when it doesn't get there
 */
export function runToStart(
  machine: FuzzMachine,
  options: Pick<GuestOptions, "start" | "input" | "type" | "patience">,
  symbols: Symbols,
): Ready | undefined {
  const { type, start, input, patience = PATIENCE } = options;
  if (type !== undefined) machine.life.machine.console.input(new TextEncoder().encode(type));
  if (start === "now" || (start === undefined && input !== undefined)) return undefined;
  const time = patience * 1e9;
  if (start === undefined || start === "ready")
    return runToReady(machine, time, input === undefined);
  if (start.startsWith("print:")) {
    machine.awaited = start.slice(6);
    runUntil(machine, time, `printed "${machine.awaited}"`, () => machine.awaited === undefined);
    machine.settle();
    return undefined;
  }
  runToAddress(machine, time, start, parseAddress(start, symbols));
  return undefined;
}

/** @param wanted whether what it says of the input's place counts */
function runToReady(machine: FuzzMachine, time: number, wanted: boolean): Ready | undefined {
  const { port } = machine;
  runUntil(
    machine,
    time,
    "said READY",
    (kind) => kind === "exit" && port.command === Command.READY,
  );
  machine.settle();
  if (!wanted) return undefined;
  const view = new GuestView(machine.life);
  const address = view.register("rbx");
  const size = Number(view.register("rcx"));
  if (size < 1 || size > SIZE_MAX) {
    throw new FuzzError(`the guest said READY for ${size} bytes: 1 to ${SIZE_MAX} can be had`);
  }
  return { address, size };
}

function runToAddress(machine: FuzzMachine, time: number, name: string, address: bigint): void {
  const { engine } = machine.life;
  engine.debug([{ address, kind: BreakKind.EXECUTE, length: 1 }]);
  runUntil(machine, time, `reached ${name}`, (kind) => kind === "debug");
  engine.debug([]);
}

/** @throws FuzzError when time is over, or the machine ends */
function runUntil(
  machine: FuzzMachine,
  time: number,
  what: string,
  isThere: (kind: string) => boolean,
): void {
  const { engine } = machine.life;
  const ends = engine.now() + time;
  for (;;) {
    const stop = machine.run(ends - engine.now());
    if (isThere(stop.kind)) return;
    if (stop.kind === "exit") continue;
    const last = plain(machine.printed.trimEnd().split("\n").at(-1) ?? "");
    const printed = last === "" ? "" : `; it printed "${last}" last`;
    if (stop.kind === "attention") {
      throw new FuzzError(`in ${time / 1e9} s the guest never ${what}${printed}`);
    }
    throw new FuzzError(`the guest ended (${stop.kind}) before it ${what}${printed}`);
  }
}
