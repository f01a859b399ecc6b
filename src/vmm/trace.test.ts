import { afterAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ExitReason, RunPage } from "./exit.ts";
import { MachineImage } from "./image.ts";
import { type ExitRecord, Trace, TraceError, type TraceRecord } from "./trace.ts";
import { TraceWriter } from "./trace-writer.ts";

const folder = mkdtempSync(join(tmpdir(), "trace-"));
const path = join(folder, "trace");
afterAll(() => rmSync(folder, { recursive: true }));

const image = new MachineImage([{ base: 0, size: 0x3000, readonly: false }]);
const run = new RunPage(image.memory.pointer(0, 0x3000), 0x3000);
const HEADER = { engine: "unicorn", machine: { memory: 1, cmdline: "a=b" } };

/** Puts an exit into the run page. */
function place(exit: Extract<TraceRecord, { kind: "exit" }>): void {
  run.u32[2] = exit.reason;
  let data = 0x1000;
  if (exit.reason === ExitReason.IO) {
    run.u8[32] = exit.direction;
    run.u8[33] = exit.size;
    run.u16[17] = exit.address;
    run.u32[9] = exit.count;
    run.u32[10] = data;
  } else if (exit.reason === ExitReason.MMIO) {
    run.u32[8] = exit.address % 2 ** 32;
    run.u32[9] = Math.floor(exit.address / 2 ** 32);
    run.u32[12] = exit.size;
    run.u8[52] = exit.direction;
    data = RunPage.MMIO_DATA;
  } else if (exit.reason === ExitReason.RDMSR || exit.reason === ExitReason.WRMSR) {
    run.u32[11] = exit.address;
    data = 48;
  }
  run.view.setBigUint64(304 + 128, exit.rip, true);
  run.u8.set(exit.data, data);
}

const file = (name: string) => ({ path: name, descriptor: openSync(name, "w") });

function write(records: readonly TraceRecord[]): void {
  using writer = new TraceWriter(file(path), HEADER);
  for (const record of records) {
    switch (record.kind) {
      case "exit":
        place(record);
        writer.exit(run, record.now, record.handled, record.rip !== 0n);
        break;
      case "interrupt":
        writer.interrupt(record.vector, record.now);
        break;
      case "tick":
        writer.tick(record.now);
        break;
      case "input":
        writer.input(record.data, record.now);
        break;
      case "request":
        writer.request(record.command, record.now);
        break;
      case "memory":
        writer.memory(record.address, record.data, record.now);
        break;
      case "reset":
        writer.reset(record.epoch);
        break;
    }
  }
}

/** The same with time that goes forward, but for resets, which come at the time before them. */
function inOrder(list: readonly TraceRecord[]): TraceRecord[] {
  const times = list.map(({ now }) => now).sort((a, b) => a - b);
  let start = 0;
  let last = 0;
  return list.map((record, i) => {
    if (record.kind === "reset") {
      const reset = { ...record, now: last };
      start = times[i];
      last = 0;
      return reset;
    }
    last = times[i] - start;
    return { ...record, now: last };
  });
}

const plain = (records: Iterable<TraceRecord>) =>
  [...records].map((record) => ("data" in record ? { ...record, data: [...record.data] } : record));

const now = fc.integer({ min: 0, max: 2 ** 45 });
const common = {
  kind: fc.constant("exit" as const),
  now,
  handled: fc.integer({ min: 0, max: 0xffffffff }),
  rip: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
};
const data = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const io = fc
  .record({
    ...common,
    reason: fc.constant<number>(ExitReason.IO),
    direction: fc.nat(1),
    size: fc.constantFrom(1, 2, 4),
    count: fc.integer({ min: 1, max: 1024 }),
    address: fc.nat(0xffff),
  })
  .chain((exit) => data(exit.size * exit.count).map((answer) => ({ ...exit, data: answer })));
const mmio = fc
  .record({
    ...common,
    reason: fc.constant<number>(ExitReason.MMIO),
    direction: fc.nat(1),
    size: fc.constantFrom(1, 2, 4, 8),
    count: fc.constant(1),
    address: fc.integer({ min: 0, max: 2 ** 46 }),
  })
  .chain((exit) => data(exit.size).map((answer) => ({ ...exit, data: answer })));
