/** Copies of a Linux guest: each finds out that it is one, and draws random numbers of its own. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { TestDaemon } from "../../src/vmd/daemon/testing.ts";
import { buildProgram, compilerMissing } from "../guests/build.ts";
import { deviceGuest } from "../guests/devices.ts";
import { linuxAmd64 } from "../guests/linux.ts";
import { Terminal } from "./terminal.ts";

setDefaultTimeout(180_000);
const missing = linuxAmd64.missing() ?? compilerMissing();
if (missing !== undefined) console.log(`copies of Linux skipped: ${missing}`);

/**
 * vmmci's generation lies at port 0x28 of its BAR. What a generator gives without being told is
 * printed too: it is the same in all copies.
 */
const SCRIPT = `
vmmci=$(grep -l 0x0777 /sys/bus/pci/devices/*/device)
ports=\${vmmci%device}resource0
generation() { dd if=$ports bs=1 skip=40 count=16 2>/dev/null | md5sum | cut -c1-32; }
before=$(generation)
echo "ready $before"
while [ "$(generation)" = "$before" ]; do sleep 0.05; done
echo "copy $(generation)"
reseed || echo "reseed failed"
echo "kernel $(head -c 32 /dev/urandom | md5sum | cut -c1-32)"
echo "device $(head -c 32 /dev/hwrng | md5sum | cut -c1-32)"
sleep 1000`;

test.skipIf(missing !== undefined)("no two copies draw the same random numbers", async () => {
  const program = buildProgram("reseed", [
    ...["-O1", "-static", "-Wall", "-Wextra"],
    new URL("../guests/reseed.c", import.meta.url).pathname,
  ]);
  const guest = await deviceGuest({
    name: "copied",
    modules: ["virtio_rng"],
    script: SCRIPT,
    files: { "bin/reseed": readFileSync(program) },
  });
  await using vmd = await TestDaemon.start();
  const { kernel, initrd, cmdline, memory } = guest;
  const started = await vmd.vctl([
    ...["start", "origin", "--engine", "unicorn", "-b", kernel, "-i", initrd],
    ...["-a", cmdline, "-m", memory],
  ]);
  expect(started).toMatchObject({ code: 0 });
  const ttyOf = async (name: string) =>
    (await vmd.status()).find((vm) => vm.name === name)?.tty as string;
  const origin = new Terminal(await ttyOf("origin"));
  await origin.until(/ready ([0-9a-f]{32})/);
  expect(await vmd.vctl(["fork", "-n", "3", "origin", "copy"])).toMatchObject({ code: 0 });
  const drawn: Record<string, string[]> = { copy: [], kernel: [], device: [] };
  for (const name of ["copy-1", "copy-2", "copy-3"]) {
    const terminal = new Terminal(await ttyOf(name));
    for (const [what, values] of Object.entries(drawn)) {
      values.push(await terminal.until(new RegExp(`${what} ([0-9a-f]{32})\\r`)));
    }
    expect(terminal.text).not.toContain("failed");
    terminal.close();
  }
  for (const values of Object.values(drawn)) expect(new Set(values).size).toBe(3);
  // The VM itself is no copy.
  expect(origin.text).not.toContain("copy");
  origin.close();
  for (const { name } of await vmd.status()) await vmd.vctl(["stop", "-fw", name]);
});
