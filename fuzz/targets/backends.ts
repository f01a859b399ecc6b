/**
 * Backends of virtio devices for targets: in memory, the same each time, done when the input says so,
 * and suspicious: what a device must never ask for is Wrong.
 */
import type { GuestMemory } from "../../src/vmm/memory.ts";
import type { Chain } from "../../src/vmd/virtio/chain.ts";
import { must } from "../own/target.ts";

/** What is under way, and ends when it is told to. */
export class Pending {
  /** Everything is done at once. */
  atOnce = true;
  readonly #waiting: (() => void)[] = [];

  get length(): number {
    return this.#waiting.length;
  }

  add(finish: () => void): void {
    if (this.atOnce) finish();
    else this.#waiting.push(finish);
  }

  /** Ends one of them. */
  finish(which: number): void {
    const { length } = this.#waiting;
    if (length > 0) this.#waiting.splice(which % length, 1)[0]();
  }

  all(): void {
    while (this.#waiting.length > 0) this.finish(0);
  }

  clear(): void {
    this.#waiting.length = 0;
  }
}

/** What a target does to its backend between two of the guest's steps. */
export interface FuzzBackend {
  /** As new. */
  reset(): void;
  /** One thing that is under way ends, if any is. */
  finish?(which: number): void;
  /** Whether things end at once from now on, and how: bits of the input. */
  mode?(bits: number): void;
  /** Everything that is under way ends. */
  settleAll?(): void;
  /** It has something to tell before it can be as new, to a device that is ready. */
  readonly owes?: boolean;
}

/** Every piece of a chain's part lies in RAM, at the host's address that it says. */
export function checkSpans(
  memory: GuestMemory,
  chain: Chain,
  writable: boolean,
  at: number,
  length: number,
) {
  const all = writable ? chain.writableBytes : chain.readableBytes;
  must(at >= 0 && length >= 0 && at + length <= all, `bytes ${at}+${length} of ${all} of a chain`);
  let seen = 0;
  chain.spans(writable, at, length, (address, bytes, host) => {
    must(memory.locate(address, bytes) === host, `0x${address.toString(16)}+${bytes} is no RAM`);
    seen += bytes;
  });
  must(seen === length, `a chain gave ${seen} bytes of ${length}`);
}
