/** The GDB stub, by a real gdb: small guests of two modes, and Linux, on the software engine. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Vm, type VmOptions } from "../src/index.ts";
import { ENGINES, probe } from "../src/vmm/engine.ts";
import { guestOptions } from "./boot.ts";
import { linuxAmd64Vmlinux } from "./guests/index.ts";
import { multiboot } from "./multiboot.ts";

setDefaultTimeout(120_000);

const missing = Bun.which("gdb") === null ? "there is no gdb (package gdb)" : undefined;
if (missing !== undefined) console.log(`tests with gdb skipped: ${missing}`);
const noLinux = missing ?? linuxAmd64Vmlinux.missing();

// counter at 0x101000: inc dword [0x101000]; inc eax; jmp back
const COUNTER = "ff 05 00 10 10 00 40 eb f7";
// sti with all interrupts masked; hlt; jmp back
const HALTED = "b0 ff e6 21 fb f4 eb fd";

// A KVM that only emulates instructions does for these few.
const engines = ENGINES.filter((name) => probe(name).available);

describe.skipIf(missing !== undefined)("gdb", () => {
  let folder = "";
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "gdb-"));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  async function start(options: VmOptions): Promise<[Vm, string]> {
    const gdb = join(folder, `${Bun.randomUUIDv7()}.sock`);
    const vm = await Vm.start({ name: "debugged", engine: "unicorn", ...options, gdb });
    return [vm, gdb];
  }

  async function startSmall(code: string, options: VmOptions = {}): Promise<[Vm, string]> {
    const kernel = join(folder, "kernel");
    writeFileSync(kernel, multiboot(code));
    return await start({ kernel, format: "multiboot", memory: "16M", ...options });
  }

  /** What gdb prints for commands. @param interrupt ms after which it gets Ctrl-C. */
  async function gdb(at: string, commands: string[], interrupt?: number): Promise<string> {
    const all = ["set pagination off", "set architecture i386:x86-64", `target remote ${at}`];
    const process = Bun.spawn(
      ["gdb", "-nx", "-batch", ...[...all, ...commands].flatMap((command) => ["-ex", command])],
      { stdin: "ignore", stdout: "pipe", stderr: "pipe", timeout: 60_000 },
    );
    if (interrupt !== undefined) setTimeout(() => process.kill("SIGINT"), interrupt);
    const [output, errors] = await Promise.all([
      new Response(process.stdout).text(),
      new Response(process.stderr).text(),
    ]);
    await process.exited;
    return output + errors;
  }

  test.each(engines)("a guest waits; steps, breakpoints, registers, memory: %s", async (engine) => {
    const [vm, at] = await startSmall(COUNTER, { engine });
    await using _ = vm;
    await Bun.sleep(100);
    const output = await gdb(at, [
      'printf "at %x\\n", $rip',
      "set $rax = 0x10",
      "stepi 2",
      'printf "rax %x count %d\\n", $rax, *(int*)0x101000',
      "break *0x100026",
      "continue",
      "continue",
      'printf "rip %x rax %x count %d\\n", $rip, $rax, *(int*)0x101000',
      "info breakpoints",
      "set var *(int*)0x101000 = 100",
      "continue",
      'printf "count %d\\n", *(int*)0x101000',
      "x/xb 0x10000000",
      'printf "cr0 %x efer %x\\n", $cr0, $efer',
    ]);
    expect(output).toContain("at 100020");
    expect(output).toContain("rax 11 count 1");
    expect(output).toContain("rip 100026 rax 12 count 3");
    expect(output).toContain("already hit 2 times");
    expect(output).toContain("count 101");
    expect(output).toContain("Cannot access memory at address 0x10000000");
    expect(output).toContain("cr0 11 efer 0");
  });

  test("watchpoints of writes, reads and both", async () => {
    const [vm, at] = await startSmall(COUNTER);
    await using _ = vm;
    const output = await gdb(at, [
      "watch *(int*)0x101000",
      "continue",
      "continue",
      "delete",
      "rwatch *(int*)0x101000",
      "continue",
      "delete",
      "awatch *(int*)0x101000",
      "continue",
      'printf "rip %x\\n", $rip',
    ]);
    expect(output).toContain("Hardware watchpoint 1");
    expect(output).toMatch(/Old value = 0\nNew value = 1\n[\s\S]*Old value = 1\nNew value = 2/);
    expect(output).toMatch(/Hardware read watchpoint 2: [\s\S]*Value = 3/);
    expect(output).toMatch(/Hardware access \(read\/write\) watchpoint 3: [\s\S]*rip 100026/);
  });

  test("the guest's time stands still while it does", async () => {
    // rdtsc; mov ebx, eax; nop; rdtsc; sub eax, ebx; jmp .
    const [vm, at] = await startSmall("0f 31 89 c3 90 0f 31 29 d8 eb fe");
    await using _ = vm;
    const output = await gdb(at, [
      "break *0x100024",
      "break *0x100029",
      "continue",
      "shell sleep 1.5",
      "set $rcx = 1",
      "continue",
      'printf "passed %u\\n", $eax',
    ]);
    const passed = Number(/passed (\d+)/.exec(output)?.[1]);
    expect(passed).toBeLessThan(0.5e9);
    expect(passed).toBeGreaterThan(0);
  });

  test("Ctrl-C stops a guest that runs, and one that is halted", async () => {
    for (const [code, place] of [
      [COUNTER, /stopped at 10002/],
      [HALTED, /stopped at 100026/],
    ] as const) {
      const [vm, at] = await startSmall(code);
      await using _ = vm;
      const output = await gdb(at, ["continue", 'printf "stopped at %x\\n", $rip'], 2500);
      expect(output).toContain("SIGINT");
      expect(output).toMatch(place);
    }
  });

  test("a guest goes on after detach, and a later gdb finds it so", async () => {
    const [vm, at] = await startSmall(COUNTER);
    await using _ = vm;
    await gdb(at, ["break *0x100026", "detach"]);
    const first = await vm.statistics();
    expect(first.exits).toBeGreaterThanOrEqual(0);
    const output = await gdb(at, ['printf "count %d\\n", *(int*)0x101000', "detach"]);
    expect(Number(/count (\d+)/.exec(output)?.[1])).toBeGreaterThan(1000);
  });

  test("kill ends the VM", async () => {
    const [vm, at] = await startSmall(COUNTER);
    await using _ = vm;
    expect(await gdb(at, ["kill"])).toContain("killed");
    expect((await vm.ended).kind).toBe("stopped");
  });

  test("monitor, and a reset that leaves the guest standing", async () => {
    const [vm, at] = await startSmall(COUNTER);
    await using _ = vm;
    const output = await gdb(at, [
      "monitor help",
      "monitor info registers",
      "monitor nonsense",
      "stepi 3",
      "monitor reset",
      "maintenance flush register-cache",
      'printf "at %x\\n", $rip',
      "stepi",
      'printf "count %d\\n", *(int*)0x101000',
    ]);
    expect(output).toContain("info registers");
    expect(output).toMatch(/cs\s+0008 base 0{16}/);
    expect(output).toContain("no such command");
    expect(output).toContain("at 100020");
    expect(output).toContain("count 1");
  });

  test("the end of a guest is gdb's inferior's", async () => {
    // mov al, 3; out 0xf4, al
    const [vm, at] = await startSmall("b0 03 e6 f4 eb fe", { debugExit: true });
    await using _ = vm;
    expect(await gdb(at, ["continue"])).toMatch(/exited with code 07/);
    expect(await vm.ended).toMatchObject({ kind: "exit", code: 7 });
  });

  test.skipIf(noLinux !== undefined)(
    "Linux, from its entry into its own address space",
    async () => {
      const [vm, at] = await start(await guestOptions(linuxAmd64Vmlinux));
      await using _ = vm;
      let log = "";
      vm.console.follow((bytes) => {
        log += Buffer.from(bytes).toString("latin1");
      });
      // The jump from where it was loaded to its virtual addresses: jmp *%rax
      const output = await gdb(at, [
        "find /b $rip, +0x100, 0xff, 0xe0",
        "break *$_",
        "continue",
        "stepi",
        'printf "virtual %lx\\n", $rip',
        "x/2i $rip",
        'printf "low %d\\n", $cr0 & 1',
        // The same bytes by the kernel's address and by the physical one.
        'printf "word %x\\n", *(int*)$rip',
        "monitor phys on",
        'printf "word %x\\n", *(int*)($rip - 0xffffffff80000000)',
        "monitor phys off",
        "delete",
        "detach",
      ]);
      expect(output).toMatch(/virtual ffffffff81[0-9a-f]{6}/);
      const [one, other] = [...output.matchAll(/word ([0-9a-f]+)/g)].map(([, word]) => word);
      expect(one).toBe(other);
      expect(log).toBe("");
      await vm.console.expect(linuxAmd64Vmlinux.says, 60_000);
      // A kernel that runs, and goes on.
      const later = await gdb(at, ['printf "mode %x\\n", $efer & 0x500', "detach"]);
      expect(later).toContain("mode 500");
    },
  );
});
