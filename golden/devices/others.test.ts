/** Linux with the devices that are no disk and no network: a balloon, a virtio console. */
import { closeSync } from "node:fs";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { Vm } from "../../src/index.ts";
import { processLibrary, ptr } from "../../src/vmm/native.ts";
import { deviceEngine as engine, deviceGuest } from "../guests/devices.ts";
import { linuxAmd64, linuxI386 } from "../guests/linux.ts";

setDefaultTimeout(120_000);
const missing = linuxAmd64.missing();
if (missing !== undefined) console.log(`devices of Linux skipped: ${missing}`);

const MIB = 2 ** 20;

describe.skipIf(missing !== undefined)("Linux", () => {
  test("a balloon inflates, gives memory to the host, and back", async () => {
    const guest = await deviceGuest({
      name: "balloon",
      modules: ["virtio_balloon"],
      // Most of memory is touched first: what the balloon takes had pages behind it.
      script: `
mount -t tmpfs -o size=200m tmpfs /tmp
dd if=/dev/zero of=/tmp/fill bs=1M count=160 2>/dev/null
rm /tmp/fill
echo "ready $(free -m | sed -n 's/^Mem: *[0-9]* *[0-9]* *\\([0-9]*\\).*/\\1/p')"
read line
echo "small $(free -m | sed -n 's/^Mem: *[0-9]* *[0-9]* *\\([0-9]*\\).*/\\1/p')"
read line
echo "large $(free -m | sed -n 's/^Mem: *[0-9]* *[0-9]* *\\([0-9]*\\).*/\\1/p')"
dd if=/dev/zero of=/tmp/fill bs=1M count=160 2>/dev/null && md5sum </tmp/fill
`,
    });
    await using vm = await Vm.start({ ...guest, engine, devices: ["balloon"] });
    const before = Number((await vm.console.expect(/ready \d+/)).slice(6));
    const settled = async (bytes: number) => {
      for (let i = 0; i < 200; i++) {
        const state = await vm.balloon();
        if (state?.actual === bytes) return;
        await Bun.sleep(50);
      }
      throw new Error(`the balloon stayed at ${JSON.stringify(await vm.balloon())}`);
    };
    const full = (await vm.statistics()).resident;
    await vm.balloon(128 * MIB);
    await settled(128 * MIB);
    const inflated = (await vm.statistics()).resident;
    // Some of what it takes was never touched, where the host had no huge pages to give.
    expect(full - inflated).toBeGreaterThan(64 * MIB);
    await vm.console.send("\n");
    const small = Number((await vm.console.expect(/small \d+/)).slice(6));
    expect(before - small).toBeGreaterThan(120);
    await vm.balloon(0);
    await settled(0);
    await vm.console.send("\n");
    const large = Number((await vm.console.expect(/large \d+/)).slice(6));
    expect(Math.abs(large - before)).toBeLessThan(16);
    const sum = new Bun.CryptoHasher("md5").update(new Uint8Array(160 * MIB)).digest("hex");
    await vm.console.expect(sum);
    await vm.ended;
  });

  test("a virtio console takes and gives what is typed", async () => {
    const guest = await deviceGuest({
      name: "hvc",
      modules: ["virtio_console"],
      script: `
exec 3<>/dev/hvc0
busybox stty -F /dev/hvc0 raw -echo
echo "ready"
head -c 100000 /dev/hvc0 | md5sum >/dev/hvc0
dd if=/dev/zero bs=1k count=300 2>/dev/null | busybox tr '\\000' x >/dev/hvc0
echo "end of it" >/dev/hvc0
sleep 1
`,
    });
    await using vm = await Vm.start({ ...guest, engine, devices: ["console"] });
    await vm.console.expect("ready");
    const typed = Uint8Array.from({ length: 100_000 }, (_, i) => 32 + ((i * 31) % 95));
    let xs = 0;
    vm.virtio.follow((bytes) => {
      for (const byte of bytes) if (byte === 0x78) xs++;
    });
    await vm.virtio.send(typed);
    await vm.virtio.expect(new Bun.CryptoHasher("md5").update(typed).digest("hex"));
    await vm.virtio.expect("end of it");
    expect(xs).toBe(300 * 1024);
  });

  const i386 = linuxI386.missing();
  if (i386 !== undefined) console.log(`devices of Linux i386 skipped: ${i386}`);

  test.skipIf(i386 !== undefined)(
    "i386: rng, interface, balloon and console attach and work",
    async () => {
      const fds = new Int32Array(2);
      processLibrary().vmm_socketpair(0, ptr(fds));
      const guest = await deviceGuest({
        name: "i386",
        source: "linux-i386",
        modules: ["virtio_rng", "virtio_net", "virtio_balloon", "virtio_console"],
        script: `
for d in /sys/bus/virtio/devices/*; do echo "bound: $(basename $(readlink $d/driver))"; done
head -c 4096 /dev/hwrng | wc -c
exec 3<>/dev/hvc0
echo "hello from hvc0" >&3
ip addr add 10.1.1.2/24 dev eth0; ip link set eth0 up
ping -c 1 10.1.1.1 | grep transmitted
`,
      });
      await using vm = await Vm.start({
        ...guest,
        engine,
        devices: ["balloon", "console"],
        interfaces: [
          { kind: "switch", mac: "fe:e1:bb:d1:00:01", locked: false, descriptor: fds[0] },
        ],
      });
      let output = "";
      vm.console.follow((bytes) => {
        output += new TextDecoder().decode(bytes);
      });
      await vm.virtio.expect("hello from hvc0");
      await vm.ended;
      for (const driver of ["rng", "net", "balloon", "console"]) {
        expect(output).toContain(`bound: virtio_${driver}`);
      }
      expect(output).toMatch(/^4096/m);
      // The guest asked who 10.1.1.1 is; nobody is there to say.
      expect(output).toContain("1 packets transmitted, 0 packets received");
      const arp: boolean[] = [];
      const frame = new Uint8Array(70_000);
      while (Number(processLibrary().vmm_read(fds[1], ptr(frame), frame.length)) > 0) {
        arp.push(frame[12 + 12] === 0x08 && frame[12 + 13] === 0x06);
      }
      closeSync(fds[1]);
      expect(arp).toContain(true);
    },
  );

  test("a VM without a balloon says so", async () => {
    const guest = await deviceGuest({ name: "none", modules: [], script: "echo up; read line" });
    await using vm = await Vm.start({ ...guest, engine });
    await vm.console.expect("up");
    expect(await vm.balloon(MIB)).toBeUndefined();
  });
});
