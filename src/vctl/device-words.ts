/** What vctl start's -d and -n take: a path or a name, and options behind commas. */
import { parseDiskArgument } from "../vmd/disk/open.ts";
import type { DiskOption } from "../vmd/disk-files.ts";
import { LIMIT_WORDS, type LimitWord, parseLimit } from "../vmd/limit-words.ts";
import type { RateLimits } from "../vmd/virtio/rate-limit.ts";

/** An interface on a switch. */
export interface NetworkOption {
  switch: string;
  limits?: RateLimits;
}

/**
 * "disk.img,ro,rate=10M": what isn't an option is the path, commas and all.
 * @returns the path, and the options behind it.
 */
function split(text: string, isOption: (word: string) => boolean): [string, string[]] {
  const words = text.split(",");
  let end = words.length;
  while (end > 1 && isOption(words[end - 1])) end--;
  return [words.slice(0, end).join(","), words.slice(end)];
}

const limitWord = (word: string): LimitWord | undefined =>
  LIMIT_WORDS.find((name) => word.startsWith(`${name}=`));

/** @throws Error with a sentence */
function limitsOf(words: readonly string[]): { limits?: RateLimits } {
  let limits: RateLimits | undefined;
  for (const word of words) {
    const name = limitWord(word);
    if (name === undefined) continue;
    const limit = parseLimit(name, word.slice(name.length + 1));
    if (typeof limit === "string") throw new Error(limit);
    limits = { ...limits, ...limit };
  }
  return limits === undefined ? {} : { limits };
}

/** "qcow2:disk.img,ro,direct,rate=10M,burst=20M,operations=500". @throws Error with a sentence */
export function parseDisk(text: string): DiskOption {
  const isMode = (word: string) => word === "ro" || word === "rw";
  const isOption = (word: string) =>
    isMode(word) || word === "direct" || limitWord(word) !== undefined;
  const [image, words] = split(text, isOption);
  const readOnly = words.findLast(isMode) === "ro";
  return {
    ...parseDiskArgument(image),
    ...(readOnly ? { readOnly } : {}),
    ...(words.includes("direct") ? { direct: true } : {}),
    ...limitsOf(words),
  };
}

/** "lan,rate=10M". @throws Error with a sentence */
export function parseNetwork(text: string): NetworkOption {
  const [name, words] = split(text, (word) => limitWord(word) !== undefined);
  return { switch: name, ...limitsOf(words) };
}
