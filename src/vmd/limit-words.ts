/** Limits on what a disk or an interface moves, as users write them: a word and its value. */
import { parseSize } from "./size.ts";
import type { RateLimits } from "./virtio/rate-limit.ts";

export const LIMIT_WORDS = ["rate", "burst", "operations"] as const;
export type LimitWord = (typeof LIMIT_WORDS)[number];

/**
 * "rate" and "burst" are sizes, bytes a second and bytes at once; "operations" is a count a second.
 * @returns what is limited, or a sentence when the value is none.
 */
export function parseLimit(word: LimitWord, value: string): RateLimits | string {
  if (word === "operations") {
    if (/^[1-9]\d{0,8}$/.test(value)) return { operations: Number(value) };
    return `operations: ${value} is no number from 1 on`;
  }
  let size = 0;
  try {
    size = parseSize(value);
  } catch {
    // The sentence is below.
  }
  if (size < 1) return `${value} is no size such as 10M`;
  return word === "rate" ? { bytes: size } : { burst: size };
}
