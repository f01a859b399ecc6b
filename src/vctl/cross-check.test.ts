/** start --cross-check: one guest on both engines. In the lab with a true KVM, too. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { probe } from "../vmm/engine.ts";
import { firmware, vctl } from "./testing.ts";

setDefaultTimeout(120_000);

const kvm = probe("kvm");
if (!kvm.available) console.log(`cross-checks with KVM skipped: ${kvm.why}`);

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "cross-check-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

// cli; mov cx, 5; again: rdtsc; out 0x80, al; in al, 0x61; loop again; hlt
const TSC = "fa b9 05 00 0f 31 e6 80 e4 61 e2 f8 f4";
// mov al, 'H'; mov dx, 0x3f8; out dx, al; mov al, 10; out dx, al; cli; hlt
const EXIT = "b0 48 ba f8 03 ee b0 0a ee fa f4";

describe("start --cross-check", () => {
  const start = (...args: string[]) =>
    vctl("start", "-c", "--cross-check", "-m", "1M", "-b", ...args, "fw");

  test("goes with no option that it would ignore", () => {
    const path = firmware(folder, "exit.bin", EXIT);
    const cases = [
      ["--trace-exits", "/nonexistent/x"],
      ["--virtual-time"],
      ["--engine", "unicorn"],
      ["--registers"],
    ];
    for (const option of cases) {
      expect(start(path, ...option)).toEqual({
        code: 1,
        out: "",
        err: `vctl: --cross-check doesn't go with ${option[0]}\n`,
      });
    }
  });

  test.skipIf(!kvm.available)("succeeds where both engines do the same", () => {
    const { code, out, err } = start(firmware(folder, "exit.bin", EXIT));
    expect(err).toContain("3 exits are equal on kvm and unicorn\nvctl: fw: the guest halted");
    expect(out).toBe("H\n");
    expect(code).toBe(0);
  });

  test.skipIf(!kvm.available)("fails at a difference, and where it can't be made", () => {
    const differs = start(firmware(folder, "tsc.bin", TSC));
    expect(differs.err).toMatch(/^exit 0: [^]*^kvm: out 0x80\/1 [^]*^unicorn: out 0x80\/1 /m);
    expect(differs.code).toBe(1);
    const stuck = start(firmware(folder, "stuck.bin", "eb fe"));
    expect(stuck.err).toMatch(/fw: the guest ran 2 s on engine \w+ without an exit\n$/);
    expect(stuck.code).toBe(1);
  });
});
