/** A recording under a real gdb, forwards and backwards. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Vm } from "../src/index.ts";
import { probe } from "../src/vmm/engine.ts";
import { guestOptions } from "./boot.ts";
import { linuxAmd64Vmlinux } from "./guests/index.ts";
import { multiboot } from "./multiboot.ts";

setDefaultTimeout(180_000);

const VCTL = join(import.meta.dir, "../src/vctl/index.ts");
const noGdb = Bun.which("gdb") === null ? "there is no gdb (package gdb)" : undefined;
const noEngine = probe("unicorn").available ? undefined : "there is no engine unicorn";
const missing = noGdb ?? noEngine;
if (missing !== undefined) console.log(`replays with gdb skipped: ${missing}`);
const noLinux = missing ?? linuxAmd64Vmlinux.missing();

// xor eax, eax; inc eax; mov [0x101000], eax; cmp eax, 100; jb back; mov al, 1; out 0xf4, al; hlt
const HUNDRED = "31 c0 40 a3 00 10 10 00 83 f8 64 72 f5 b0 01 e6 f4 f4";

describe.skipIf(missing !== undefined)("gdb over a recording", () => {
  let folder = "";
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "gdb-replay-"));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  /** What gdb prints for commands, and what vctl replay says. */
  async function replayed(recording: string, commands: string[], ...more: string[]) {
    const at = join(folder, `${Bun.randomUUIDv7()}.sock`);
    const vctl = Bun.spawn(
      [process.execPath, VCTL, "replay", "--gdb", at, ...more, join(folder, recording)],
      { stdin: "ignore", stdout: "pipe", stderr: "pipe", timeout: 150_000 },
    );
    const said = vctl.stderr.getReader();
    expect(Buffer.from((await said.read()).value ?? []).toString()).toContain("waits for gdb");
    const all = ["set pagination off", "set architecture i386:x86-64", `target remote ${at}`];
    const gdb = Bun.spawn(
      ["gdb", "-nx", "-batch", ...[...all, ...commands, "kill"].flatMap((one) => ["-ex", one])],
      { stdin: "ignore", stdout: "pipe", stderr: "pipe", timeout: 150_000 },
    );
    const [output, errors] = await Promise.all([
      new Response(gdb.stdout).text(),
      new Response(gdb.stderr).text(),
    ]);
    await gdb.exited;
    expect(await vctl.exited).toBe(0);
    return output + errors;
  }

  test("steps, breakpoints and watchpoints go backwards", async () => {
    const kernel = join(folder, "kernel");
    writeFileSync(kernel, multiboot(HUNDRED));
    const record = join(folder, "hundred.rec");
    const vm = await Vm.start({
      ...{ kernel, format: "multiboot", memory: "16M", debugExit: true, engine: "unicorn" },
      record,
    });
    expect((await vm.ended).code).toBe(3);
    const eax = 'printf "eax %d at %x, count %d\\n", $eax, $rip, *(int*)0x101000';
    const output = await replayed("hundred.rec", [
      "set $rax = 5",
      "set var *(int*)0x101000 = 7",
      "reverse-stepi",
      "stepi 3",
      "reverse-stepi",
      eax,
      "continue",
      "break *0x100023",
      "reverse-continue",
      eax,
      "reverse-continue",
      "reverse-continue",
      eax,
      "delete",
      "watch *(int*)0x101000",
      "reverse-continue",
      eax,
      "reverse-continue",
      eax,
      "continue",
      eax,
      "delete",
      "reverse-continue",
      eax,
      "monitor info registers",
    ]);
    const lines = [...output.matchAll(/^eax .*$/gm)].map(([line]) => line);
    expect(lines.slice(1)).toEqual([
      // Before the hundredth write, and two rounds before that.
      "eax 100 at 100023, count 99",
      "eax 98 at 100023, count 97",
      // Before the write of the round before, and so on; then behind it.
      "eax 97 at 100023, count 96",
      "eax 96 at 100023, count 95",
      "eax 96 at 100028, count 96",
      expect.stringContaining("at 100020, count 0"),
    ]);
    expect(output).toMatch(/Old value = 97\nNew value = 96/);
    expect(output.match(/No more reverse-execution history/g)).toHaveLength(3);
    expect(output).toContain("Cannot access memory at address 0x101000");
    expect(output).toContain("of the guest's time");
  });

  test.skipIf(noLinux !== undefined)("Linux: who wrote it last", async () => {
    const record = join(folder, "linux.rec");
    const vm = await Vm.start({
      ...(await guestOptions(linuxAmd64Vmlinux)),
      engine: "unicorn",
      record,
    });
    await vm.console.expect(linuxAmd64Vmlinux.says, 120_000);
    expect((await vm.stop()).kind).toBe("stopped");
    const where = 'printf "at %lx, value %lx, sp %lx\\n", $rip, *(long*)$place, $rsp';
    const commands = [
      "set $place = $rsp - 8",
      "set $value = *(long*)$place",
      "watch *(long*)$place",
      "reverse-continue",
      where,
      "stepi",
      'printf "same %d\\n", *(long*)$place == $value',
      "delete",
      'printf "pc %lx\\n", $rip',
      "reverse-stepi 20",
      "stepi 20",
      'printf "pc %lx\\n", $rip',
    ];
    const output = await replayed("linux.rec", commands, "--until", "4000");
    expect(output).toContain("Hardware watchpoint 1");
    expect(output).toContain("same 1");
    const [one, other] = [...output.matchAll(/^pc ([0-9a-f]+)$/gm)].map(([, pc]) => pc);
    expect(one).toBe(other);
  });
});
