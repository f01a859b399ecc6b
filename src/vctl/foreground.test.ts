/** A VM in the foreground: what it can have without vmd, and what it says that it can't. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deviceGuest } from "../../golden/guests/devices.ts";
import { linuxAmd64 } from "../../golden/guests/linux.ts";

setDefaultTimeout(120_000);
const VCTL = join(import.meta.dir, "index.ts");
const folder = mkdtempSync(join(tmpdir(), "foreground-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function start(...args: string[]) {
  const { exitCode, stdout, stderr } = Bun.spawnSync(
    [process.execPath, VCTL, "start", "--foreground", "--engine", "unicorn", ...args, "fw"],
    { stdin: "ignore", timeout: 100_000 },
  );
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
}

test("what only vmd has is refused in a sentence", () => {
  expect(start("-b", "/dev/null", "-n", "lan")).toEqual({
    code: 1,
    out: "",
    err: "vctl: --network doesn't go with a VM in the foreground, which has no switches: they are vmd's\n",
  });
  expect(start("-b", "/dev/null", "-t", "base").err).toBe(
    "vctl: --template doesn't go with a VM in the foreground\n",
  );
  expect(start("-b", "/dev/null", "--forward", "1:2").err).toBe("vctl: --forward goes with -L\n");
  expect(start("-b", "/dev/null", "-L", "--forward", "1").err).toContain("it is no port forward");
});

const missing =
  linuxAmd64.missing() ??
  (Bun.which("passt") === null ? "passt is not installed" : undefined) ??
  (Bun.spawnSync(["ip", "route", "show", "default"]).stdout.length === 0
    ? "the host has no default route"
    : undefined);
if (missing !== undefined) console.log(`networks in the foreground skipped: ${missing}`);

test.skipIf(missing !== undefined)("a local interface is a user-mode network", async () => {
  const { kernel, initrd, cmdline, memory } = await deviceGuest({
    name: "foreground",
    modules: ["virtio_net", "virtio_blk"],
    script: `ip link set eth0 up
cat >/udhcpc.sh <<'EOF'
#!/bin/sh
[ "$1" = bound ] && echo "bound: $ip"
EOF
chmod +x /udhcpc.sh
busybox udhcpc -i eth0 -n -q -s /udhcpc.sh 2>&1
echo "read-only $(cat /sys/block/vda/ro)"
`,
  });
  const disk = join(folder, "a,b.img");
  writeFileSync(disk, new Uint8Array(2 ** 20));
  const words = ["-L", "-d", `raw:${disk},ro,rate=10M`];
  const { out, code } = start(...words, "-b", kernel, "-i", initrd, "-a", cmdline, "-m", memory);
  expect(out).toMatch(/bound: \d+\.\d+\.\d+\.\d+/);
  expect(out).toContain("read-only 1");
  expect(code).toBe(0);
});
