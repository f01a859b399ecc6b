/**
 * Whether a guest can be fuzzed, found out before any campaign begins: in a process of its own, which is
 * confined like a worker. Run as a program, it reads GuestOptions as JSON, and prints a Trial.
 */
import { confine } from "../campaign/confine.ts";
import { openGuest } from "./index.ts";
import { FuzzError } from "./machine.ts";
import type { GuestOptions } from "./options.ts";

type Trial =
  | { readonly engine: string; readonly hasCoverage: boolean }
  /** A sentence. */
  | { readonly failure: string };

/** @returns its engine's name @throws FuzzError: why it can't */
export async function tryGuest(options: GuestOptions): Promise<string> {
  const child = Bun.spawn([process.execPath, import.meta.path], {
    stdin: new TextEncoder().encode(JSON.stringify(options)),
    stdout: "pipe",
    stderr: "inherit",
  });
  const text = await child.stdout.text();
  await child.exited;
  let trial: Trial;
  try {
    trial = JSON.parse(text) as Trial;
  } catch {
    const { signalCode, exitCode } = child;
    const how = signalCode === null ? `status ${exitCode}` : `signal ${signalCode}`;
    throw new FuzzError(`${options.file}: the process that tried it ended with ${how}`);
  }
  if ("failure" in trial) throw new FuzzError(trial.failure);
  if (trial.hasCoverage) return trial.engine;
  throw new FuzzError(`engine ${trial.engine} has to be told where blocks of code begin: --blocks`);
}

async function attempt(options: GuestOptions): Promise<Trial> {
  try {
    const executor = await openGuest(options, () => confine());
    const { machine, hasCoverage } = executor;
    const engine = machine.life.engine.name;
    executor.close();
    return { engine, hasCoverage };
  } catch (error) {
    return { failure: error instanceof Error ? error.message : String(error) };
  }
}

if (import.meta.main) {
  console.log(JSON.stringify(await attempt(JSON.parse(await Bun.stdin.text()) as GuestOptions)));
}