const msr = fc
  .record({
    ...common,
    reason: fc.constantFrom<number>(ExitReason.RDMSR, ExitReason.WRMSR),
    size: fc.constant(8),
    count: fc.constant(1),
    address: fc.nat(0xffffffff),
    data: data(8),
  })
  .map((exit) => ({ ...exit, direction: exit.reason === ExitReason.WRMSR ? 1 : 0 }));
const bare = fc.record({
  ...common,
  reason: fc.constantFrom<number>(ExitReason.HLT, ExitReason.INTR, ExitReason.SHUTDOWN),
  direction: fc.constant(0),
  size: fc.constant(0),
  count: fc.constant(0),
  address: fc.constant(0),
  data: fc.constant(new Uint8Array()),
});
const short = fc.uint8Array({ minLength: 1, maxLength: 300 });
const records: fc.Arbitrary<TraceRecord> = fc.oneof(
  io,
  mmio,
  msr,
  bare,
  fc.record({ kind: fc.constant("interrupt" as const), now, vector: fc.nat(255) }),
  fc.record({ kind: fc.constant("tick" as const), now }),
  fc.record({ kind: fc.constant("input" as const), now, data: short }),
  fc.record({ kind: fc.constant("request" as const), now, command: fc.nat(2 ** 32 - 1) }),
  fc.record({ kind: fc.constant("memory" as const), now, address: fc.nat(), data: short }),
  fc.record({
    kind: fc.constant("reset" as const),
    now,
    epoch: fc.double({ min: -8.64e15, max: 8.64e15, noNaN: true }),
  }),
);

describe("what is written is read", () => {
  test("records of all kinds", () => {
    fc.assert(
      fc.property(fc.array(records, { maxLength: 40 }).map(inOrder), (list) => {
        write(list);
        const trace = Trace.open(path);
        expect(trace.header).toEqual(HEADER);
        expect(plain(trace.records())).toEqual(plain(list));
      }),
      { seed: 1, numRuns: 150 },
    );
  });

  test("guest time starts anew at a reset, and nowhere else", () => {
    const list: TraceRecord[] = [
      { kind: "tick", now: 7 },
      { kind: "reset", now: 7, epoch: 1e12 },
      { kind: "tick", now: 3 },
      { kind: "reset", now: 3, epoch: 1e12 + 1 },
      { kind: "reset", now: 0, epoch: 1e12 + 2 },
      { kind: "tick", now: 1 },
    ];
    write(list);
    expect([...Trace.open(path).records()]).toEqual(list);
    write([
      { kind: "tick", now: 7 },
      { kind: "tick", now: 3 },
    ]);
    expect(() => [...Trace.open(path).records()]).toThrow(/: damaged at offset \d+$/);
  });

  test("a trace of an older version", () => {
    write([{ kind: "tick", now: 7 }]);
    const old = new Uint8Array(readFileSync(path));
    old[8] = 1;
    expect([...new Trace("old", old).records()]).toEqual([{ kind: "tick", now: 7 }]);
    old[8] = 2;
    expect([...new Trace("old", old).records()]).toEqual([{ kind: "tick", now: 7 }]);
    old[8] = 0;
    expect(() => new Trace("old", old)).toThrow("old: trace version 0; this vmd reads 1 to 3");
  });

  test("more than the writer's buffer holds", () => {
    const exit: TraceRecord = {
      kind: "exit",
      now: 0,
      handled: 1,
      reason: ExitReason.IO,
      direction: 1,
      size: 4,
      count: 1024,
      address: 0x1f0,
      rip: 0n,
      data: new Uint8Array(4096).fill(7),
    };
    const list = Array.from({ length: 200 }, (_, i) => ({ ...exit, now: i }));
    write(list);
    let count = 0;
    for (const record of Trace.open(path).records()) {
      expect(record.now).toBe(count++);
      expect((record as typeof exit).data).toEqual(exit.data);
    }
    expect(count).toBe(200);
  });

  test("long input and long reads of memory, in pieces", () => {
    const long = Uint8Array.from({ length: 200_000 }, (_, i) => i * 7);
    write([
      { kind: "input", now: 1, data: long },
      { kind: "memory", now: 2, address: 0x5000, data: long },
    ]);
    const pieces = [...Trace.open(path).records()] as Extract<TraceRecord, { kind: "memory" }>[];
    const joined = (kind: string) =>
      Buffer.concat(pieces.filter((piece) => piece.kind === kind).map((piece) => piece.data));
    expect(joined("input").equals(long)).toBe(true);
    expect(joined("memory").equals(long)).toBe(true);
    const memory = pieces.filter((piece) => piece.kind === "memory");
    let at = 0x5000;
    for (const piece of memory) {
      expect(piece.address).toBe(at);
      at += piece.data.length;
    }
  });
});

