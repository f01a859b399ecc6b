/** Graceful shutdown of a real Linux, whose process 1 plays vmmci's driver. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { obedient } from "../../../golden/guests/agent.ts";
import { linuxAmd64 } from "../../../golden/guests/index.ts";
import { guestOptions } from "../../../golden/boot.ts";
import { TestDaemon } from "../daemon/testing.ts";
import { Vm } from "../vm.ts";

setDefaultTimeout(120_000);
const missing = linuxAmd64.missing();
if (missing !== undefined) console.log(`graceful shutdown of Linux skipped: ${missing}`);

test.skipIf(missing !== undefined)(
  "a guest that is asked shuts down, and its VM ends",
  async () => {
    const options = await guestOptions(obedient);
    await using vm = await Vm.start({ ...options, engine: "unicorn", reboot: true });
    expect(await vm.shutdown()).toBe(false);
    await vm.console.expect("agent: ready", 60_000);
    vm.pause();
    vm.unpause();
    await vm.console.expect(/agent: the time is \d+/);
    expect(await vm.shutdown()).toBe(true);
    await vm.console.expect("agent: bye");
    expect((await vm.ended).kind).toBe("reset");
  },
);

test.skipIf(missing !== undefined)("vctl stop waits for a guest that acknowledged", async () => {
  await using vmd = await TestDaemon.start({ args: ["-v"] });
  const { kernel, initrd, cmdline, memory } = await guestOptions(obedient);
  const files = ["-b", kernel!, "-i", initrd!, "-a", cmdline!, "-m", String(memory)];
  const { code } = await vmd.vctl(["start", "--engine", "unicorn", ...files, "linux"]);
  expect(code).toBe(0);
  for (let i = 0; i < 300; i++) {
    const { out } = await vmd.vctl(["show", "--json", "linux"]);
    if (JSON.parse(out).statistics.printed > 0 && i > 30) break;
    await Bun.sleep(100);
  }
  const before = performance.now();
  const { err } = await vmd.vctl(["stop", "-w", "linux"]);
  expect(err).toMatch(/stopping vm linux: terminated vm 1/);
  expect(performance.now() - before).toBeLessThan(3000);
  expect(vmd.log).toContain("linux: the guest acknowledged the shutdown");
  expect(vmd.log).toMatch(/linux: the guest reset its machine/);
  expect(vmd.log).not.toContain("terminated");
});
