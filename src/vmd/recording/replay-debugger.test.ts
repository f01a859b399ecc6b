/** Breakpoints, watchpoints and steps in a recorded run, in both directions. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Breakpoint, BreakKind, probe } from "../../vmm/engine.ts";
import { ExitReason } from "../../vmm/exit.ts";
import { Vm } from "../vm.ts";
import { ReplayDebugger } from "./replay-debugger.ts";
import { ReplaySession } from "./replay-session.ts";

setDefaultTimeout(120_000);
const unicorn = probe("unicorn");
if (!unicorn.available) console.log(`debugged recordings skipped: ${unicorn.why}`);

/** The code's page, below 4 GiB. */
const CODE = 0xfffff000n;
// A loop of 150 rounds. Each writes its number, at 0x500, and says something: the write, the OUT
// and the increment are in one block of code.
const LOOP = [
  "31 db", // 0: xor bx, bx
  "89 1e 00 05", // 2: mov [0x500], bx
  "b0 2e  e6 80", // 6: mov al, '.'; out 0x80, al
  "43", // a: inc bx
  "31 c9", // b: xor cx, cx
  "41  81 f9 e8 03  72 f9", // d: inc cx; cmp cx, 1000; jb d
  "81 fb 96 00  72 e8", // 14: cmp bx, 150; jb 2
  "b0 01  ba f4 00  ee  f4", // 1a: mov al, 1; mov dx, 0xf4; out dx, al; hlt
];
const WRITE = CODE + 2n;
const OUT = CODE + 8n;
const INCREMENT = CODE + 10n;

let folder = "";
let path = "";
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "replay-debugger-"));
  const bytes = new Uint8Array(4096).fill(0xf4);
  bytes.set(Uint8Array.fromHex(LOOP.join("").replaceAll(" ", "")));
  bytes.set([0xe9, 0x0d, 0xf0], 0xff0); // jmp to offset 0
  const kernel = join(folder, "loop");
  writeFileSync(kernel, bytes);
  path = join(folder, "loop.rec");
  if (!unicorn.available) return;
  const vm = await Vm.start({ memory: "1M", debugExit: true, kernel, record: path });
  expect((await vm.ended).code).toBe(3);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const execute = (address: bigint): Breakpoint => ({ address, kind: BreakKind.EXECUTE, length: 1 });
const watch = (kind: number): Breakpoint => ({ address: 0x500n, kind, length: 2 });

function open() {
  const session = new ReplaySession(path);
  const debug = new ReplayDebugger(session);
  return {
    session,
    debug,
    /** Its number in BX, the next instruction's offset, what was written last. */
    get at() {
      const written =
        session.life.image.memory.read8(0x500) + 256 * session.life.image.memory.read8(0x501);
      return [session.registers.getUint16(8, true), Number(session.linearPc - CODE), written];
    },
    [Symbol.dispose]: () => session[Symbol.dispose](),
  };
}