const setDirection = (direction: number) => (view: DataView, at: number) =>
  view.setUint8(at + 17, direction);
const setItems = (size: number, count: number) => (view: DataView, at: number) => {
  view.setUint8(at + 18, size);
  view.setUint32(at + 20, count, true);
};

describe("files are read in pieces", () => {
  test("records across the edge of a piece, and what was taken stays", () => {
    const list = Array.from({ length: 400 }, (_, i): TraceRecord => {
      const data = new Uint8Array(60_000 + i).fill(i);
      return { kind: "input", now: i, data };
    });
    write(list);
    const got = [...Trace.open(path).records()];
    expect(got.length).toBe(list.length);
    for (const [i, record] of got.entries()) {
      const { data } = record as Extract<TraceRecord, { kind: "input" }>;
      expect(data.length).toBe(60_000 + i);
      expect(data.every((byte) => byte === (i & 0xff))).toBe(true);
    }
  });

  test("a file larger than memory should hold takes a piece's memory", () => {
    write([{ kind: "tick", now: 1 }]);
    truncateSync(path, 2 ** 40);
    const trace = Trace.open(path);
    expect(() => [...trace.records()]).toThrow(/: damaged at offset \d+$/);
  });
});

describe("a file that can't be written", () => {
  test("is one sentence at the start", () => {
    expect(() => new TraceWriter(file("/dev/full"), HEADER)).toThrow(
      new TraceError("/dev/full: no space left on device"),
    );
    const long = { ...HEADER, machine: { cmdline: "x".repeat(2 ** 20) } };
    expect(() => new TraceWriter(file(path), long)).toThrow(
      new TraceError(`${path}: the header is too long`),
    );
  });

  test("is a sentence kept, and no exception, later", () => {
    const open = file(path);
    using writer = new TraceWriter(open, HEADER);
    closeSync(open.descriptor);
    expect(openSync("/dev/full", "w")).toBe(open.descriptor);
    expect(writer.failure).toBeUndefined();
    for (let i = 0; i < 100; i++) {
      writer.input(new Uint8Array(60_000), i);
      writer.memory(0, new Uint8Array(60_000), i);
      writer.tick(i);
    }
    writer.flush();
    expect(writer.failure).toBe(`${path}: no space left on device`);
  });
});

