/** Which blocks of code a corpus enters, found out in a process of its own. */
import * as v from "valibot";
import { CampaignFolder } from "../campaign/index.ts";
import { confine } from "../campaign/confine.ts";
import { answer, ask } from "./ask.ts";
import { openGuest } from "./index.ts";
import { FuzzError } from "./machine.ts";
import type { GuestOptions } from "./options.ts";

interface Question {
  readonly folder: string;
  readonly options: GuestOptions;
}

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const schema = v.array(v.tuple([v.pipe(v.string(), v.regex(/^[0-9a-f]{1,16}$/)), count, count]));

/** A block's bytes, and how many inputs enter it, by linear address. */
export type CoveredBlocks = ReadonlyMap<bigint, { readonly size: number; readonly count: number }>;

/** @throws FuzzError */
export async function coveredBlocks(folder: string, options: GuestOptions): Promise<CoveredBlocks> {
  const question: Question = { folder, options };
  const found = v.safeParse(schema, await ask(import.meta.path, options.file, question));
  if (!found.success) throw new FuzzError(`${options.file}: its blocks are such as can't be`);
  if (found.output.length === 0) throw new FuzzError(`${folder}: no inputs there`);
  return new Map(
    found.output.map(([address, size, inputs]) => [
      BigInt(`0x${address}`),
      { size, count: inputs },
    ]),
  );
}

async function find({ folder, options }: Question): Promise<v.InferOutput<typeof schema>> {
  const inputs = new CampaignFolder(folder).arrived();
  const executor = await openGuest(options, () => confine());
  const blocks = new Map<bigint, { size: number; count: number }>();
  for (const { input } of inputs) {
    const entered = new Map<bigint, number>();
    const length = Math.min(input.length, executor.maxInput);
    for (const { address, size } of executor.blocks(input, length)) entered.set(address, size);
    for (const [address, size] of entered) {
      blocks.set(address, { size, count: (blocks.get(address)?.count ?? 0) + 1 });
    }
  }
  executor.close();
  return Array.from(blocks, ([address, { size, count: entries }]) => [
    address.toString(16),
    size,
    entries,
  ]);
}

if (import.meta.main) await answer(find);
