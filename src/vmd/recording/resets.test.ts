/** Recordings that go on over the guest's resets, or that nobody has ended. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BreakKind, Engine, probe } from "../../vmm/engine.ts";
import { Vm } from "../vm.ts";
import { InstructionCursor } from "./instruction-cursor.ts";
import { ReplayDebugger } from "./replay-debugger.ts";
import { comparePositions, ReplaySession } from "./replay-session.ts";
import { echo, firmware, printed, throughBreakpoints } from "./testing.ts";

setDefaultTimeout(120_000);
const unicorn = probe("unicorn");
if (!unicorn.available) console.log(`resets of recordings skipped: ${unicorn.why}`);
const steps = "debug" in Engine.prototype;
const VCTL = join(import.meta.dir, "../../vctl/index.ts");

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "recordings-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const options = { memory: "1M", debugExit: true } as const;

describe.skipIf(!unicorn.available)("small recordings", () => {
  test("a recording goes on over the guest's resets", async () => {
    const path = join(folder, "resets.rec");
    const vm = await Vm.start({ ...options, kernel: echo(folder), record: path });
    const resets: string[] = [];
    vm.onEvent((event) => event.kind === "rebooted" && resets.push(event.by));
    let text = "";
    vm.console.follow((bytes) => (text += new TextDecoder().decode(bytes)));
    for (const key of "xrytzrq") {
      // Some 50 ms of the guest's time have a checkpoint in them.
      await Bun.sleep(70);
      await vm.console.send(key);
      await vm.console.expect(/[rt]/.test(key) ? `${key}A` : key);
      if (key !== "q") expect((await vm.statistics()).exits).toBeGreaterThan(0);
    }
    const ending = await vm.ended;
    expect(ending).toMatchObject({ kind: "exit", code: 43 });
    expect(text).toBe("AxrAytAzrAq");
    expect(resets).toHaveLength(3);
    const again = printed(path);
    expect(again).toMatchObject({ text, difference: undefined, image: ending.image });
    expect(printed(path)).toEqual(again);
    // Places are counted over all of them.
    using session = new ReplaySession(path);
    session.seekExit(Infinity);
    expect(session.image).toBe(ending.image as string);
    const end = session.position;
    for (const part of [0.9, 0.3, 0.6, 0]) {
      const exits = Math.floor(end.exits * part);
      session.seekExit(exits);
      expect(session.position.exits).toBe(exits);
      expect(session.image).toBe(printed(path, exits).image);
    }
    // The reset vector's code, once for each machine.
    session.breakpoints = [0xfffff000n];
    const { there, last, back } = throughBreakpoints(session);
    expect(there).toHaveLength(4);
    expect(last).toEqual(end);
    expect(back).toEqual(there.toReversed());
    // Over a reset, by blocks, and by instructions: of the third machine, and of the second.
    for (const [place, last] of [
      [back[1], 0x25],
      [back[2], 0x19],
    ] as const) {
      session.seek(place);
      const image = session.image;
      for (let i = 0; i < 12; i++) session.stepBlockBack();
      expect(comparePositions(session.position, place)).toBeLessThan(0);
      while (comparePositions(session.position, place) < 0) session.stepBlock();
      expect(session.position).toEqual(place);
      expect(session.image).toBe(image);
      if (!steps) continue;
      const cursor = new InstructionCursor(session);
      const rip = () => Number(session.rip & 0xfffn);
      for (let i = 0; i < 4; i++) cursor.stepBack();
      const seen = [rip()];
      for (let i = 0; i < 6; i++) {
        cursor.step();
        seen.push(rip());
      }
      expect(seen.join(" ")).toContain(`${last} ${0xff0} 0 3`);
    }
  });

  test.skipIf(!steps)("a debugger goes over a reset, in both directions", async () => {
    // Notes at 0x500 each byte that is typed, and says it: "r" resets the machine, "q" ends it.
    const kernel = firmware(
      folder,
      "notes",
      "ba fd 03  ec  a8 01  74 fb", // mov dx,3fd; in al,dx; test al,1; jz the in
      "ba f8 03  ec  a2 00 05  ee", // mov dx,3f8; in al,dx; mov [500],al; out dx,al
      "3c 72  75 04  b0 fe  e6 64", // cmp al,'r'; jne on; mov al,fe; out 64,al
      "3c 71  75 e4", // cmp al,'q'; jne the beginning
      "b0 15  ba f4 00  ee  f4", // mov al,15; mov dx,f4; out dx,al
    );
    const path = join(folder, "notes.rec");
    const vm = await Vm.start({ ...options, kernel, record: path });
    const typed = "arbrq";
    for (const key of typed) {
      await vm.console.send(key);
      await vm.console.expect(key);
    }
    await vm.ended;
    using session = new ReplaySession(path);
    const debug = new ReplayDebugger(session);
    const noted = () => String.fromCharCode(Number(session.registers.getBigUint64(0, true) & 255n));
    for (const breakpoint of [
      { address: 0x500n, kind: BreakKind.WRITE, length: 1 },
      { address: 0xfffff00cn, kind: BreakKind.EXECUTE, length: 1 },
    ]) {
      debug.breakpoints = [breakpoint];
      const { kind } = breakpoint;
      const expected = kind === BreakKind.WRITE ? "watchpoint" : "breakpoint";
      let forth = "";
      for (let stop = debug.continue(); stop.kind !== "history"; stop = debug.continue()) {
        expect(stop.kind).toBe(expected);
        forth += noted();
      }
      expect(forth).toBe(typed);
      let back = "";
      for (let stop = debug.continueBack(); stop.kind !== "history"; stop = debug.continueBack()) {
        expect(stop.kind).toBe(expected);
        back = noted() + back;
      }
      expect(back).toBe(typed);
    }
  });

  test("a reset may be the end", async () => {
    for (const key of ["r", "t"]) {
      const path = join(folder, `last-${key}.rec`);
      const vm = await Vm.start({ ...options, kernel: echo(folder), record: path, reboot: false });
      await vm.console.expect("A");
      await vm.console.send(key);
      const { kind, image } = await vm.ended;
      expect(kind).toBe(key === "r" ? "reset" : "crash");
      const again = printed(path);
      expect(again).toMatchObject({ text: `A${key}`, difference: undefined, isCut: false, image });
    }
  });

  test("what a killed process has recorded is run to where it ends", async () => {
    const path = join(folder, "killed.rec");
    const vm = await Vm.start({ ...options, kernel: echo(folder), record: path });
    await vm.console.expect("A");
    await vm.console.send("xyr");
    await vm.console.expect("A");
    await vm.console.send("z");
    await vm.console.expect("z");
    await Bun.sleep(300);
    process.kill(vm.pid, "SIGKILL");
    expect((await vm.ended).kind).toBe("crash");
    const whole = printed(path);
    expect(whole).toMatchObject({
      text: "AxyrAz",
      end: undefined,
      isCut: true,
      difference: undefined,
    });
    using session = new ReplaySession(path);
    session.seekExit(Infinity);
    expect(session.end?.message).toBe(`${path}: it ends too early`);
    expect(session.image).toBe(whole.image);
    session.seekExit(10);
    expect(session.image).toBe(printed(path, 10).image);
    const child = Bun.spawnSync([process.execPath, VCTL, "replay", "-c", path]);
    expect(child.exitCode).toBe(1);
    expect(child.stdout.toString()).toBe("AxyrAz");
    expect(child.stderr.toString()).toMatch(
      /^vctl: [^\n]*killed\.rec: it ends too early: the same up to exit \d+, \d+\.\d{6} s of the guest's time\n$/,
    );
  });
});
