/** What a switch's process and whoever started it say to each other, as JSON texts on a Channel. */
import * as v from "valibot";
import type { Confinement } from "../vm-messages.ts";

/** Messages to it. Ports have numbers that whoever started it gives. */
export type ToSwitch =
  | { kind: "start"; mtu?: number; confine?: Confinement }
  /** With the descriptor of the port's end. `lladdr`: the one address that it may send from. */
  | { kind: "add"; port: number; lladdr?: string }
  | { kind: "remove"; port: number }
  | { kind: "statistics" };

const line = v.pipe(
  v.string(),
  // oxlint-disable-next-line no-control-regex
  v.transform((text) => text.slice(0, 1000).replaceAll(/[\x00-\x1f\x7f-\x9f]/g, "?")),
);
const count = v.pipe(v.number(), v.finite(), v.minValue(0));
const port = v.pipe(v.number(), v.integer(), v.minValue(0));

const counts = v.object({
  port,
  received: count,
  receivedBytes: count,
  sent: count,
  sentBytes: count,
  dropped: count,
  refused: count,
});

/** Its words are checked: a guest may have taken it over. */
const schema = v.variant("kind", [
  /** `unconfined`: what of the sandbox is not there, as a sentence. */
  v.object({ kind: v.literal("running"), unconfined: line }),
  v.object({ kind: v.literal("failed"), message: line }),
  v.object({ kind: v.literal("added"), port }),
  /** The port could not be added: an errno name. */
  v.object({ kind: v.literal("refused"), port, code: line }),
  /** The port's other end is gone, and so is the port. */
  v.object({ kind: v.literal("ended"), port }),
  v.object({
    kind: v.literal("statistics"),
    ports: v.pipe(v.array(counts), v.maxLength(256)),
  }),
]);

/** Messages from it: an answer to each start, add and statistics; and ports that ended. */
export type FromSwitch = v.InferOutput<typeof schema>;

/** @returns undefined for what is no message. */
export function parseFromSwitch(text: string): FromSwitch | undefined {
  try {
    const result = v.safeParse(schema, JSON.parse(text));
    return result.success ? result.output : undefined;
  } catch {
    return undefined;
  }
}