describe("damaged files", () => {
  const read = (content: Uint8Array) => plain(new Trace("some.trace", content).records());
  const errors = (content: Uint8Array): string | undefined => {
    try {
      read(content);
      return undefined;
    } catch (error) {
      expect(error).toBeInstanceOf(TraceError);
      return (error as TraceError).message;
    }
  };

  test("say what they are", () => {
    expect(errors(new Uint8Array())).toBe("some.trace: not an exit trace");
    expect(errors(new Uint8Array(100))).toBe("some.trace: not an exit trace");
    write([]);
    const good = new Uint8Array(readFileSync(path));
    const newer = good.slice();
    newer[8] = 9;
    expect(errors(newer)).toBe("some.trace: trace version 9; this vmd reads 1 to 3");
    const long = good.slice();
    long[15] = 0x7f;
    expect(errors(long)).toBe("some.trace: damaged at offset 12");
    const json = good.slice();
    json[16] = 0x58;
    expect(errors(json)).toBe("some.trace: damaged at offset 16");
    expect(() => Trace.open(join(folder, "none"))).toThrow(/none: no such file or directory$/);
    expect(() => Trace.open(folder)).toThrow(/: is a directory$/);
    expect(() => Trace.open("/dev/zero")).toThrow("/dev/zero: not a regular file");
  });

  test("cut off anywhere, they give what is whole and then a TraceError", () => {
    write([
      { kind: "tick", now: 1 },
      { kind: "interrupt", now: 2, vector: 0x20 },
      { kind: "input", now: 3, data: Uint8Array.of(1, 2, 3) },
    ]);
    const whole = new Uint8Array(readFileSync(path));
    const all = read(whole);
    expect(all.length).toBe(3);
    for (let length = 0; length < whole.length; length++) {
      const got: TraceRecord[] = [];
      try {
        for (const record of new Trace("t", whole.subarray(0, length)).records()) got.push(record);
      } catch (error) {
        expect(error).toBeInstanceOf(TraceError);
      }
      expect(plain(got)).toEqual(all.slice(0, got.length));
    }
  });

  test("records that no machine makes are damaged", () => {
    const exit = (fields: Partial<ExitRecord>): ExitRecord => ({
      kind: "exit",
      now: 5,
      handled: 0,
      reason: ExitReason.IO,
      direction: 0,
      size: 1,
      count: 1,
      address: 0x3f8,
      rip: 0n,
      data: Uint8Array.of(1),
      ...fields,
    });
    // Offsets within a record: direction 17, size 18, count 20, address 24, data 40.
    const damage: [TraceRecord, (view: DataView, at: number) => void][] = [
      [exit({}), (view, at) => view.setUint8(at + 1, 1)],
      [exit({}), (view, at) => view.setFloat64(at + 8, NaN, true)],
      [exit({}), (view, at) => view.setFloat64(at + 8, -1, true)],
      [exit({}), (view, at) => view.setFloat64(at + 8, 1, true)],
      [exit({}), (view, at) => view.setFloat64(at + 8, 1e300, true)],
      [exit({}), (view, at) => view.setUint8(at + 17, 2)],
      [exit({}), (view, at) => view.setUint8(at + 18, 0)],
      [exit({ count: 3, data: new Uint8Array(3) }), setItems(3, 1)],
      [exit({}), (view, at) => view.setUint32(at + 20, 2, true)],
      [exit({}), (view, at) => view.setUint32(at + 20, 0xffffffff, true)],
      [exit({}), (view, at) => view.setFloat64(at + 24, 0x10000, true)],
      [exit({}), (view, at) => view.setFloat64(at + 24, 0.5, true)],
      [exit({ reason: ExitReason.MMIO }), (view, at) => view.setFloat64(at + 24, -8, true)],
      [
        exit({ reason: ExitReason.MMIO, count: 1, size: 8, data: new Uint8Array(8) }),
        setItems(4, 2),
      ],
      [exit({ reason: ExitReason.RDMSR, size: 8, data: new Uint8Array(8) }), setItems(4, 2)],
      [exit({ reason: ExitReason.RDMSR, size: 8, data: new Uint8Array(8) }), setDirection(1)],
      [exit({ reason: ExitReason.HLT }), setItems(1, 0)],
      [{ kind: "interrupt", now: 5, vector: 1 }, (view, at) => view.setUint32(at + 16, 256, true)],
      [
        { kind: "memory", now: 5, address: 0, data: Uint8Array.of(1) },
        (view, at) => view.setFloat64(at + 16, Infinity, true),
      ],
      [
        { kind: "reset", now: 5, epoch: 0 },
        (view, at) => view.setFloat64(at + 16, 8.64e15 + 2, true),
      ],
      [{ kind: "reset", now: 5, epoch: 0 }, (view, at) => view.setFloat64(at + 16, NaN, true)],
      [{ kind: "reset", now: 5, epoch: 0 }, (view, at) => view.setFloat64(at + 8, 4, true)],
    ];
    for (const [record, change] of damage) {
      const tick: TraceRecord = { kind: "tick", now: 5 };
      write([tick]);
      const at = readFileSync(path).length;
      write([tick, record]);
      const content = new Uint8Array(readFileSync(path));
      expect(errors(content)).toBeUndefined();
      change(new DataView(content.buffer), at);
      expect(errors(content)).toBe(`some.trace: damaged at offset ${at}`);
    }
  });

  test("with bytes changed, they never throw anything else, and end", () => {
    fc.assert(
      fc.property(
        fc.array(records, { minLength: 1, maxLength: 8 }).map(inOrder),
        fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 6 }),
        (list, changes) => {
          write(list);
          const content = new Uint8Array(readFileSync(path));
          for (const [at, value] of changes) content[at % content.length] = value;
          errors(content);
        },
      ),
      { seed: 2, numRuns: 300 },
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (tail) => {
        write([]);
        errors(Buffer.concat([readFileSync(path), tail]));
      }),
      { seed: 3, numRuns: 300 },
    );
  }, 60_000);

  test("a header that is JSON but no object is damaged", () => {
    write([]);
    const json = Buffer.from("null");
    const head = new Uint8Array(readFileSync(path)).slice(0, 16);
    new DataView(head.buffer).setUint32(12, json.length, true);
    writeFileSync(path, Buffer.concat([head, json]));
    expect(() => Trace.open(path)).toThrow(TraceError);
  });
});
