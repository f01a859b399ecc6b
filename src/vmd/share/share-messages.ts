/** What a share's process and whoever started it say to each other, as JSON texts on a Channel. */
import * as v from "valibot";
import type { Confinement } from "../vm-messages.ts";
import type { SharePolicy } from "./server.ts";

/** The only message to it, with descriptors: the directory, and its end of the 9P socket. */
export interface ToShare {
  kind: "start";
  policy: SharePolicy;
  /** Absent: no sandbox. */
  confine?: Confinement;
}

const line = v.pipe(
  v.string(),
  // oxlint-disable-next-line no-control-regex
  v.transform((text) => text.slice(0, 1000).replaceAll(/[\x00-\x1f\x7f-\x9f]/g, "?")),
);

/** Its words are checked: a guest may have taken it over. */
const schema = v.variant("kind", [
  /** `unconfined`: what of the sandbox is not there, as a sentence. */
  v.object({ kind: v.literal("serving"), unconfined: line }),
  v.object({ kind: v.literal("failed"), message: line }),
]);

export type FromShare = v.InferOutput<typeof schema>;

/** @returns undefined for what is no message. */
export function parseFromShare(text: string): FromShare | undefined {
  try {
    const result = v.safeParse(schema, JSON.parse(text));
    return result.success ? result.output : undefined;
  } catch {
    return undefined;
  }
}
