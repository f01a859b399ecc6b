/** Whether a guest can be fuzzed, found out before any campaign begins, in a process of its own. */
import * as v from "valibot";
import { confine } from "../campaign/confine.ts";
import { answer, ask } from "./ask.ts";
import { openGuest } from "./index.ts";
import { FuzzError } from "./machine.ts";
import type { GuestOptions } from "./options.ts";

const schema = v.object({ engine: v.picklist(["kvm", "unicorn"]), hasCoverage: v.boolean() });

/** @returns its engine's name @throws FuzzError: why it can't */
export async function tryGuest(options: GuestOptions): Promise<string> {
  const trial = v.safeParse(schema, await ask(import.meta.path, options.file, options));
  if (!trial.success) throw new FuzzError(`${options.file}: what tried it said what can't be`);
  const { engine, hasCoverage } = trial.output;
  if (hasCoverage) return engine;
  throw new FuzzError(`engine ${engine} has to be told where blocks of code begin: --blocks`);
}

async function attempt(options: GuestOptions): Promise<v.InferOutput<typeof schema>> {
  const executor = await openGuest(options, () => confine());
  const { machine, hasCoverage } = executor;
  const engine = machine.life.engine.name;
  executor.close();
  return { engine, hasCoverage };
}

if (import.meta.main) await answer(attempt);
