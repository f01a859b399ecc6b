/**
 * A Linux guest under load that is copied again and again: each copy goes on where the guest was, with
 * its memory, its disk and the right time, and the guest notices nothing.
 *
 * VMD_FORKS says how many copies are made.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { createQcow2 } from "../../src/vmd/disk/index.ts";
import { TestDaemon } from "../../src/vmd/daemon/testing.ts";
import { deviceEngine, deviceGuest } from "../guests/devices.ts";
import { linuxAmd64 } from "../guests/linux.ts";
import { Terminal } from "./terminal.ts";

setDefaultTimeout(3_600_000);
const missing = linuxAmd64.missing();
if (missing !== undefined) console.log(`copies under load skipped: ${missing}`);

const FORKS = Number(process.env.VMD_FORKS ?? 4);
/** A disk's chain of images, one more for each request, has an end. */
const REQUESTS = 10;
/** What clocks may differ by, s: the guest tells whole seconds. */
const CLOCK = 5;

/**
 * Counts. With each count it writes a file in memory and compares its checksum, and compares one that
 * it wrote at the beginning.
 */
const MEMORY = `
mkdir -p /load; mount -t tmpfs none /load
dd if=/dev/urandom of=/load/first bs=64k count=32 2>/dev/null; sum=$(md5sum </load/first)
check_disk() { :; }
`;
const LOOP = `
i=0; while true; do
  i=$((i+1))
  seq $i $((i+2000)) >/load/now; a=$(md5sum </load/now); b=$(seq $i $((i+2000)) | md5sum)
  [ "$a" = "$b" ] || echo "WRONG now"
  [ "$(md5sum </load/first)" = "$sum" ] || echo "WRONG first"
  check_disk
  echo "count $i at $(date +%s) rtc $(cat /sys/class/rtc/rtc0/since_epoch 2>/dev/null || echo none)"
done`;
/** The same with a disk: a part that stays, and one that is written with each count. */
const DISK = `
dd if=/dev/urandom of=/dev/vda bs=64k count=16 2>/dev/null
disk=$(dd if=/dev/vda bs=64k count=16 2>/dev/null | md5sum)
check_disk() {
  seq $i $((i+2500)) | dd of=/dev/vda bs=4k seek=512 conv=sync,fsync 2>/dev/null
  w=$(seq $i $((i+2500)) | dd bs=4k conv=sync 2>/dev/null | md5sum)
  echo 3 >/proc/sys/vm/drop_caches
  [ "$(dd if=/dev/vda bs=64k count=16 2>/dev/null | md5sum)" = "$disk" ] || echo "WRONG disk"
  n=$(seq $i $((i+2500)) | dd bs=4k conv=sync 2>/dev/null | wc -c)
  r=$(dd if=/dev/vda bs=4k skip=512 count=$((n/4096)) 2>/dev/null | md5sum)
  [ "$r" = "$w" ] || echo "WRONG written"
}
`;

interface Count {
  count: number;
  /** Seconds since 1970: what the guest's clock and its RTC say. */
  at: number;
  rtc: number | undefined;
}

/** The counts that a text holds, which end lines of their own. */
function counts(text: string): Count[] {
  return [...text.matchAll(/^count (\d+) at (\d+) rtc (\d+|none)\r$/gm)].map(
    ([, count, at, rtc]) => {
      return {
        count: Number(count),
        at: Number(at),
        rtc: rtc === "none" ? undefined : Number(rtc),
      };
    },
  );
}

/**
 * Of what it says next: clocks are read after the count before was printed, which is not there yet when
 * this begins, and before their own is.
 * @param behind s: a copy's clock goes on from where the VM stood; its RTC is right.
 */
