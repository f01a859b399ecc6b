/** Recordings of a few bytes of firmware: their ends, their files, and what can't be recorded. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { closeSync, constants, openSync, readFileSync, readSync, writeFileSync } from "node:fs";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine, probe } from "../../vmm/engine.ts";
import { encodeHead, HEAD, padded, RecordType } from "../../vmm/snapshot/format.ts";
import { Vm, type VmOptions } from "../vm.ts";
import { encodeEvent, EVENT_HEAD, EventKind, type RecordedEvent } from "./events.ts";
import { InstructionCursor, type InstructionPosition } from "./instruction-cursor.ts";
import { RecordingError, RecordingReader } from "./recording-reader.ts";
import { comparePositions, ReplaySession } from "./replay-session.ts";
import { replayRecording } from "./replay.ts";
import { echo, firmware, printed, throughBreakpoints } from "./testing.ts";

setDefaultTimeout(120_000);
const unicorn = probe("unicorn");
if (!unicorn.available) console.log(`recordings skipped: ${unicorn.why}`);
const steps = "debug" in Engine.prototype;
const VCTL = join(import.meta.dir, "../../vctl/index.ts");

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "recordings-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Sleeps, with nothing that could wake it. */
const asleep = () => firmware(folder, "asleep", "fb  f4  eb fd"); // sti; hlt; jmp the hlt

/** Counts without an exit. */
const busy = () => firmware(folder, "busy", "40  eb fd"); // inc ax; jmp it

const options = { memory: "1M", debugExit: true } as const;

async function recordEcho(name: string, more: Partial<VmOptions> = {}) {
  const path = join(folder, name);
  const vm = await Vm.start({ ...options, kernel: echo(folder), record: path, ...more });
  await vm.console.expect("A");
  for (const key of ["x", "yz", "q"]) {
    await Bun.sleep(13);
    await vm.console.send(key);
    if (key === "q") break;
    // Whoever looks is no matter.
    expect(await vm.registers()).toContain("rip");
    expect((await vm.exits(10)).length).toBeGreaterThan(0);
  }
  return { path, ending: await vm.ended };
}

/** A recording with other events in one record. */
function withEvents(path: string, to: string, events: RecordedEvent[]): void {
  using reader = new RecordingReader(path);
  reader.read(() => {
    while (reader.snapshot.reader.next() !== undefined);
  });
  const { position, reader: place } = reader.place;
  const payload = new Uint8Array(
    events.reduce((sum, { data }) => sum + EVENT_HEAD + data.length, 0),
  );
  events.reduce((at, event) => encodeEvent(payload, at, event), 0);
  const block = new Uint8Array(padded(HEAD + payload.length));
  block.set(payload, HEAD);
  const head = { type: RecordType.EVENTS, flags: 0, length: payload.length };
  encodeHead(block, { ...head, pages: 0, stored: 0, data: 0n }, place.serial, place.before);
  writeFileSync(to, Buffer.concat([readFileSync(path).subarray(0, position), block]));
}

/** All of a recording but for what runs in it. */
function readThrough(path: string): RecordedEvent[] {
  using reader = new RecordingReader(path);
  const events: RecordedEvent[] = [];
  const snapshot = () =>
    reader.read(() => {
      const { reader: one } = reader.snapshot;
      for (let record = one.next(); record !== undefined; record = one.next()) {
        if (record.head.pages > 0) one.data(record);
      }
    });
  snapshot();
  for (;;) {
    const event = reader.take();
    events.push(event);
    if (event.kind === EventKind.CUT) throw reader.cut;
    if (event.kind === EventKind.RESET) {
      reader.end(event);
      reader.nextPart();
      snapshot();
    }
    if (event.kind !== EventKind.END) continue;
    reader.end(event);
    return events;
  }
}

