/** Where a guest is, and whence it was called: for telling crashes from one another. */
import type { Symbols } from "./symbols.ts";
import type { GuestView } from "./view.ts";

const FRAMES = 8;
/** Vectors whose handlers find an error code on the stack; Intel SDM vol. 3A, table 6-1. */
const WITH_CODE = new Set([8, 10, 11, 12, 13, 14, 17, 21]);

/**
 * Return addresses by frame pointers, innermost first.
 * @param vector of the exception whose handler the guest is about to enter
 */
export function stackOf(view: GuestView, symbols: Symbols, vector?: number): string[] {
  const { word } = view;
  const code = vector !== undefined && WITH_CODE.has(vector) ? word : 0;
  const interrupted =
    vector === undefined ? undefined : view.read(view.register("rsp") + BigInt(code), word);
  const frames = [interrupted ?? view.rip];
  let frame = view.register("rbp");
  while (frames.length < FRAMES) {
    const caller = view.read(frame + BigInt(word), word);
    const next = view.read(frame, word);
    if (caller === undefined || caller === 0n || next === undefined) break;
    frames.push(caller);
    // Callers' frames lie above.
    if (next <= frame) break;
    frame = next;
  }
  return frames.map((address) => symbols.name(address));
}

/** A Linux kernel's own words of where it was, innermost first: "RIP: 0010:name+0x1/0x2", and its trace. */
export function printedStack(printed: string): string[] {
  const place = /[RE]IP: (?:[0-9a-f]{4}:)?([\w.]+\+0x[0-9a-f]+)/.exec(printed);
  if (place === null) return [];
  const trace = printed.slice(Math.max(0, printed.indexOf("Call Trace:")));
  const calls = trace.matchAll(/^(?:\[[^\]]*\])?\s+([\w.]+\+0x[0-9a-f]+)\/0x[0-9a-f]+\s*$/gm);
  return [place[1], ...Array.from(calls, ([, name]) => name).slice(0, FRAMES - 1)];
}