async function expectTime(console: Terminal, behind = 0): Promise<void> {
  console.drain();
  const { count } = counts(console.text).at(-1) as Count;
  const from = Date.now() / 1000 - CLOCK;
  await console.until(new RegExp(`^(count ${count + 2} .*)\\r$`, "m"));
  const to = Date.now() / 1000 + CLOCK;
  const said = counts(console.text).find((one) => one.count === count + 2) as Count;
  expect(said.at).toBeGreaterThan(from - behind);
  expect(said.rtc ?? said.at).toBeGreaterThan(said.rtc === undefined ? from - behind : from);
  for (const time of [said.at, said.rtc ?? said.at]) expect(time).toBeLessThan(to);
}

describe.skipIf(missing !== undefined)(`${FORKS} copies of a guest under load`, () => {
  let vmd: TestDaemon;
  beforeAll(async () => {
    vmd = await TestDaemon.start();
  });
  afterAll(() => vmd[Symbol.asyncDispose]());

  const terminalOf = async (name: string) => {
    const [vm] = (await vmd.status()).filter((one) => one.name === name);
    return new Terminal(vm.tty as string);
  };

  /** Starts it. @returns its console, once it counts */
  async function start(name: string, script: string, disks: string[]): Promise<Terminal> {
    const modules = disks.length > 0 ? ["virtio_blk"] : [];
    const { kernel, initrd, cmdline } = await deviceGuest({ name, modules, script });
    const started = await vmd.vctl([
      ...["start", name, "--engine", deviceEngine, "-b", kernel, "-i", initrd, "-a", cmdline],
      ...["-m", "128M", ...disks.flatMap((disk) => ["-d", disk])],
    ]);
    expect(started).toMatchObject({ code: 0 });
    const console = await terminalOf(name);
    await console.until(/^(count 1 .*)\r$/m);
    return console;
  }

  /** Copies it so often at once, and looks at what the copies say. */
  async function fork(name: string, console: Terminal, request: number, copies: number) {
    await console.until(/^(count \d+ .*)\r$/m);
    const before = counts(console.text).at(-1) as Count;
    const prefix = `${name}-${request}`;
    const asked = Date.now();
    const { code, err } = await vmd.vctl(["fork", "-n", `${copies}`, name, prefix]);
    expect({ code, err }).toMatchObject({ code: 0 });
    // So long the last of them waited for its first instruction.
    const behind = (Date.now() - asked) / 1000;
    for (let copy = 1; copy <= copies; copy++) {
      const other = await terminalOf(`${prefix}-${copy}`);
      await other.until(/(?:^count .*\r\n(?:.*\n)*?){2}^(count \d+ .*)\r$/m);
      const seen = counts(other.text);
      expect(other.text).not.toContain("WRONG");
      // What it was about to print when it was copied may be cut.
      expect(seen[0].count).toBeGreaterThan(before.count);
      expect(seen.map(({ count }) => count)).toEqual(seen.map((_, i) => seen[0].count + i));
      await expectTime(other, behind);
      other.close();
      console.drain();
      expect(await vmd.vctl(["stop", "-fw", `${prefix}-${copy}`])).toMatchObject({ code: 0 });
    }
    // It goes on.
    await console.until(new RegExp(`^(count ${before.count + 2} .*)\\r$`, "m"));
  }

  async function end(name: string, console: Terminal) {
    await expectTime(console);
    expect(console.text).not.toContain("WRONG");
    const all = counts(console.text);
    expect(all.map(({ count }) => count)).toEqual(all.map((_, i) => i + 1));
    console.close();
    await vmd.vctl(["stop", "-fw", name]);
  }

  test("one at a time", async () => {
    const console = await start("memory", `${MEMORY}${LOOP}`, []);
    for (let request = 0; request < FORKS; request++) await fork("memory", console, request, 1);
    await end("memory", console);
  });

  test("several at once, with a disk", async () => {
    const disk = join(vmd.folder, "disk.qcow2");
    createQcow2(disk, 4 * 2 ** 20);
    const console = await start("disks", `${MEMORY}${DISK}${LOOP}`, [disk]);
    const each = Math.max(2, Math.ceil(FORKS / REQUESTS));
    for (let made = 0; made < FORKS; made += each) await fork("disks", console, made / each, each);
    await end("disks", console);
  });
});
