/** An executor on a synchronous function, whose code was instrumented when it was loaded. */
import { type Compare, type CrashReport, type Executor, Novelty, Verdict } from "../executor.ts";
import {
  begin,
  end,
  hits,
  MAP_SIZE,
  stepsTaken,
  touched,
  touchedCount,
  traceCompares,
  tracedCompares,
} from "./counters.ts";
import type { Target } from "./target.ts";

const STEPS = 400_000;
const MEMORY = 64 * 2 ** 20;
/** Frames of a crash's stack. */
const STACK = 8;
/** Bytes of a compared string. */
const STRING_MAX = 32;

Error.stackTraceLimit = Math.max(Error.stackTraceLimit, 40);

/** AFL's buckets of counts, a bit each: 1, 2, 3, 4-7, 8-15, 16-31, 32-127, 128 and more. */
const BUCKET = Uint8Array.from({ length: 256 }, (_, count) => {
  if (count < 4) return count === 0 ? 0 : 1 << (count - 1);
  if (count < 8) return 8;
  if (count < 16) return 16;
  if (count < 32) return 32;
  return count < 128 ? 64 : 128;
});

export class FunctionExecutor implements Executor {
  readonly mapSize = MAP_SIZE;
  readonly maxInput: number;
  readonly #target: Target;
  readonly #seen = new Uint8Array(MAP_SIZE);
  #edges = 0;
  #crash: CrashReport | undefined;
  #cost = 0;

  constructor(target: Target) {
    this.#target = target;
    this.maxInput = target.maxInput;
  }

  run(input: Uint8Array, length: number): Verdict {
    const target = this.#target;
    // Whoever gives it may go on changing it.
    const own = input.slice(0, length);
    let thrown: unknown;
    this.#crash = undefined;
    begin(target.steps ?? STEPS, target.memory ?? MEMORY);
    try {
      target.run(own);
    } catch (error) {
      thrown = error;
    }
    this.#cost = stepsTaken();
    const exceeded = end();
    if (exceeded !== undefined) {
      this.#crash = {
        kind: exceeded.limit === "steps" ? "timeout" : "memory",
        text: exceeded.message,
        stack: stackOf(exceeded),
      };
      return exceeded.limit === "steps" ? Verdict.TIMEOUT : Verdict.CRASH;
    }
    if (thrown === undefined || this.#isAnswer(thrown)) return Verdict.DONE;
    this.#crash = reportOf(thrown);
    return Verdict.CRASH;
  }

  #isAnswer(error: unknown): boolean {
    return (this.#target.answers ?? []).some((one) => error instanceof one);
  }

  novelty(): Novelty {
    const seen = this.#seen;
    const count = touchedCount();
    let novelty: Novelty = Novelty.NONE;
    for (let i = 0; i < count; i++) {
      const place = touched[i];
      const bucket = BUCKET[hits[place]];
      const before = seen[place];
      if ((before & bucket) !== 0) continue;
      seen[place] = before | bucket;
      if (before === 0) {
        this.#edges++;
        novelty = Novelty.EDGES;
      } else if (novelty === Novelty.NONE) novelty = Novelty.COUNTS;
    }
    return novelty;
  }

  get edgesSeen(): number {
    return this.#edges;
  }

  edges(): Uint32Array {
    return touched.slice(0, touchedCount()).sort();
  }

  coverageHash(): number {
    let hash = 0x811c9dc5;
    for (const place of this.edges()) {
      hash = Math.imul(hash ^ place, 0x01000193);
      hash = Math.imul(hash ^ hits[place], 0x01000193);
    }
    return hash >>> 0;
  }

  /** Steps. */
  cost(): number {
    return this.#cost;
  }

  crash(): CrashReport | undefined {
    return this.#crash;
  }

  compares(input: Uint8Array, length: number): readonly Compare[] {
    traceCompares();
    this.run(input, length);
    return tracedCompares().flatMap(({ site, left, right }) => {
      const operands = encode(left, right);
      return operands === undefined ? [] : [{ at: site, ...operands }];
    });
  }
}

function reportOf(thrown: unknown): CrashReport {
  if (!(thrown instanceof Error)) return { kind: "exception", text: String(thrown), stack: [] };
  return {
    kind: "exception",
    text: `${thrown.name}: ${thrown.message}`,
    stack: stackOf(thrown),
  };
}

/** Names of functions with their files, innermost first: lines change too often. */
export function stackOf(error: Error): string[] {
  const names: string[] = [];
  for (const line of (error.stack ?? "").split("\n")) {
    const [, name = "?", file] =
      /^ *at (?:(?:new |async )?(.+?) )?\(?(.*?):\d+:\d+\)?$/.exec(line) ?? [];
    if (file === undefined || file.includes("/fuzz/own/")) continue;
    const part = /\/((?:src|fuzz)\/.*)$/.exec(file)?.[1];
    if (part !== undefined) names.push(`${name} (${part})`);
  }
  return names.slice(0, STACK);
}

/** Two operands as bytes; undefined for those that no input holds. */
function encode(left: unknown, right: unknown): Omit<Compare, "at"> | undefined {
  if (typeof left === "string" && typeof right === "string") {
    const size = Math.min(left.length, right.length, STRING_MAX);
    if (size === 0 || (left.length > 4 * size && right.length < 2)) return undefined;
    return {
      size,
      left: Buffer.from(left.slice(0, size)),
      right: Buffer.from(right.slice(0, size)),
    };
  }
  const a = whole(left);
  const b = whole(right);
  if (a === undefined || b === undefined) return undefined;
  const size = [1, 2, 4, 8].find((bytes) => fits(a, bytes) && fits(b, bytes));
  return size === undefined ? undefined : { size, left: little(a, size), right: little(b, size) };
}

function whole(value: unknown): bigint | undefined {
  if (typeof value === "bigint") return value;
  return typeof value === "number" && Number.isSafeInteger(value) ? BigInt(value) : undefined;
}

function fits(value: bigint, size: number): boolean {
  const bits = BigInt(8 * size);
  return value >= -(1n << (bits - 1n)) && value < 1n << bits;
}

function little(value: bigint, size: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigInt64(0, BigInt.asIntN(64, value), true);
  return bytes.subarray(0, size);
}
