/** Differential snapshots of a guest under load hold, with their bases, what a full one holds. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deviceGuest } from "../../../golden/guests/devices.ts";
import { linuxAmd64 } from "../../../golden/guests/linux.ts";
import { PAGE, RecordType } from "../../vmm/snapshot/format.ts";
import { SnapshotReader } from "../../vmm/snapshot/reader.ts";
import { FileSource } from "../../vmm/snapshot/sources.ts";
import { createQcow2 } from "../disk/index.ts";
import { Vm } from "../vm.ts";
import { mergeSnapshotFiles } from "./merge.ts";

setDefaultTimeout(120_000);
const missing = linuxAmd64.missing();
if (missing !== undefined) console.log(`differential snapshots of Linux skipped: ${missing}`);

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "differential-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const engine = process.env.VMD_LAB === undefined ? ("unicorn" as const) : ("kvm" as const);

const SCRIPT = `
dd if=/dev/urandom of=/dev/vda bs=64k count=64 2>/dev/null; sum=$(md5sum </dev/vda)
i=0; while [ $i -lt 100000 ]; do
  i=$((i+1)); echo "count $i"
  echo 3 >/proc/sys/vm/drop_caches
  [ "$(md5sum </dev/vda)" = "$sum" ] || echo "WRONG"
done`;

/** Checksums of the pages that hold anything, by number. */
function pages(path: string): Map<number, bigint> {
  const descriptor = openSync(path, "r");
  try {
    const reader = new SnapshotReader(new FileSource(descriptor));
    const found = new Map<number, bigint>();
    for (let record = reader.next(); record !== undefined; record = reader.next()) {
      if (record.head.type !== RecordType.PAGES) continue;
      const data = reader.data(record);
      let at = 0;
      for (const { page, count } of record.runs) {
        for (let i = 0; i < count; i++, at += PAGE) {
          const bytes = data.subarray(at, at + PAGE);
          if (bytes.some((byte) => byte !== 0)) {
            found.set(page + i, Bun.hash.xxHash3(bytes) as bigint);
          }
        }
      }
    }
    return found;
  } finally {
    closeSync(descriptor);
  }
}

test.skipIf(missing !== undefined)(
  "a chain, merged, is the full snapshot; and it goes on",
  async () => {
    const disk = join(folder, "disk.qcow2");
    createQcow2(disk, 4 * 2 ** 20);
    const guest = await deviceGuest({ name: "counting", modules: ["virtio_blk"], script: SCRIPT });
    const vm = await Vm.start({ ...guest, engine, disks: [disk] });
    let text = "";
    vm.console.follow((bytes) => {
      text += new TextDecoder().decode(bytes);
    });
    const reach = async (what: RegExp) => {
      for (let i = 0; !what.test(text); i++) {
        if (i === 1200) throw new Error(`${what} did not come: ${text.slice(-500)}`);
        await Bun.sleep(50);
      }
    };
    const path = (name: string) => join(folder, name);
    await reach(/count 2\r/);
    const first = await vm.snapshot(path("0"), { differential: true });
    expect(first.differential).toBe(false);
    const sizes: number[] = [];
    for (let link = 1; link <= 3; link++) {
      await reach(new RegExp(`count ${2 + 2 * link}\r`));
      const result = await vm.snapshot(path(`${link}`), {
        differential: true,
        compress: link === 2,
      });
      expect(result.differential).toBe(true);
      sizes.push(result.pages);
    }
    expect(Math.max(...sizes)).toBeLessThan(first.pages / 2);
    // A full disk costs the file, and nothing else: what follows is based on the last that was written.
    const small = join(folder, "small");
    mkdirSync(small);
    if (Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small]).exitCode === 0) {
      try {
        const to = vm.snapshot(join(small, "full"), { differential: true });
        const full = await to.catch((error) => error.message);
        expect(full).toContain("no snapshot: writing it: ENOSPC");
        expect(readdirSync(small)).toEqual([]);
      } finally {
        Bun.spawnSync(["umount", small]);
      }
    } else console.log("a full disk skipped: no tmpfs to be mounted");
    // While it stands still, both are of one state.
    vm.pause();
    await vm.snapshot(path("4"), { differential: true });
    await vm.snapshot(path("full"));
    const empty = await vm.snapshot(path("5"), { differential: true });
    expect(empty.pages).toBeLessThan(16);
    await vm.stop();
    const merged = mergeSnapshotFiles(path("4"), path("merged"));
    expect(merged.snapshots).toBe(5);
    expect(statSync(path("merged")).size).toBe(merged.bytes);
    expect(pages(path("merged"))).toEqual(pages(path("full")));
    mergeSnapshotFiles(path("4"), path("4"));
    expect(pages(path("4"))).toEqual(pages(path("full")));

    for (const name of ["merged", "5"]) {
      const copy = await Vm.restore(path(name));
      text = "";
      copy.console.follow((bytes) => {
        text += new TextDecoder().decode(bytes);
      });
      await reach(/count \d+\r\n(.*\n)*count \d+\r/);
      expect(text).not.toContain("WRONG");
      await copy.stop();
    }
  },
);
