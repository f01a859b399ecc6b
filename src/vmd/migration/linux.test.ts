/**
 * A Linux guest under load goes to and fro between two daemons while it runs: what it prints goes on
 * without a gap, and no byte of its memory or its disk is wrong.
 *
 * VMD_MIGRATION_TRIPS says how often; the default is for every day.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, renameSync } from "node:fs";
import { join } from "node:path";
import { deviceGuest } from "../../../golden/guests/devices.ts";
import { linuxAmd64 } from "../../../golden/guests/linux.ts";
import { TestDaemon, until } from "../daemon/testing.ts";
import { createQcow2 } from "../disk/index.ts";
import { followVm, trip } from "./testing.ts";

const TRIPS = Number(process.env.VMD_MIGRATION_TRIPS ?? 4);
setDefaultTimeout(120_000 + TRIPS * 60_000);
const missing = linuxAmd64.missing();
if (missing !== undefined) console.log(`migrations of Linux skipped: ${missing}`);
const engine = process.env.VMD_LAB === undefined ? "unicorn" : "kvm";

/** Counts, reads its disk, copies in memory, writes a sector and reads the one before. */
const SCRIPT = `
dd if=/dev/urandom of=/dev/vda bs=64k count=16 2>/dev/null
sum=$(dd if=/dev/vda bs=64k count=16 2>/dev/null | md5sum)
mkdir -p /ram; dd if=/dev/urandom of=/ram/x bs=64k count=32 2>/dev/null; ram=$(md5sum </ram/x)
i=0; while [ $i -lt 100000 ]; do
  i=$((i+1)); echo "count $i"
  echo 3 >/proc/sys/vm/drop_caches
  [ "$(dd if=/dev/vda bs=64k count=16 2>/dev/null | md5sum)" = "$sum" ] || echo "WRONG disk"
  cp /ram/x /ram/y$((i%4)); [ "$(md5sum </ram/y$((i%4)))" = "$ram" ] || echo "WRONG memory"
  echo "mark $i" | dd of=/dev/vda bs=512 seek=$((16384+i%8192)) conv=sync,notrunc 2>/dev/null; sync
  [ $i -eq 1 ] && continue
  was=$(dd if=/dev/vda bs=512 skip=$((16384+(i-1)%8192)) count=1 2>/dev/null | tr -d '\\0')
  [ "$was" = "mark $((i-1))" ] || echo "WRONG mark: $was"
done`;

let daemons: TestDaemon[] = [];
beforeAll(async () => {
  daemons = await Promise.all([TestDaemon.start(), TestDaemon.start()]);
});
afterAll(async () => {
  await Promise.all(daemons.map((daemon) => daemon[Symbol.asyncDispose]()));
});

const last = (text: string) => Number([...text.matchAll(/count (\d+)\r\n/g)].at(-1)?.[1] ?? 0);

describe.skipIf(missing !== undefined)(`Linux under load on ${engine}`, () => {
  test(`${TRIPS} trips`, async () => {
    const guest = await deviceGuest({
      name: "travelling",
      modules: ["virtio_blk"],
      script: SCRIPT,
    });
    const disk = join(daemons[0].folder, "disk.qcow2");
    createQcow2(disk, 16 * 2 ** 20);
    const words = ["start", "--engine", engine, "-m", "128M", "-b", guest.kernel];
    words.push("-i", guest.initrd, "-a", guest.cmdline, "-d", disk, "linux");
    expect((await daemons[0].vctl(words)).err).toContain("started vm");
    let here = await followVm(daemons[0], "linux");
    let all = "";
    const goesOn = async (more: number) => {
      const from = last(all + here.text);
      await until(
        () => last(all + here.text) >= from + more,
        120_000,
        () => `it stands still: ${here.text.slice(-500)}`,
      );
    };
    await goesOn(2);
    const times: number[] = [];
    for (let round = 0; round < TRIPS; round++) {
      const [from, to] = round % 2 === 0 ? daemons : daemons.toReversed();
      const live = round % 4 !== 3;
      const args = live ? ["--live", "--downtime", "300"] : [];
      const { send, receive } = await trip({ from, to, name: "linux", args });
      expect([send.code, receive.code, send.err, receive.err]).toEqual([
        0,
        0,
        expect.stringContaining("sent vm linux"),
        expect.stringContaining("received vm"),
      ]);
      if (live) times.push(Number(/still for (\d+) ms/.exec(send.err)?.[1]));
      await here.ended;
      all += here.text;
      here = await followVm(to, "linux");
      await goesOn(2);
    }
    all += here.text;
    expect(all).not.toContain("WRONG");
    const counts = [...all.matchAll(/count (\d+)\r\n/g)].map(([, n]) => Number(n));
    expect(counts).toEqual(counts.map((_, i) => i + 1));
    console.log(`${TRIPS} trips, ${counts.length} rounds of work; stood still for ${times} ms`);
    const [to] = TRIPS % 2 === 0 ? daemons : daemons.toReversed();

    // A disk that isn't there on the other side: it says which, and the guest goes on here.
    const [other] = daemons.filter((daemon) => daemon !== to);
    renameSync(disk, `${disk}.away`);
    const refused = await trip({ from: to, to: other, name: "linux", args: ["--live"] });
    renameSync(`${disk}.away`, disk);
    expect(existsSync(disk)).toBe(true);
    expect(refused.send.code).toBe(1);
    expect(refused.send.err).toContain(`${disk}`);
    expect(refused.send.err).toContain("vm linux goes on here");
    await goesOn(2);
    expect(here.text).not.toContain("WRONG");
    await to.vctl(["stop", "-fw", "linux"]);
  });
});
