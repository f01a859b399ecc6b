/**
 * What a VM process says is checked: a guest may have taken it over. Texts are cut, and lose what
 * would act on a terminal.
 */
import * as v from "valibot";
import { ENGINES } from "../vmm/engine-library.ts";
import type { FromVm } from "./vm-messages.ts";

// oxlint-disable-next-line no-control-regex
const CONTROL = /[\x00-\x1f\x7f-\x9f]/g;
// oxlint-disable-next-line no-control-regex
const CONTROL_IN_LINES = /[\x00-\x09\x0b-\x1f\x7f-\x9f]/g;

const line = v.pipe(
  v.string(),
  v.transform((text) => text.slice(0, 1000).replaceAll(CONTROL, "?")),
);
const lines = v.pipe(
  v.string(),
  v.transform((text) => text.slice(0, 8000).replaceAll(CONTROL_IN_LINES, "?")),
);
const count = v.pipe(v.number(), v.finite(), v.minValue(0));

const u32 = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xffffffff));

const ending = v.object({
  kind: v.picklist(["power-off", "reset", "exit", "stopped", "crash"]),
  code: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(255)),
  message: line,
  registers: lines,
  image: v.optional(v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/))),
});

const exitCount = v.object({ reason: line, where: line, count, handled: count });

const migration = v.variant("stage", [
  v.object({ stage: v.literal("round"), round: count, pages: count, left: count, time: count }),
  v.object({ stage: v.literal("flushed") }),
  v.object({ stage: v.literal("relock") }),
  v.object({ stage: v.literal("disks") }),
  v.object({
    stage: v.literal("over"),
    outcome: v.picklist(["sent", "failed", "unknown"]),
    why: line,
    rounds: count,
    pages: count,
    bytes: count,
    stoodStill: count,
  }),
]);

const messages = [
  v.object({
    kind: v.literal("running"),
    engine: v.picklist(ENGINES),
    why: line,
    boot: line,
    unconfined: line,
    prefetched: v.optional(count),
  }),
  v.object({ kind: v.literal("trouble"), text: line }),
  v.object({ kind: v.literal("rebooted"), by: line }),
  v.object({ kind: v.literal("ready") }),
  v.object({ kind: v.literal("paused") }),
  v.object({ kind: v.literal("unpaused") }),
  v.object({ kind: v.literal("shutdown"), asked: v.boolean() }),
  v.object({ kind: v.literal("acknowledged") }),
  v.object({ kind: v.literal("shutting-down") }),
  v.object({ kind: v.literal("registers"), text: lines }),
  v.object({
    kind: v.literal("balloon"),
    balloon: v.optional(v.object({ target: count, actual: count })),
  }),
  v.object({
    kind: v.literal("statistics"),
    statistics: v.object({
      now: count,
      resident: count,
      exits: count,
      printed: count,
      watchers: count,
    }),
  }),
  v.object({
    kind: v.literal("snapshot"),
    result: v.object({
      failure: v.optional(line),
      bytes: count,
      pages: count,
      paused: count,
      differential: v.boolean(),
      rounds: v.optional(count),
    }),
  }),
  v.object({
    kind: v.literal("vsock-connect"),
    id: v.pipe(v.number(), v.safeInteger(), v.minValue(1)),
    port: u32,
  }),
  v.object({ kind: v.literal("vsock-knock") }),
  v.object({
    kind: v.literal("exit-counts"),
    counts: v.optional(v.pipe(v.array(exitCount), v.maxLength(1000))),
  }),
  v.object({ kind: v.literal("probe"), result: line }),
  v.object({ kind: v.literal("migration"), event: migration }),
  v.object({ kind: v.literal("ended"), ending }),
  v.object({ kind: v.literal("failed"), message: lines }),
] as const;

/** By kind: looking at one after the other takes longer than checking the right one. */
const schemas = new Map<unknown, v.GenericSchema<unknown, FromVm>>(
  messages.map((message) => [message.entries.kind.literal, message]),
);

/** @returns undefined for what is no message. */
export function parseFromVm(text: string): FromVm | undefined {
  try {
    const value = JSON.parse(text) as { kind?: unknown } | null;
    const schema = schemas.get(value?.kind);
    if (schema === undefined) return undefined;
    const result = v.safeParse(schema, value);
    return result.success ? result.output : undefined;
  } catch {
    return undefined;
  }
}
