/** Linux with a disk and a local interface, recorded by vmd over a reset, and run again without either. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { createQcow2 } from "../../src/vmd/disk/index.ts";
import { TestDaemon } from "../../src/vmd/daemon/testing.ts";
import { replayRecording } from "../../src/vmd/recording/replay.ts";
import { deviceGuest } from "../guests/devices.ts";
import { linuxAmd64 } from "../guests/linux.ts";

setDefaultTimeout(300_000);

function missing(): string | undefined {
  if (process.env.VMD_LAB !== undefined) return "the lab is for KVM";
  if (process.geteuid!() !== 0) return "only root can make network namespaces";
  return linuxAmd64.missing();
}

const reason = missing();
if (reason !== undefined) console.log(`Linux, recorded by vmd, skipped: ${reason}`);

const SCRIPT = `
if [ "$(head -c 5 /dev/vda)" != again ]; then
  printf again | dd of=/dev/vda conv=notrunc 2>/dev/null; sync
  busybox reboot -f
fi
ip link set lo up; ip link set eth0 up
cat >/udhcpc.sh <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/31 dev eth0; ip route add default via $router; echo "bound: $ip $router"
END
chmod +x /udhcpc.sh
busybox udhcpc -i eth0 -n -q -s /udhcpc.sh 2>&1
ping -c 3 -i 0.2 100.64.1.2
`;

describe.skipIf(reason !== undefined)("recorded by vmd", () => {
  test("a Linux guest runs again to the same image, with what its network said", async () => {
    await using vmd = await TestDaemon.start({ ownNetwork: true });
    const { kernel, initrd, cmdline, memory } = await deviceGuest({
      name: "recorded-by-vmd",
      modules: ["virtio_blk", "virtio_net", "virtio_rng"],
      script: SCRIPT,
    });
    const disk = join(vmd.folder, "disk.qcow2");
    createQcow2(disk, 2 ** 22);
    const path = join(vmd.folder, "run.rec");
    const files = ["-b", kernel, "-i", initrd, "-a", cmdline, "-m", memory, "-d", disk];
    const words = ["start", "-c", "--record", path, ...files, "-L", "recorded"];
    const { code, out } = await vmd.vctl(words);
    expect(code).toBe(0);
    expect(out).toContain("bound: 100.64.1.3 100.64.1.2");
    expect(out).toContain("3 packets transmitted, 3 packets received");
    const [, image] = /recorded: the guest halted image=([0-9a-f]{64})/.exec(vmd.log) ?? [];
    expect(image).toBeDefined();
    expect(vmd.log).not.toContain("warning");
    rmSync(disk);
    let text = "";
    const again = replayRecording(path, {
      console: (bytes) => (text += new TextDecoder().decode(bytes)),
    });
    expect(again).toMatchObject({ image, difference: undefined, isCut: false });
    expect(text).toBe(out);
  });
});