describe.skipIf(!unicorn.available)("small recordings", () => {
  test("what was typed comes again", async () => {
    const { path, ending } = await recordEcho("echo.rec");
    expect(ending.code).toBe(43);
    const first = printed(path);
    expect(first).toMatchObject({ text: "Axyzq", difference: undefined });
    expect(first.image).toBe(ending.image as string);
    expect(printed(path)).toEqual(first);
    const events = readThrough(path);
    const input = events.filter(({ kind }) => kind === EventKind.CONSOLE);
    expect(Buffer.concat(input.map(({ data }) => data)).toString()).toBe("xyzq");
  });

  test("a run that the host stopped ends at the same place", async () => {
    for (const [name, kernel] of [
      ["asleep.rec", asleep()] as const,
      ["busy.rec", busy()] as const,
    ]) {
      const path = join(folder, name);
      const vm = await Vm.start({ ...options, kernel, record: path });
      await Bun.sleep(120);
      vm.pause();
      await vm.statistics();
      vm.unpause();
      await Bun.sleep(80);
      const ending = await vm.stop();
      expect(ending.kind).toBe("stopped");
      const result = printed(path);
      expect(result.difference).toBeUndefined();
      expect(result.image).toBe(ending.image as string);
      expect(result.now).toBeGreaterThan(20e6);
    }
  });

  test("it may begin with a machine that goes on from a snapshot", async () => {
    const snapshot = join(folder, "snapshot");
    const vm = await Vm.start({
      ...options,
      kernel: echo(folder),
      virtualTime: true,
      engine: "unicorn",
    });
    await vm.console.expect("A");
    await vm.snapshot(snapshot);
    await vm.stop();
    const path = join(folder, "restored.rec");
    const again = await Vm.restore(snapshot, { record: path });
    await again.console.send("uq");
    const { image } = await again.ended;
    rmSync(snapshot);
    expect(printed(path)).toMatchObject({ text: "uq", difference: undefined, image });
  });

  test("a file that is cut off or damaged gives a sentence, wherever that is", async () => {
    const path = join(folder, "damaged.rec");
    const vm = await Vm.start({ ...options, kernel: echo(folder), record: path });
    for (const key of "xrq") {
      await vm.console.send(key);
      await vm.console.expect(key);
    }
    await vm.ended;
    const whole = readFileSync(path);
    const copy = join(folder, "copy");
    const says = (bytes: Uint8Array) => {
      writeFileSync(copy, bytes);
      let error: unknown;
      try {
        readThrough(copy);
      } catch (thrown) {
        error = thrown;
      }
      expect(error).toBeInstanceOf(RecordingError);
      const { message } = error as Error;
      expect(message.startsWith(`${copy}: `)).toBe(true);
      expect(message).toMatch(/^[^\n]{10,300}$/);
    };
    const run = { numRuns: 300 };
    fc.assert(
      fc.property(fc.nat(whole.length - 1), (at) => says(whole.subarray(0, at))),
      run,
    );
    fc.assert(
      fc.property(fc.nat(whole.length - 1), fc.nat(7), (at, bit) => {
        const bytes = whole.slice();
        bytes[at] ^= 1 << bit;
        says(bytes);
      }),
      run,
    );
    says(Buffer.concat([whole, new Uint8Array(4096)]));
    // In the events, which are at the end.
    for (let at = whole.length - 8192; at < whole.length; at += 97) says(whole.subarray(0, at));
  });

  test("a run that isn't the recorded one is told from it", async () => {
    const { path } = await recordEcho("other.rec");
    const events = readThrough(path);
    const input = events.findIndex(({ kind }) => kind === EventKind.CONSOLE);
    const other = join(folder, "differs.rec");
    const differs = (change: Partial<RecordedEvent>) => {
      withEvents(path, other, events.with(input, { ...events[input], ...change }));
      return printed(other).difference;
    };
    expect(differs({})).toBeUndefined();
    expect(differs({ data: new TextEncoder().encode("w") })).toMatch(
      /registers differ|image differs/,
    );
    const where = /^exit \d+, guest time \d+ ns: [^\n]+ was recorded [^\n]+$/;
    expect(differs({ now: events[input].now + 10 })).toMatch(where);
    expect(differs({ exits: events[input].exits - 1 })).toMatch(where);
    expect(differs({ kind: EventKind.FAILED })).toMatch(where);
  });

  test("it is gone through in both directions", async () => {
    const { path, ending } = await recordEcho("session.rec");
    let text = "";
    using session = new ReplaySession(
      path,
      { console: (bytes) => (text += new TextDecoder().decode(bytes)) },
      { count: 6, bytes: 2 ** 24 },
    );
    session.seekExit(Infinity);
    expect(session.end?.image).toBe(ending.image as string);
    expect(session.image).toBe(ending.image as string);
    const end = session.position;
    for (const part of [0.9, 0.1, 0.5, 0, 0.99]) {
      const exits = Math.floor(end.exits * part);
      session.seekExit(exits);
      expect(session.position.exits).toBe(exits);
      expect(session.image).toBe(replayRecording(path, { until: exits }).image);
    }
    // A block back is where a block forward came from.
    session.seekExit(Math.floor(end.exits / 2));
    const places = [session.position];
    const images = [session.image];
    for (let i = 0; i < 12; i++) {
      expect(session.stepBlock()).toBe("done");
      expect(comparePositions(session.position, places[i])).toBeGreaterThan(0);
      places.push(session.position);
      images.push(session.image);
    }
    for (let i = 11; i >= 0; i--) {
      expect(session.stepBlockBack()).toBe("done");
      expect(session.position).toEqual(places[i]);
      expect(session.image).toBe(images[i]);
    }
    // "cmp al" runs once for each key.
    session.breakpoints = [0xfffff014n];
    const { there, last, back } = throughBreakpoints(session);
    expect(there).toHaveLength(4);
    expect(last).toEqual(end);
    expect(back).toEqual(there.toReversed());
    expect(session.position).toEqual({ exits: 0, blocks: 0 });
    expect(session.stepBlockBack()).toBe("end");
    expect(session.checkpointBytes).toBeLessThanOrEqual(2 ** 24);
    expect(text).toBe("Axyzq");
  });

  if (!steps) console.log("single instructions of a recording skipped: the engine has no steps");
  test.skipIf(!steps)("single instructions come in both directions", async () => {
    const { path } = await recordEcho("instructions.rec");
    using session = new ReplaySession(path);
    const cursor = new InstructionCursor(session);
    const seen: bigint[] = [];
    const places: InstructionPosition[] = [];
    const note = () => {
      places.push(cursor.position);
      seen.push(session.rip & 0xfffn);
    };
    note();
    for (let i = 0; i < 40; i++) {
      expect(cursor.step()).toBe("done");
      note();
    }
    // mov, mov, out, mov, and then around: in, test, jz.
    const addresses = seen.map(Number);
    expect(addresses.filter((at, i) => at !== addresses[i - 1]).slice(0, 8)).toEqual([
      0xff0, 0, 3, 5, 6, 9, 0xa, 0xc,
    ]);
    for (let i = 39; i > 0; i--) {
      expect(cursor.stepBack()).toBe("done");
      expect(session.rip & 0xfffn).toBe(seen[i]);
    }
    cursor.seek(places[20]);
    expect(session.rip & 0xfffn).toBe(seen[20]);
    // The run goes on as it was.
    session.seekExit(Infinity);
    expect(session.end?.image).toBe(session.image);
  });

  test("where there is no room for it, the VM ends with a sentence", async () => {
    const full = Vm.start({ ...options, kernel: echo(folder), record: "/dev/full" });
    expect(full).rejects.toThrow("vm: /dev/full: no space left on device");
    // A pipe whose reader goes away when the run has begun.
    const fifo = join(folder, "fifo");
    Bun.spawnSync(["mkfifo", fifo]);
    const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
    const bytes = new Uint8Array(65_536);
    const timer = setInterval(() => {
      try {
        while (readSync(reader, bytes) > 0);
      } catch {
        // Nothing is there yet.
      }
    }, 1);
    const vm = await Vm.start({ ...options, kernel: echo(folder), record: fifo });
    await vm.console.expect("A");
    clearInterval(timer);
    closeSync(reader);
    await vm.console.send("x");
    const ending = await vm.ended;
    expect(ending.kind).toBe("crash");
    expect(ending.message).toContain(`${fifo}: EPIPE`);
  });

  test("what can't be recorded is said", async () => {
    const kernel = echo(folder);
    const record = join(folder, "no.rec");
    const refused = async (more: Partial<VmOptions>) => {
      const error = await Vm.start({ ...options, kernel, record, ...more }).catch((e) => e);
      return (error as Error).message;
    };
    const prefix = "vm: it can't be recorded:";
    expect(await refused({ engine: "kvm" })).toBe(
      `${prefix} engine kvm has no virtual time; use unicorn`,
    );
    expect(await refused({ shares: [{ tag: "a", path: folder }] })).toBe(
      `${prefix} a share's files are the host's`,
    );
    expect(await refused({ vsock: { cid: 3, path: join(folder, "v") } })).toBe(
      `${prefix} a socket device leads to the host's sockets`,
    );
    expect(await refused({ traceExits: join(folder, "t") })).toBe(
      `${prefix} a trace of its exits is recorded already`,
    );
    const { path } = await recordEcho("snapshotted.rec");
    const running = await Vm.start({ ...options, kernel, record });
    const failed = running.snapshot(join(folder, "s")).catch((error: Error) => error.message);
    expect(await failed).toBe(
      "vm: no snapshot: the guest is about to start, or is being sent or recorded",
    );
    await running.stop();
    expect(Vm.restore(path)).rejects.toThrow("something follows its end");
  });

  test("vctl records, and replays", () => {
    const run = (stdin: string, ...args: string[]) => {
      const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, VCTL, ...args], {
        stdin: new TextEncoder().encode(stdin),
        cwd: folder,
        timeout: 60_000,
      });
      return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
    };
    const { code, err } = run(
      "vq",
      "start",
      "--foreground",
      "--record",
      "v.rec",
      "-m",
      "1M",
      "-b",
      echo(folder),
      "--debug-exit",
      "v",
    );
    expect(code).toBe(43);
    const [, image] = /^vctl: final image: ([0-9a-f]{64})$/m.exec(err) as RegExpExecArray;
    const again = run("", "replay", "-c", "v.rec");
    expect(again).toMatchObject({ code: 0, out: "Avq" });
    expect(again.err).toContain(`final image: ${image}, the same\n`);
    const part = run("", "replay", "--until", "2", "v.rec");
    expect(part).toMatchObject({ code: 0, out: "" });
    expect(part.err).toMatch(/^rax {4}[0-9a-f]{16} /);
    expect(part.err).toContain("vctl: 2 exits, 0.0000");
    expect(run("", "replay", "--until", "2", "v.rec")).toEqual(part);
    expect(run("", "replay", "no.rec-x")).toEqual({
      code: 1,
      out: "",
      err: "vctl: no.rec-x: no such file\n",
    });
    expect(run("", "replay", echo(folder))).toMatchObject({
      code: 1,
      err: `vctl: ${join(folder, "echo")}: not a recording\n`,
    });
    expect(run("", "replay", "--until", "x", "v.rec").err).toContain("it is no number of an exit.");
  });
});
