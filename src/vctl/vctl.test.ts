/** vctl as a user types it: messages, exit codes, the terminal. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { linuxAmd64 } from "../../golden/guests/index.ts";
import { firmware, VCTL, vctl } from "./testing.ts";

setDefaultTimeout(120_000);

const missing = linuxAmd64.missing();
if (missing !== undefined) console.log(`vctl's tests with Linux skipped: ${missing}`);

let folder = "";
let bios = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "vctl-"));
  bios = firmware(folder, "exit.bin", "b0 48 ba f8 03 ee b0 0a ee ba f4 00 b0 15 ee f4");
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

const start = (...args: string[]) => vctl("start", "-c", "--engine", "unicorn", ...args);

test("without a command: usage on standard error, exit code 1", () => {
  const { code, out, err } = vctl();
  expect(code).toBe(1);
  expect(out).toBe("");
  expect(err).toBe("usage:\tvctl [-v] command [arg ...]\n");
});

test("a command may be any prefix that names one", () => {
  expect(vctl("ho", "--json").code).toBe(0);
  expect(vctl("frob").err).toContain("vctl: unknown argument: frob");
  expect(vctl("frob").code).toBe(1);
});

test("mistakes get one sentence that names them, and exit code 1", () => {
  const cases: [string[], RegExp][] = [
    [["x"], /no kernel or disk\/cdrom specified/],
    [["-b", "/nonexistent", "x"], /^vctl: x: \/nonexistent: no such file$/m],
    [["-b", folder, "x"], /is a directory/],
    [["-b", bios, "-m", "lots", "x"], /it is no size such as 512M or 1G/],
    [["-b", bios, "-m", "1T", "x"], /memory size too large/],
    [["-b", bios, "-m", "4K", "x"], /memory size must be at least 1MB/],
    [["-b", bios, "-.x"], /unknown option|invalid VM name/],
    [["-b", bios, "x".repeat(64)], /name too long/],
    [["-b", bios, "-i", "/nonexistent", "x"], /no such file|takes no initrd/],
    [["-b", VCTL, "--format", "linux", "x"], /^vctl: x: index\.ts: .*$/m],
    [
      ["-b", bios, "--trace-exits", "/nonexistent/x", "x"],
      /^vctl: x: \/nonexistent\/x: no such file$/m,
    ],
    [["-b", bios, "--engine", "bochs", "x"], /Allowed choices are auto, kvm, unicorn/],
  ];
  for (const [args, message] of cases) {
    const { code, err } = start(...args);
    expect(err).toMatch(message);
    expect(err).not.toMatch(/\n\s+at /);
    expect(code).toBe(1);
  }
});

test("the guest's exit code is vctl's", () => {
  const { code, out, err } = start("--debug-exit", "-m", "1M", "-b", bios, "fw");
  expect(err).toContain("fw: firmware of 4 KiB, entered at the reset vector; engine unicorn");
  expect(err).toContain("vctl: fw: the guest ended with code 43");
  expect(out).toBe("H\n");
  expect(code).toBe(43);
});

test("a halt with interrupts disabled is a power-off", () => {
  const { code, err } = start("-m", "1M", "-b", firmware(folder, "halt.bin", "fa f4"), "fw");
  expect(err).toContain("vctl: fw: the guest halted");
  expect(code).toBe(0);
});

test("a triple fault says where, and shows registers when asked", () => {
  // lidt of an empty table, then an interrupt
  const crash = firmware(
    folder,
    "crash.bin",
    "fa 2e 0f 01 1e 10 f0 cd 03 00 00 00 00 00 00 00 00 00 00 00",
  );
  const { code, err } = start("--no-reboot", "--registers", "-m", "1M", "-b", crash, "fw");
  expect(err).toMatch(/vctl: fw: triple fault at RIP 0xf0/);
  expect(err).toMatch(/^rax {4}0+ /m);
  expect(code).toBe(1);
});

test("a guest that resets starts again, and ends with --no-reboot", async () => {
  // Prints R, then resets by port 0x64.
  const path = firmware(folder, "reset.bin", "b0 52 ba f8 03 ee b0 fe e6 64 f4");
  const once = start("--no-reboot", "-m", "1M", "-b", path, "fw");
  expect(once).toEqual({ code: 0, out: "R", err: expect.stringContaining("reset its machine") });
  const again = Bun.spawn(
    [process.execPath, VCTL, "start", "-c", "--engine", "unicorn", "-m", "1M", "-b", path, "fw"],
    { stdout: "pipe", stderr: "ignore", stdin: "ignore" },
  );
  let text = "";
  for await (const chunk of again.stdout) {
    text += new TextDecoder().decode(chunk);
    if (text.length >= 3) break;
  }
  again.kill("SIGTERM");
  expect(await again.exited).toBe(0);
  expect(text).toMatch(/^RRR/);
});

test("a reader that stops holds the guest's UART, and loses nothing", async () => {
  // Sends 0, 1, ... 255, 0, ... whenever the UART's transmitter is empty.
  const path = firmware(
    folder,
    "count.bin",
    "31 db ba fd 03 ec a8 20 74 fb 88 d8 ba f8 03 ee 43 eb ef",
  );
  const args = ["start", "-c", "--engine", "unicorn", "-m", "1M", "-b", path, "fw"];
  const child = Bun.spawn([process.execPath, VCTL, ...args], {
    stdout: "pipe",
    stderr: "ignore",
    stdin: "ignore",
  });
  const reader = child.stdout.getReader();
  let next = 0;
  let broken = -1;
  const read = async (bytes: number) => {
    for (let got = 0; got < bytes;) {
      const { value } = await reader.read();
      if (value === undefined) throw new Error("the console ended");
      for (const byte of value) {
        if (byte !== next && broken < 0) broken = got;
        next = (byte + 1) & 0xff;
      }
      got += value.length;
    }
  };
  await read(100_000);
  await Bun.sleep(1500);
  await read(3_000_000);
  child.kill("SIGTERM");
  expect(await child.exited).toBe(0);
  expect(broken).toBe(-1);
});

test("a VM whose console nobody reads any more ends", async () => {
  const path = firmware(folder, "chatter.bin", "b0 41 ba f8 03 ee b0 0a ee eb f5");
  const command = `'${process.execPath}' '${VCTL}' start -c --engine unicorn -m 1M -b '${path}' fw`;
  const child = Bun.spawn(["bash", "-c", `${command} | head -n 3; echo \${PIPESTATUS[0]}`], {
    stdout: "pipe",
    stderr: "ignore",
    stdin: "ignore",
  });
  expect(await new Response(child.stdout).text()).toBe("A\nA\nA\n0\n");
});

test("a console that can't be written ends the VM, and says why", async () => {
  const path = firmware(folder, "chatter.bin", "b0 41 ba f8 03 ee b0 0a ee eb f5");
  const command = `'${process.execPath}' '${VCTL}' start -c --engine unicorn -m 1M -b '${path}' fw`;
  const child = Bun.spawn(["bash", "-c", `${command} > /dev/full`], {
    stderr: "pipe",
    stdin: "ignore",
  });
  const text = await new Response(child.stderr).text();
  expect(text).toContain("vctl: standard output: ENOSPC\n");
  expect(text).not.toMatch(/\n\s+at |Warning/);
  expect(await child.exited).toBe(1);
});

test("a trace is recorded, counted, replayed, and followed on the engine", () => {
  const trace = join(folder, "trace");
  expect(start("--debug-exit", "-m", "1M", "-b", bios, "--trace-exits", trace, "fw").code).toBe(43);
  const { out } = vctl("exits", trace);
  expect(out).toMatch(/^IO +out 0x3f8\/1 +2 /m);
  expect(out).toMatch(/^IO +out 0xf4\/1 +1 /m);
  const json = JSON.parse(vctl("exits", "--json", trace).out);
  expect(json.engine).toBe("unicorn");
  expect(json.exits[0]).toMatchObject({ reason: "IO", where: "out 0x3f8/1", count: 2 });
  expect(vctl("exits", trace, "--replay").err).toContain("3 exits replayed");
  const followed = vctl("exits", trace, "--cross-check", "unicorn");
  expect(followed.err).toContain("3 exits are equal on engine unicorn: the trace ended");
  expect(followed.code).toBe(0);
});

test("a file that is no trace, or a damaged one, is said to be", () => {
  expect(vctl("exits", bios)).toMatchObject({ code: 1, err: `vctl: ${bios}: not an exit trace\n` });
  expect(vctl("exits", "/nonexistent").err).toBe("vctl: /nonexistent: no such file or directory\n");
});

test("host tells the engines, as a table and as JSON", () => {
  expect(vctl("host").out).toMatch(/^engine unicorn +usable, libunicorn 2\.0\.1/m);
  const report = JSON.parse(vctl("host", "--json").out);
  expect(report.engines.map((e: { engine: string }) => e.engine)).toEqual(["kvm", "unicorn"]);
  expect(Object.keys(report.facilities)).toContain("landlock");
});

test.skipIf(missing !== undefined)("Linux in a terminal: raw mode, a shell, ~. ends", async () => {
  let screen = "";
  const decoder = new TextDecoder();
  const command = [process.execPath, VCTL, "start", "-c", "-m", "256M", "--engine", "unicorn"];
  command.push("-b", await linuxAmd64.kernel(), "-i", (await linuxAmd64.initrd?.()) ?? "");
  command.push("-a", linuxAmd64.cmdline, "linux");
  const child = Bun.spawn(command, {
    terminal: {
      cols: 80,
      rows: 24,
      data: (_terminal, data) => {
        screen += decoder.decode(data, { stream: true });
      },
    },
  });
  const wait = async (pattern: RegExp) => {
    for (let i = 0; i < 600 && !pattern.test(screen); i++) await Bun.sleep(100);
    expect(screen).toMatch(pattern);
  };
  await wait(/# /);
  child.terminal?.write("echo $((6*7))\r");
  await wait(/^42\r?$/m);
  // ^C goes to the guest, not to vctl.
  child.terminal?.write("sleep 1000\r");
  child.terminal?.write("\x03");
  child.terminal?.write("\r~?");
  await wait(/~\. +leave/);
  child.terminal?.write("\r~.");
  expect(await child.exited).toBe(0);
  expect(screen).toContain("vctl: linux: stopped");
});
