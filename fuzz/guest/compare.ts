/** Inputs that a campaign kept, run on another engine, too: do both say the same of them? */
import { confine } from "../campaign/confine.ts";
import { CampaignFolder } from "../campaign/index.ts";
import { type Executor, Verdict } from "../executor.ts";
import { encoderOf, GuestExecutor } from "./index.ts";
import { FuzzError } from "./machine.ts";
import type { GuestOptions } from "./options.ts";

const NAMES = ["done", "timeout", "crash", "failed"] as const;

/**
 * How a run ended. Of crashes their kind; their addresses are in the guest's own registers, which
 * engines may publish at other moments.
 */
function endingOf(executor: Executor, input: Uint8Array): string {
  const verdict = executor.run(input, Math.min(input.length, executor.maxInput));
  const crash = verdict === Verdict.CRASH ? executor.crash() : undefined;
  return crash === undefined ? NAMES[verdict] : `${NAMES[verdict]} (${crash.kind}: ${crash.text})`;
}

/** Neither guest runs before both are open: nothing is opened from then on. */
async function openBoth(options: GuestOptions, engine: "kvm" | "unicorn") {
  let second: GuestExecutor | undefined;
  const encode = await encoderOf(options);
  try {
    const first = new GuestExecutor(options, encode, () => {
      second = new GuestExecutor({ ...options, engine }, encode, () => confine());
    });
    return { first, second: second as unknown as GuestExecutor };
  } catch (error) {
    second?.close();
    throw error;
  }
}

/**
 * @returns 0 when all inputs end alike, else 2
 * @throws FuzzError, and what an executor's opening throws
 */
export async function compareEngines(
  folder: string,
  options: GuestOptions,
  other: "kvm" | "unicorn",
  print: (text: string) => void,
  say: (text: string) => void,
): Promise<number> {
  const entries = new CampaignFolder(folder).arrived();
  if (entries.length === 0) throw new FuzzError(`${folder}: no inputs there`);
  const { first, second } = await openBoth(options, other);
  try {
    let differ = 0;
    for (const { name, input } of entries) {
      const [one, two] = [endingOf(first, input), endingOf(second, input)];
      if (one === two) continue;
      differ++;
      print(`${name}: ${options.engine ?? "unicorn"}: ${one}; ${other}: ${two}\n`);
    }
    say(`${entries.length} inputs, ${differ} end differently on ${other}`);
    return differ > 0 ? 2 : 0;
  } finally {
    first.close();
    second.close();
  }
}
