/**
 * Linux on disks of every kind: partitioned, formatted, filled, checksummed, and the same after a
 * reset of the machine and a new start.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createQcow2 } from "../../src/vmd/disk/index.ts";
import { qemuImg, qemuMissing } from "../../src/vmd/disk/testing.ts";
import { Vm, type VmOptions } from "../../src/index.ts";
import { deviceEngine as engine, deviceGuest } from "../guests/devices.ts";
import { iso9660 } from "../guests/iso9660.ts";
import { linuxAmd64 } from "../guests/linux.ts";

setDefaultTimeout(300_000);
const missing = linuxAmd64.missing();
if (missing !== undefined) console.log(`disks of Linux skipped: ${missing}`);

const MIB = 2 ** 20;
let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "disks-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function run(options: VmOptions, seconds = 120): Promise<string> {
  await using vm = await Vm.start({ ...options, reboot: true });
  let output = "";
  vm.console.follow((bytes) => {
    output += new TextDecoder().decode(bytes);
  });
  const troubles: string[] = [];
  vm.onEvent((event) => {
    if (event.kind === "trouble") troubles.push(event.text);
  });
  const timer = setTimeout(() => void vm.stop(), seconds * 1000);
  const ending = await vm.ended;
  clearTimeout(timer);
  expect(troubles).toEqual([]);
  expect(`${ending.kind} ${output.slice(-2000)}`).toContain("script: done");
  return output;
}

const disks = {
  raw: (path: string) => {
    writeFileSync(path, "");
    truncateSync(path, 96 * MIB);
  },
  qcow2: (path: string) => createQcow2(path, 96 * MIB),
};

describe.skipIf(missing !== undefined)("Linux", () => {
  for (const [format, make] of Object.entries(disks)) {
    test(`${format} on ${engine}: partitions, a file system, a reset, a new start`, async () => {
      const path = join(folder, `${engine}.${format}`);
      make(path);
      const disk = { path, format: format as "raw" | "qcow2" };
      const fill = `
mkdir -p /mnt
if ! [ -b /dev/vda1 ]; then
  echo "disk: $(cat /sys/block/vda/size) sectors, $(cat /sys/block/vda/serial), ro $(cat /sys/block/vda/ro)"
  printf 'n\\np\\n1\\n\\n+40M\\nn\\np\\n2\\n\\n\\nw\\n' | busybox fdisk /dev/vda >/dev/null 2>&1
  sleep 1
  busybox mke2fs /dev/vda1 >/dev/null 2>&1
  mount -t ext4 /dev/vda1 /mnt 2>/dev/null || mount -t ext2 /dev/vda1 /mnt
  for i in 1 2 3 4 5 6; do dd if=/dev/urandom of=/mnt/file$i bs=64k count=64 2>/dev/null; done
  (cd /mnt; md5sum file* >sums)
  dd if=/dev/urandom of=/dev/vda2 bs=1M count=20 2>/dev/null
  dd if=/dev/vda2 bs=1M count=20 2>/dev/null | md5sum >/mnt/second
  umount /mnt
  sync
  echo "filled"
  reboot -f
fi
mount -t ext4 /dev/vda1 /mnt 2>/dev/null || mount -t ext2 /dev/vda1 /mnt
(cd /mnt; md5sum -c sums)
[ "$(dd if=/dev/vda2 bs=1M count=20 2>/dev/null | md5sum)" = "$(cat /mnt/second)" ] && echo "second: OK"
rm /mnt/file1
fstrim -v /mnt 2>/dev/null || busybox fstrim -v /mnt
umount /mnt
`;
      const options = {
        ...(await deviceGuest({ name: "disks", modules: ["virtio_blk"], script: fill })),
        engine,
        disks: [disk],
      };
      const first = await run(options);
      expect(first).toContain("disk: 196608 sectors, disk0, ro 0");
      expect(first).toContain("filled");
      expect(first.match(/file\d: OK/g)).toHaveLength(6);
      expect(first).toContain("second: OK");
      // A new process: what is in the file now.
      const check = `
mount -t ext2 /dev/vda1 /mnt 2>/dev/null || mount -t ext4 /dev/vda1 /mnt
(cd /mnt; md5sum -c sums 2>&1)
dd if=/dev/zero of=/dev/vda bs=512 count=1 2>&1 | grep -c "Operation not permitted\\|Read-only\\|I/O error\\|can't open"
`;
      const again = await run({
        ...options,
        ...(await deviceGuest({ name: "disks-again", modules: ["virtio_blk"], script: check })),
        disks: [{ ...disk, readOnly: true }],
      });
      expect(again.match(/file\d: OK/g)).toHaveLength(5);
      if (format === "qcow2" && qemuMissing === undefined) qemuImg(["check", path]);
      expect(statSync(path).size).toBeLessThanOrEqual(97 * MIB + 2 * 65536);
    });
  }

  test("a CD-ROM is mounted and read, and can't be written", async () => {
    const path = join(folder, "disc.iso");
    const big = crypto.getRandomValues(new Uint8Array(65_536));
    const data = new Uint8Array(40 * 65_536);
    for (let i = 0; i < 40; i++) data.set(big, i * 65_536);
    writeFileSync(
      path,
      iso9660("TESTDISC", {
        "HELLO.TXT": new TextEncoder().encode("hello from the disc\n"),
        "BIG.BIN": data,
      }),
    );
    const sum = new Bun.CryptoHasher("md5").update(data).digest("hex");
    const script = `
sleep 1
cat /proc/sys/dev/cdrom/info | grep "drive name"
cat /sys/block/sr0/device/vendor /sys/block/sr0/device/model
mount -t iso9660 -o ro /dev/sr0 /mnt && ls /mnt
cat /mnt/hello.txt
md5sum /mnt/big.bin
dd if=/dev/zero of=/dev/sr0 bs=2048 count=1 2>&1 | grep -i "read-only\\|error\\|denied\\|can't open"
`;
    const modules = ["virtio_scsi", "sr_mod", "isofs"];
    const guest = await deviceGuest({ name: "cdrom", modules, script });
    const output = await run({ ...guest, engine, cdrom: path });
    expect(output).toMatch(/drive name:\s+sr0/);
    expect(output).toContain("OpenBSD");
    expect(output).toContain("hello from the disc");
    expect(output).toContain(`${sum}  /mnt/big.bin`);
    expect(output.toLowerCase()).toMatch(/read-only|denied|can't open/);
  });

  test("four disks at once are four disks, in order", async () => {
    const paths = [1, 2, 3, 4].map((i) => {
      const path = join(folder, `four-${i}`);
      writeFileSync(path, new Uint8Array(i * MIB).fill(0x40 + i));
      return { path, format: "raw" as const };
    });
    const script = `
for d in vda vdb vdc vdd; do
  echo "$d $(cat /sys/block/$d/size) $(cat /sys/block/$d/serial) $(head -c 4 /dev/$d)"
done
cat /proc/interrupts | grep -c virtio
`;
    const guest = await deviceGuest({
      name: "four",
      modules: ["virtio_blk", "virtio_rng"],
      script,
    });
    const output = await run({ ...guest, engine, disks: paths });
    expect(output).toContain("vda 2048 disk0 AAAA");
    expect(output).toContain("vdd 8192 disk3 DDDD");
  });
});
