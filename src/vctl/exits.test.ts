/** Traces from end to end: recorded, counted, replayed, followed; and hostile ones. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { guestOptions } from "../../golden/boot.ts";
import { linuxAmd64 } from "../../golden/guests/index.ts";
import { Trace, TraceError } from "../vmm/trace.ts";
import { follow, followLimits } from "../vmd/follow.ts";
import { replay } from "../vmd/replay.ts";
import { Vm, type VmOptions } from "../vmd/vm.ts";
import { exitStatistics } from "./exit-statistics.ts";
import { firmware, vctl } from "./testing.ts";

setDefaultTimeout(120_000);

const missing = linuxAmd64.missing();
if (missing !== undefined) console.log(`traces of Linux skipped: ${missing}`);

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "exits-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function record(name: string, options: Partial<VmOptions> & { kernel: string }) {
  const path = join(folder, name);
  await using vm = await Vm.start({
    memory: "1M",
    engine: "unicorn",
    virtualTime: true,
    reboot: false,
    traceExits: path,
    ...options,
  });
  await vm.ended;
  return path;
}

// cli; mov cx, 5; again: rdtsc; out 0x80, al; in al, 0x61; loop again; hlt
const TSC = "fa b9 05 00 0f 31 e6 80 e4 61 e2 f8 f4";
// Prints S, reads the RTC's second, and echoes a key: r resets the machine, another one halts it.
const RESET =
  "b0 53 ba f8 03 ee b0 00 e6 70 e4 71 ba fd 03 ec a8 01 74 fb b2 f8 ec ee 3c 72 75 04 b0 fe e6 64 fa f4";
const EXIT = "b0 48 ba f8 03 ee b0 0a ee fa f4";

describe("a recorded guest", () => {
  test("is recorded the same again, where its time is virtual", async () => {
    const kernel = firmware(folder, "tsc.bin", TSC);
    const a = await record("same-a", { kernel });
    const b = await record("same-b", { kernel });
    expect(readFileSync(a).length).toBeGreaterThan(400);
    expect(readFileSync(a).equals(readFileSync(b))).toBe(true);
  });

  test("shows the same TSC again, where its time is virtual", async () => {
    const trace = Trace.open(await record("tsc", { kernel: firmware(folder, "tsc.bin", TSC) }));
    expect(followLimits(trace, "unicorn")).toBeUndefined();
    expect(follow(trace, "unicorn")).toEqual({
      equal: 11,
      difference: undefined,
      failed: false,
      ending: "the trace ended",
    });
    expect(followLimits(trace, "kvm")).toStartWith("engine kvm has real time");
  });

  test("shows another TSC in real time, and that is a difference", async () => {
    const kernel = firmware(folder, "tsc.bin", TSC);
    const path = await record("real", { kernel, virtualTime: false });
    const { code, err } = vctl("exits", path, "--cross-check", "unicorn");
    expect(err).toMatch(/^vctl: real time: a guest that reads the TSC/);
    expect(err).toMatch(/^vctl: exit \d: out 0x80\/1: recorded [0-9a-f]{2}, unicorn [0-9a-f]{2}$/m);
    expect(code).toBe(1);
  });

  test("that differs in an answer or an exit is shown with both sides", async () => {
    const path = await record("changed", { kernel: firmware(folder, "exit.bin", EXIT) });
    const bytes = new Uint8Array(readFileSync(path));
    const change = (at: number, value: number) => {
      const changed = bytes.slice();
      changed[at] = value;
      return new Trace("changed", changed);
    };
    // The first record ends with its one byte of data, and has its port before that.
    const start = 16 + new DataView(bytes.buffer).getUint32(12, true);
    expect(bytes[start + 40]).toBe(0x48);
    expect(follow(change(start + 40, 0x49), "unicorn").difference).toBe(
      "exit 0: out 0x3f8/1: recorded 49, unicorn 48",
    );
    expect(follow(change(start + 32, 0x77), "unicorn").difference).toMatch(
      /^exit 0: out 0x3f8\/1: RIP differs: recorded 0xf077, unicorn 0xf00[0-9]$/,
    );
  });

  test("that can't be followed is no success", async () => {
    for (const virtualTime of [true, false]) {
      const path = await record("stuck", {
        kernel: firmware(folder, "stuck.bin", EXIT),
        virtualTime,
      });
      firmware(folder, "stuck.bin", "eb fe");
      const { code, err } = vctl("exits", path, "--cross-check", "unicorn");
      const why = virtualTime
        ? "the guest made no exit on engine unicorn when it should have"
        : "the guest ran 2 s on engine unicorn without an exit";
      expect(err).toEndWith(`vctl: 0 exits are equal on engine unicorn: ${why}\n`);
      expect(code).toBe(1);
    }
  });
});

describe("a guest that resets its machine", () => {
  const play = async (name: string, virtualTime: boolean) => {
    const path = join(folder, name);
    await using vm = await Vm.start({
      memory: "1M",
      engine: "unicorn",
      virtualTime,
      traceExits: path,
      kernel: firmware(folder, "reset.bin", RESET),
    });
    await vm.console.expect("S");
    vm.console.send("r");
    await vm.console.expect("rS");
    vm.console.send("r");
    await vm.console.expect("rS");
    vm.console.send("q");
    expect((await vm.ended).kind).toBe("power-off");
    return path;
  };

  test("has all its runs in one trace, in real time too", async () => {
    const started = Date.now();
    const path = await play("resets-real", false);
    const records = [...Trace.open(path).records()];
    const resets = records.filter((record) => record.kind === "reset");
    expect(resets.length).toBe(2);
    let epoch = started;
    for (const reset of resets) {
      expect(reset.epoch).toBeGreaterThanOrEqual(epoch);
      expect(reset.epoch).toBeLessThanOrEqual(Date.now());
      epoch = reset.epoch;
      // The exit before it is the guest's, the one behind it its first one again.
      const at = records.indexOf(reset);
      expect(records[at - 1]).toMatchObject({ kind: "exit", address: 0x64, direction: 1 });
      expect(records[at + 1]).toMatchObject({ kind: "exit", data: Uint8Array.of(0x53) });
    }
    const typed = records.filter((record) => record.kind === "input");
    expect(typed.map(({ data }) => String.fromCharCode(...data))).toEqual(["r", "r", "q"]);
    const exits = records.filter(({ kind }) => kind === "exit").length;
    expect(replay(Trace.open(path))).toEqual({ exits, difference: undefined });
  });

  test("is counted, replayed and followed over its resets", async () => {
    const path = await play("resets", true);
    const exits = [...Trace.open(path).records()].filter(({ kind }) => kind === "exit").length;
    const counted = vctl("exits", path);
    expect(counted.err).toBe("vctl: of 3 runs: the machine was reset 2 times\n");
    expect(counted.out).toMatch(/IO +out 0x64\/1 +2 /);
    const json = JSON.parse(vctl("exits", "--json", path).out);
    expect(json.runs).toBe(3);
    expect(json.exits).toContainEqual({ reason: "IO", where: "in 0x71/1", count: 3, handled: 0 });
    expect(vctl("exits", path, "--replay")).toEqual({
      code: 0,
      out: "",
      err: `vctl: ${exits} exits replayed: every answer is the recorded one\n`,
    });
    expect(vctl("exits", path, "--cross-check", "unicorn")).toEqual({
      code: 0,
      out: "",
      err: `vctl: ${exits} exits are equal on engine unicorn: the trace ended\n`,
    });
  });

  test("is shown with the run of the first difference", async () => {
    const path = await play("resets-changed", true);
    const bytes = new Uint8Array(readFileSync(path));
    const trace = new Trace("changed", bytes);
    // The file is the header and then the records, so the second run's first answer is counted out.
    let at = 16 + new DataView(bytes.buffer).getUint32(12, true);
    let exits = 0;
    let seconds = 0;
    for (const record of trace.records()) {
      const head = record.kind === "exit" ? 24 : ["tick", "input"].includes(record.kind) ? 0 : 8;
      at += 16 + head + ("data" in record ? record.data.length : 0);
      if (record.kind !== "exit") continue;
      exits++;
      if (record.address === 0x71 && ++seconds === 2) break;
    }
    bytes[at - 1] ^= 0x10;
    expect(replay(new Trace("changed", bytes)).difference).toMatch(
      new RegExp(
        `^exit ${exits}, guest time \\d+ ns of run 2: in 0x71/1 gave 0x[1-5]?\\d then and 0x`,
      ),
    );
    // The engine gets the answer that was recorded, so only the devices differ there.
    expect(follow(new Trace("changed", bytes), "unicorn").difference).toMatch(
      new RegExp(`^exit ${exits}: in 0x71/1 gave `),
    );
  });

  test("has its resets' time of day", () => {
    const second = (now: number, value: number) => [
      exitRecord(now, { direction: 1, size: 1, count: 1, port: 0x70, value: 0 }),
      exitRecord(now + 1, { direction: 0, size: 1, count: 1, port: 0x71, value }),
    ];
    const reset = (now: number, epoch: number) => {
      const bytes = new Uint8Array(24);
      bytes[0] = 6;
      new DataView(bytes.buffer).setFloat64(8, now, true);
      new DataView(bytes.buffer).setFloat64(16, epoch, true);
      return bytes;
    };
    const records = (value: number) => [...second(5, 0), reset(6, 42_000), ...second(3, value)];
    expect(replay(new Trace("day", encode(HEADER, records(0x42)))).difference).toBeUndefined();
    expect(replay(new Trace("day", encode(HEADER, records(0x41)))).difference).toBe(
      "exit 4, guest time 4 ns of run 2: in 0x71/1 gave 0x41 then and 0x42 now",
    );
  });
});

describe.skipIf(missing !== undefined)("a Linux boot with a dialogue", () => {
  test("is recorded, counted, replayed and followed to its end", async () => {
    const path = join(folder, "linux");
    {
      await using vm = await Vm.start({
        ...(await guestOptions(linuxAmd64)),
        engine: "unicorn",
        virtualTime: true,
        traceExits: path,
      });
      await vm.console.expect(linuxAmd64.says, 60_000);
      vm.console.send("echo $((6*7))\r");
      await vm.console.expect("42\r", 60_000);
      vm.console.send("sleep 1; echo it is $((1+1))\r");
      await vm.console.expect("it is 2", 60_000);
    }
    const { exits } = JSON.parse(vctl("exits", "--json", path).out);
    const count = exits.reduce((sum: number, { count: n }: { count: number }) => sum + n, 0);
    expect(count).toBeGreaterThan(10_000);
    expect(exits[0]).toMatchObject({ reason: "IO", handled: 0 });
    const replayed = `vctl: ${count} exits replayed: every answer is the recorded one\n`;
    expect(vctl("exits", path, "--replay")).toEqual({ code: 0, out: "", err: replayed });
    const followed = `vctl: ${count} exits are equal on engine unicorn: the trace ended\n`;
    expect(vctl("exits", path, "--cross-check", "unicorn")).toEqual({
      code: 0,
      out: "",
      err: followed,
    });
  });
});

// A trace's bytes, with no writer between.
function encode(header: unknown, records: readonly Uint8Array[]): Uint8Array {
  const json = new TextEncoder().encode(JSON.stringify(header));
  const head = new Uint8Array(16);
  head.set(new TextEncoder().encode("VMDTRACE"));
  new DataView(head.buffer).setUint32(8, 2, true);
  new DataView(head.buffer).setUint32(12, json.length, true);
  return new Uint8Array(Buffer.concat([head, json, ...records]));
}

interface Access {
  direction: number;
  size: number;
  count: number;
  port: number;
  value: number;
}

// An exit for I/O whose data is all one byte.
function exitRecord(now: number, { direction, size, count, port, value }: Access): Uint8Array {
  const bytes = new Uint8Array(40 + size * count).fill(value, 40);
  const view = new DataView(bytes.buffer);
  bytes.set([1, 0]);
  view.setUint16(2, size * count, true);
  view.setFloat64(8, now, true);
  bytes.set([2, direction, size], 16);
  view.setUint32(20, count, true);
  view.setFloat64(24, port, true);
  return bytes;
}

const HEADER = {
  engine: "unicorn",
  machine: { name: "vm", kernel: "/k", memory: 2 ** 20, epoch: 0, debugExit: true },
};

describe("hostile traces", () => {
  const consume = (bytes: Uint8Array): string | undefined => {
    try {
      const trace = new Trace("hostile", bytes);
      exitStatistics(trace);
      replay(trace);
      return undefined;
    } catch (error) {
      if (!(error instanceof TraceError)) throw error;
      return error.message;
    }
  };

  const PORTS = [
    0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x40, 0x41, 0x42, 0x43, 0x61, 0x60, 0x64, 0x92, 0xcf9, 0x70,
    0x71, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x402, 0xf4, 0x510, 0x511, 0x514, 0x518, 0xcf8,
    0xcfc, 0xffff,
  ];
  const step = fc.oneof(
    fc.constantFrom(0, 1, 10, 1e6, 1e9, 1e12, 2 ** 52),
    fc.nat(100_000_000),
    fc.double({ min: 0, max: 1e6, noNaN: true }),
  );
  const exit = fc
    .record({
      step,
      direction: fc.nat(1),
      size: fc.constantFrom(1, 2, 4),
      count: fc.oneof({ weight: 9, arbitrary: fc.constant(1) }, fc.integer({ min: 1, max: 999 })),
      port: fc.constantFrom(...PORTS),
      value: fc.nat(0xff),
    })
    .map(({ step: ns, ...fields }) => ({ ns, bytes: exitRecord(0, fields) }));
  const plain = fc
    .record({ step, kind: fc.constantFrom(2, 3, 4, 5, 6), value: fc.nat(0xff) })
    .map(({ step: ns, kind, value }) => {
      const head = kind === 2 || kind >= 5 ? 8 : 0;
      const data = kind === 4 || kind === 5 ? 3 : 0;
      const bytes = new Uint8Array(16 + head + data);
      bytes.set([kind, 0, data]);
      bytes.fill(value, 16 + head);
      if (kind === 2) bytes[16] = value;
      if (kind >= 5) new DataView(bytes.buffer).setFloat64(16, value * 16, true);
      return { ns, bytes };
    });
  const trace = fc
    .array(fc.oneof({ weight: 4, arbitrary: exit }, plain), { minLength: 1, maxLength: 30 })
    .map((list) => {
      let now = 0;
      const records = list.map(({ ns, bytes }) => {
        now = Math.min(now + ns, Number.MAX_SAFE_INTEGER);
        new DataView(bytes.buffer).setFloat64(8, now, true);
        return bytes;
      });
      return encode(HEADER, records);
    });
  const VALUES = [0, 1, 2, 3, 5, 8, 0x7f, 0x80, 0xff];
  const change = fc.tuple(
    fc.constantFrom("byte", "double", "cut", "swap"),
    fc.nat(),
    fc.oneof(fc.constantFrom(...VALUES), fc.nat(255)),
    fc.constantFrom(NaN, Infinity, -1, 1e300, 2 ** 53, 0.5, 65536, 5e-324),
  );

  test("give TraceErrors and nothing else, in bounded time", () => {
    const seen = { whole: 0, damaged: 0 };
    let slowest = 0;
    fc.assert(
      fc.property(trace, fc.array(change, { maxLength: 4 }), (whole, changes) => {
        let bytes = whole.slice();
        for (const [kind, where, value, double] of changes) {
          // Mostly behind the header, where most of it is.
          const from = where % 8 === 0 ? 0 : Math.min(bytes.length - 1, 110);
          const at = from + (where % Math.max(1, bytes.length - from));
          if (kind === "byte") bytes[at] = value;
          else if (kind === "cut") bytes = bytes.slice(0, at + 1);
          else if (kind === "swap") bytes.copyWithin(at, at >> 1, (at >> 1) + value);
          else if (at + 8 <= bytes.length) new DataView(bytes.buffer).setFloat64(at, double, true);
        }
        const start = performance.now();
        const message = consume(bytes);
        slowest = Math.max(slowest, performance.now() - start);
        if (message === undefined) seen.whole++;
        else seen.damaged++;
        expect(message ?? "hostile: ").toMatch(/^hostile: /);
      }),
      { seed: 5, numRuns: 10_000 },
    );
    expect(slowest).toBeLessThan(2000);
    expect(seen.whole).toBeGreaterThan(1000);
    expect(seen.damaged).toBeGreaterThan(1000);
  });

  test("with a machine that can't be are refused", () => {
    const { machine } = HEADER;
    expect(consume(encode(HEADER, []))).toBeUndefined();
    const bad: Record<string, unknown>[] = [
      { memory: 1e300 },
      { memory: 3 },
      { memory: -4096 },
      { memory: 2 ** 38 },
      { memory: "1M" },
      { memory: null },
      { epoch: 1e300 },
      { epoch: "now" },
      { kernel: 7 },
      { kernel: "" },
      { initrd: 7 },
      { cmdline: {} },
      { modules: "abc" },
      { modules: [1] },
      { format: "elf" },
      { format: 7 },
      { bits: 16 },
      { debugExit: "no" },
      { virtualTime: 1 },
      { name: [] },
    ];
    for (const wrong of bad) {
      const header = { ...HEADER, machine: { ...machine, ...wrong } };
      expect(consume(encode(header, []))).toBe("hostile: the header describes no machine");
      expect(() => follow(new Trace("hostile", encode(header, [])), "unicorn")).toThrow(TraceError);
    }
  });

  test("of a machine with disks is shown, and not run again", () => {
    const header = { ...HEADER, machine: { ...HEADER.machine, backed: true } };
    expect(consume(encode(header, []))).toMatch(/disks, interfaces .* not run again/);
    expect(() => follow(new Trace("hostile", encode(header, [])), "unicorn")).toThrow(TraceError);
  });
});