describe.skipIf(!unicorn.available)("a debugged replay", () => {
  test("breakpoints in the middle of a block, before an exit and behind it", () => {
    for (const [address, written] of [
      [WRITE, -1],
      [OUT, 0],
      [INCREMENT, 0],
    ] as const) {
      using run = open();
      const { debug } = run;
      debug.breakpoints = [execute(address)];
      const met = { kind: "breakpoint", breakpoint: execute(address) };
      const offset = Number(address - CODE);
      for (let round = 0; round < 4; round++) {
        expect(debug.continue()).toMatchObject(met);
        expect(run.at).toEqual([round, offset, Math.max(0, round + written)]);
      }
      for (let round = 2; round >= 0; round--) {
        expect(debug.continueBack()).toMatchObject(met);
        expect(run.at).toEqual([round, offset, Math.max(0, round + written)]);
      }
      expect(debug.continueBack()).toEqual({ kind: "history", at: "begin" });
      debug.breakpoints = [];
      expect(debug.continue()).toEqual({ kind: "history", at: "end" });
      debug.breakpoints = [execute(address)];
      for (let round = 149; round > 146; round--) {
        expect(debug.continueBack()).toMatchObject(met);
        expect(run.at).toEqual([round, offset, Math.max(0, round + written)]);
      }
    }
  });

  test("steps go around an exit and a poll, one instruction each, and back the same way", () => {
    using run = open();
    const { debug } = run;
    debug.breakpoints = [execute(WRITE)];
    for (let round = 0; round < 3; round++) debug.continue();
    debug.breakpoints = [];
    const seen = [run.at];
    for (let i = 0; i < 9; i++) {
      expect(debug.step()).toEqual({ kind: "step" });
      seen.push(run.at);
    }
    expect(seen.map(([, offset]) => offset)).toEqual([2, 6, 8, 10, 11, 13, 14, 18, 13, 14]);
    for (let i = 8; i >= 0; i--) {
      expect(debug.stepBack()).toEqual({ kind: "step" });
      expect(run.at).toEqual(seen[i]);
    }
  });

  test("where the run was stopped for a poll between two blocks, no instruction is lost", () => {
    using run = open();
    const { debug, session } = run;
    let exit = 20;
    do session.seekExit(exit++);
    while (session.life.engine.run.reason !== ExitReason.INTR && session.end === undefined);
    expect(session.end).toBeUndefined();
    debug.seek({ ...session.position, steps: 0 });
    const state = () => [session.registers.getUint16(16, true), run.at[1]]; // CX
    const seen = [state()];
    for (let i = 0; i < 9; i++) {
      expect(debug.stepBack()).toEqual({ kind: "step" });
      seen.unshift(state());
    }
    for (let i = 1; i <= 9; i++) {
      expect(debug.step()).toEqual({ kind: "step" });
      expect(state()).toEqual(seen[i]);
    }
    // INC, CMP, JB in turn, three times.
    const next: Record<number, number> = { 13: 14, 14: 18, 18: 13 };
    for (let i = 1; i < seen.length; i++) expect(seen[i][1]).toBe(next[seen[i - 1][1]]);
    expect(seen[9][0] - seen[0][0]).toBe(3);
  });

  test("what is written is found, forwards behind the instruction, backwards before it", () => {
    for (const kind of [BreakKind.WRITE, BreakKind.ACCESS]) {
      using run = open();
      const { debug } = run;
      debug.breakpoints = [watch(kind)];
      const met = { kind: "watchpoint", breakpoint: watch(kind) };
      for (let round = 0; round < 4; round++) {
        expect(debug.continue()).toMatchObject(met);
        expect(run.at).toEqual([round, 6, round]);
      }
      for (let round = 3; round >= 0; round--) {
        expect(debug.continueBack()).toMatchObject(met);
        expect(run.at).toEqual([round, 2, Math.max(0, round - 1)]);
      }
      expect(debug.continueBack()).toEqual({ kind: "history", at: "begin" });
      debug.breakpoints = [];
      expect(debug.continue()).toEqual({ kind: "history", at: "end" });
      debug.breakpoints = [watch(kind)];
      for (let round = 149; round > 147; round--) {
        expect(debug.continueBack()).toMatchObject(met);
        expect(run.at).toEqual([round, 2, round - 1]);
      }
    }
  });

  test("whichever is nearer, of a breakpoint and a watchpoint", () => {
    using run = open();
    const { debug } = run;
    debug.breakpoints = [watch(BreakKind.WRITE), execute(INCREMENT)];
    const kinds = [debug.continue().kind, debug.continue().kind, debug.continue().kind];
    expect(kinds).toEqual(["watchpoint", "breakpoint", "watchpoint"]);
    expect(run.at).toEqual([1, 6, 1]);
    // Before that access, and the breakpoint before.
    expect([debug.continueBack().kind, ...run.at]).toEqual(["watchpoint", 1, 2, 0]);
    expect([debug.continueBack().kind, ...run.at]).toEqual(["breakpoint", 0, 10, 0]);
    expect([debug.continueBack().kind, ...run.at]).toEqual(["watchpoint", 0, 2, 0]);
    expect(debug.continueBack()).toEqual({ kind: "history", at: "begin" });
  });

  test("a way can be interrupted; backwards it ends where it began", () => {
    using run = open();
    const { debug, session } = run;
    debug.breakpoints = [execute(INCREMENT)];
    for (let round = 0; round < 3; round++) debug.continue();
    debug.breakpoints = [execute(CODE + 0x800n)];
    const place = debug.position;
    session.interrupted = () => true;
    expect(debug.continueBack()).toEqual({ kind: "interrupt" });
    expect(debug.position).toEqual(place);
    expect(debug.continue()).toEqual({ kind: "interrupt" });
    expect(debug.position.exits).toBeGreaterThan(place.exits);
    session.interrupted = () => false;
    expect(debug.continue()).toEqual({ kind: "history", at: "end" });
    expect(session.end?.image).toBe(session.image);
  });
});
