/** An executor for tests: a parser of type-length-value records, with a map of its own and four planted bugs. */
import { type Compare, type CrashReport, type Executor, Novelty, Verdict } from "../executor.ts";

/** Places of the map. */
const MAP = 64;
/** Steps that a run has. */
const BUDGET = 2000;

/** AFL's eight buckets, one bit each. */
function bucket(count: number): number {
  if (count <= 3) return count === 3 ? 4 : count;
  if (count <= 7) return 8;
  if (count <= 15) return 16;
  if (count <= 31) return 32;
  return count <= 127 ? 64 : 128;
}

/** What a test may want otherwise. */
export interface TlvOptions {
  readonly maxInput?: number;
  /** Whether an edge comes and goes by itself. */
  readonly unstable?: boolean;
  readonly withoutCompares?: boolean;
  /** Whether it gives traces: the input backwards. */
  readonly traced?: boolean;
  /** A record of type 6 has the whole process die, or wait for ever. */
  readonly fatal?: "dies" | "waits";
  /** Runs after which it can't go on. */
  readonly failsAfter?: number;
}

class Crash extends Error {
  constructor(
    readonly kind: string,
    message: string,
    readonly frames: readonly string[],
  ) {
    super(message);
  }
}

/**
 * Record 1: a sum; 2: nested records; 3: text; 4: jump back (a hang); 5: a table (out of bounds); 6: the
 * magic of four stages.
 */
export class TlvExecutor implements Executor {
  readonly maxInput: number;
  readonly mapSize = MAP;
  edgesSeen = 0;
  runs = 0;
  failure?: string;
  compares?: (input: Uint8Array, length: number) => readonly Compare[];
  trace?: (input: Uint8Array, length: number) => Uint8Array;
  private readonly map = new Uint8Array(MAP);
  private readonly virgin = new Uint8Array(MAP);
  private steps = 0;
  private tracing: Compare[] | undefined;
  private report: CrashReport | undefined;
  private input: Uint8Array = new Uint8Array(0);

  constructor(private readonly options: TlvOptions = {}) {
    this.maxInput = options.maxInput ?? 64;
    if (options.traced) this.trace = (input, length) => input.slice(0, length).reverse();
    if (!options.withoutCompares) {
      this.compares = (input, length) => {
        this.tracing = [];
        this.run(input, length);
        const found = this.tracing;
        this.tracing = undefined;
        return found;
      };
    }
  }

  run(input: Uint8Array, length: number): Verdict {
    this.runs++;
    if (this.runs > (this.options.failsAfter ?? Infinity)) {
      this.failure = "the parser's machine is gone.";
      return Verdict.FAILED;
    }
    this.map.fill(0);
    this.steps = 0;
    this.report = undefined;
    this.input = input;
    try {
      if (this.options.unstable && this.runs % 2 === 0) this.edge(60);
      this.records(0, length, 0);
      return Verdict.DONE;
    } catch (error) {
      if (!(error instanceof Crash)) throw error;
      this.report = { kind: error.kind, text: `${error.message}.`, stack: error.frames };
      return error.kind === "timeout" ? Verdict.TIMEOUT : Verdict.CRASH;
    }
  }

  novelty(): Novelty {
    let novelty: Novelty = Novelty.NONE;
    for (let i = 0; i < MAP; i++) {
      const bits = bucket(this.map[i]) & ~this.virgin[i];
      if (bits === 0) continue;
      if (this.virgin[i] === 0) {
        novelty = Novelty.EDGES;
        this.edgesSeen++;
      } else if (novelty === Novelty.NONE) novelty = Novelty.COUNTS;
      this.virgin[i] |= bits;
    }
    return novelty;
  }

  edges(): Uint32Array {
    const found: number[] = [];
    for (let i = 0; i < MAP; i++) if (this.map[i] !== 0) found.push(i);
    return Uint32Array.from(found);
  }

  coverageHash(): number {
    let hash = 0x811c9dc5;
    for (let i = 0; i < MAP; i++) hash = Math.imul(hash ^ bucket(this.map[i]), 0x01000193);
    return hash >>> 0;
  }

  crash(): CrashReport | undefined {
    return this.report;
  }

  cost(): number {
    return this.steps;
  }

  private edge(place: number): void {
    this.map[place] = Math.min(255, this.map[place] + 1);
    if (++this.steps > BUDGET)
      throw new Crash("timeout", "the budget is used up", ["jump+0x4", "records+0x10"]);
  }

  private equal(at: number, start: number, wanted: readonly number[]): boolean {
    const left = this.input.slice(start, start + wanted.length);
    const right = Uint8Array.from(wanted);
    this.tracing?.push({ at, size: wanted.length, left, right });
    return left.every((byte, i) => byte === right[i]);
  }

  private records(start: number, end: number, depth: number): void {
    this.edge(0);
    let at = start;
    while (at + 2 <= end) {
      const type = this.input[at];
      const length = this.input[at + 1];
      const value = at + 2;
      if (value + length > end) return this.edge(1);
      if (type < 1 || type > 6) this.edge(2);
      else this.edge(2 + type);
      if (type === 6 && this.options.fatal !== undefined) this.fatal(this.options.fatal);
      if (type === 2 && depth < 4) this.records(value, value + length, depth + 1);
      if (type === 3) for (let i = 0; i < length; i++) this.edge(10 + (this.input[value + i] >> 5));
      if (type === 5 && length === 3) this.table(value);
      if (type === 6 && length >= 20) this.magic(value);
      at = type === 4 && length === 1 && this.input[value] === 0x5a ? at : value + length;
    }
    this.edge(9);
  }

  private fatal(how: "dies" | "waits"): void {
    if (how === "dies") process.kill(process.pid, "SIGABRT");
    for (;;);
  }

  private table(value: number): void {
    this.edge(20);
    if (this.input[value] > 0xc0 && this.input[value + 1] < 0x10)
      throw new Crash("page fault", "a read behind the table", ["table+0x8", "records+0x44"]);
  }

  private magic(value: number): void {
    if (!this.equal(1, value, [0xbe, 0xba, 0xfe, 0xca])) return this.edge(30);
    this.edge(31);
    if (!this.equal(2, value + 4, [0x13, 0x37])) return;
    this.edge(32);
    if (!this.equal(3, value + 6, [...new TextEncoder().encode("password!")])) return;
    this.edge(33);
    if (!this.equal(4, value + 15, [1, 2, 3, 4])) return;
    throw new Crash("panic", "the magic word was said", ["magic+0x60", "records+0x52"]);
  }
}

/** An input of that parser: records of a type and a value. */
export function tlv(...records: readonly (readonly [type: number, value: readonly number[]])[]) {
  return Uint8Array.from(records.flatMap(([type, value]) => [type, value.length, ...value]));
}

/** Does nothing with an input. */
export class IdleExecutor implements Executor {
  readonly maxInput: number = 64;
  readonly mapSize = 65_536;
  readonly edgesSeen = 0;
  runs = 0;
  private readonly none = new Uint32Array(0);

  run(_input: Uint8Array, _length: number): Verdict {
    this.runs++;
    return Verdict.DONE;
  }

  novelty(): Novelty {
    return Novelty.NONE;
  }

  edges(): Uint32Array {
    return this.none;
  }

  coverageHash(): number {
    return 0;
  }

  crash(): undefined {
    return undefined;
  }
}

/** What workers open (workers.test.ts). */
export function open(options: TlvOptions = {}): Executor {
  return new TlvExecutor(options);
}
