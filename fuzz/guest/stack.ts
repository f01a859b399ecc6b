/** Where a guest is, and whence it was called: for telling crashes from one another. */
import type { Symbols } from "./symbols.ts";
import type { GuestView } from "./view.ts";

const FRAMES = 8;
/** Control characters, and the sequences that they begin: ECMA-48, 5.4. */
// oxlint-disable-next-line no-control-regex
const CONTROL = /\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x1f\x7f-\x9f]/g;
const PLAIN_MAX = 200;
/** Vectors whose handlers find an error code on the stack; Intel SDM vol. 3A, table 6-1. */
const WITH_CODE = new Set([8, 10, 11, 12, 13, 14, 17, 21]);

/** A frame whose address no memory is at: which one it is comes from the input, most likely. */
const NOWHERE = "nowhere";

/** Where to look: what an exception interrupted, what the guest named, or, absent, its registers. */
export type Place = { readonly vector: number } | { readonly rip: bigint; readonly rbp: bigint };

/** Return addresses by frame pointers, innermost first. */
export function stackOf(view: GuestView, symbols: Symbols, place?: Place): string[] {
  const { word } = view;
  const { rip, rbp } = beginning(view, place);
  if (view.physical(rip) === undefined) return [NOWHERE];
  const frames = [rip];
  let frame = rbp;
  while (frames.length < FRAMES) {
    const caller = view.read(frame + BigInt(word), word);
    const next = view.read(frame, word);
    if (caller === undefined || next === undefined) break;
    // The outermost one's, or overwritten.
    if (caller === 0n || view.physical(caller) === undefined) break;
    frames.push(caller);
    // Callers' frames lie above.
    if (next <= frame) break;
    frame = next;
  }
  // A call may be a function's end: the byte before is the caller's for sure.
  return frames.map((address, index) => symbols.name(index === 0 ? address : address - 1n));
}

function beginning(view: GuestView, place?: Place): { rip: bigint; rbp: bigint } {
  if (place !== undefined && "rip" in place) return place;
  const { word } = view;
  const rbp = view.register("rbp");
  if (place === undefined) return { rip: view.rip, rbp };
  const code = WITH_CODE.has(place.vector) ? word : 0;
  return { rip: view.read(view.register("rsp") + BigInt(code), word) ?? view.rip, rbp };
}

/** What kernels print when they are lost; of Linux's "general protection fault" not a process's. */
const PANICS = [
  ...[/Kernel panic/, /kernel BUG at /, /\bBUG: /, /\bOops: /, /general protection fault, /],
  ...[/: [0-9a-f]{4} \[#\d+\]/, /\bpanic: /],
];

/** The first line that says that the guest's kernel is lost, or has one of the texts. */
export function panicLine(printed: string, texts: readonly string[]): string | undefined {
  const line = printed.split("\n").find((one) => {
    return PANICS.some((panic) => panic.test(one)) || texts.some((text) => one.includes(text));
  });
  return line === undefined ? undefined : plain(line.replace(/^(<\d+>)?\[[^\]]*\]\s*/, ""));
}

/** What a guest printed, to be shown in a sentence: a terminal takes no orders from it. */
export function plain(printed: string): string {
  return printed.replace(CONTROL, "").trim().slice(0, PLAIN_MAX);
}

/** Of a user's code: RIP is behind its selector, GDT entry 6 with privilege 3. */
const USER = "0033";

/** A Linux kernel's own words of where it was, innermost first: "RIP: 0010:name+0x1/0x2", and its trace. */
export function printedStack(printed: string): string[] {
  const trace = printed.slice(Math.max(0, printed.indexOf("Call Trace:")));
  const calls = trace.matchAll(
    /^(?:\[[^\]]*\])?\s+([\w.]+\+0x[0-9a-f]+)\/0x[0-9a-f]+(?: \[\w+\])?\s*$/gm,
  );
  const frames = Array.from(calls, ([, name]) => name);
  // Those that print come first.
  const first = frames.findIndex((name) => !/^(dump_stack|panic\b)/.test(name));
  const callers = frames.slice(Math.max(0, first)).slice(0, FRAMES - 1);
  const place = /[RE]IP: (?:([0-9a-f]{4}):)?([\w.]+\+0x[0-9a-f]+|0x[0-9a-f]+)/.exec(printed);
  if (place === null) return callers;
  const [, selector, rip] = place;
  // What a process asked for is not where the kernel was, unless it's what killed process 1.
  if (selector === USER && callers.length > 0 && !printed.includes("Attempted to kill init"))
    return callers;
  // As it says of code that it can't show.
  const isWild = rip.startsWith("0x") && /Code: (Unable to access|Bad RIP)/.test(printed);
  return [isWild ? NOWHERE : rip, ...callers];
}
