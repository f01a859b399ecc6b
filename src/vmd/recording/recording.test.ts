/** A Linux guest with disks, a network and consoles: recorded once, and run again from that alone. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync, mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deviceGuest } from "../../../golden/guests/devices.ts";
import { linuxAmd64 } from "../../../golden/guests/linux.ts";
import { createQcow2 } from "../disk/create.ts";
import { type Ending, Vm } from "../vm.ts";
import { RecordingError } from "./recording-reader.ts";
import { comparePositions, ReplaySession } from "./replay-session.ts";
import { replayRecording } from "./replay.ts";
import { Neighbour } from "./testing.ts";

setDefaultTimeout(600_000);
const inLab = process.env.VMD_LAB !== undefined;
const missing = inLab ? "the lab is for KVM" : linuxAmd64.missing();
if (missing !== undefined) console.log(`recordings of Linux skipped: ${missing}`);

/** How often it is run again; by hand 100. */
const REPLAYS = Number(process.env.VMD_REPLAYS ?? 3);
const MIB = 2 ** 20;

const SCRIPT = `
ip link set lo up; ip addr add 10.1.1.2/24 dev eth0; ip link set eth0 up
exec 3<>/dev/hvc0
busybox stty -F /dev/hvc0 raw -echo
echo "ready"
read line; echo "got $line"
head -c 5 /dev/hvc0; echo " by virtio"
md5sum /dev/vda /dev/vdb
ping -c 4 10.1.1.1
(while :; do :; done) &
echo "busy"
read line; echo "while busy: $line"
kill $!
dd if=/dev/urandom of=/dev/vdb bs=64k count=16 2>/dev/null; sync; echo 3 >/proc/sys/vm/drop_caches
dd if=/dev/zero of=/dev/vda bs=512 seek=3 count=5 2>/dev/null; sync
md5sum /dev/vda /dev/vdb
head -c 32 /dev/hwrng | md5sum
cat /proc/uptime /proc/interrupts
read line; echo "$line"
`;

/** The first machine leaves a word on its disk for the second. */
const RESETS = `
if [ "$(head -c 5 /dev/vda)" = again ]; then
  echo "second"; md5sum /dev/vda; head -c 16 /dev/hwrng | md5sum; read line; echo "$line"
else
  echo "first"; md5sum /dev/vda; read line; echo "$line"
  printf again | dd of=/dev/vda conv=notrunc 2>/dev/null; sync
  busybox reboot -f
fi
`;

let folder = "";
let path = "";
let ending: Ending;
let printed = "";
let pings = 0;

async function record(): Promise<void> {
  const raw = join(folder, "raw");
  const qcow2 = join(folder, "qcow2");
  writeFileSync(raw, "what was on the disk\n".repeat(5000));
  truncateSync(raw, 4 * MIB);
  createQcow2(qcow2, 8 * MIB);
  const guest = await deviceGuest({
    name: "recorded",
    modules: ["virtio_blk", "virtio_net", "virtio_rng", "virtio_console"],
    script: SCRIPT,
  });
  using neighbour = new Neighbour();
  const vm = await Vm.start({
    ...guest,
    record: path,
    disks: [{ path: raw, format: "raw" }, { path: qcow2 }],
    devices: ["console", "balloon"],
    interfaces: [
      {
        kind: "switch",
        mac: "fe:e1:bb:d1:00:01",
        locked: true,
        descriptor: neighbour.descriptor,
      },
    ],
  });
  vm.console.follow((bytes) => {
    printed += new TextDecoder().decode(bytes);
  });
  await vm.console.expect("ready");
  await Bun.sleep(137);
  await vm.console.send("fo");
  await Bun.sleep(33);
  await vm.console.send("o\n");
  await vm.console.expect("got foo");
  await vm.balloon(8 * MIB);
  await Bun.sleep(61);
  await vm.virtio.send("bytes");
  await vm.console.expect("busy\r\n");
  await Bun.sleep(71);
  await vm.console.send("bar\n");
  await vm.console.expect("while busy: bar");
  vm.pause();
  await Bun.sleep(20);
  vm.unpause();
  await vm.console.send("the end\n");
  ending = await vm.ended;
  pings = neighbour.answered;
  // Nothing outside of the recording is needed.
  rmSync(raw);
  rmSync(qcow2);
}

describe.skipIf(missing !== undefined)("a recorded run", () => {
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "recordings-"));
    path = join(folder, "recording");
    await record();
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test("is of a guest that had its input", () => {
    expect(ending.kind).toBe("power-off");
    expect(ending.image).toMatch(/^[0-9a-f]{64}$/);
    expect(printed).toContain("4 packets transmitted, 4 packets received");
    expect(pings).toBe(4);
    expect(printed).toContain("by virtio");
    // Nothing is there yet in the qcow2 image.
    expect(printed).not.toContain("I/O error");
  });

  test(`is the same ${REPLAYS} times`, () => {
    for (let i = 0; i < REPLAYS; i++) {
      let again = "";
      const started = performance.now();
      const result = replayRecording(path, {
        console: (bytes) => {
          again += new TextDecoder().decode(bytes);
        },
      });
      expect(result.difference).toBeUndefined();
      expect(result.image).toBe(ending.image!);
      expect(result.end?.image).toBe(result.image);
      expect(again).toBe(printed);
      if (REPLAYS > 3) {
        const seconds = ((performance.now() - started) / 1000).toFixed(1);
        console.log(`replay ${i + 1}: ${result.exits} exits, ${seconds} s, ${result.image}`);
      }
    }
  });

  test("stops where it is told to, and is the same there", () => {
    const [one, two] = [5000, 5000].map((until) => replayRecording(path, { until }));
    expect(one).toMatchObject({ exits: 5000, end: undefined, difference: undefined });
    expect(two).toEqual(one);
    const next = replayRecording(path, { until: 5001 });
    expect(next.exits).toBe(5001);
    expect(next.image).not.toBe(one.image);
  });

  test("is gone through in both directions", () => {
    let again = "";
    using session = new ReplaySession(
      path,
      { console: (bytes) => (again += new TextDecoder().decode(bytes)) },
      { count: 8, bytes: 128 * MIB },
    );
    session.seekExit(Infinity);
    expect(session.image).toBe(ending.image as string);
    expect(again).toBe(printed);
    expect(session.checkpointBytes).toBeLessThanOrEqual(128 * MIB);
    const { exits } = session.position;
    for (const part of [0.7, 0.95, 0.3]) {
      const until = Math.floor(exits * part);
      session.seekExit(until);
      expect(session.image).toBe(replayRecording(path, { until }).image);
    }
    // What is here was here before.
    for (let i = 0; i < 50; i++) session.stepBlock();
    const here = session.position;
    const image = session.image;
    session.breakpoints = [session.rip];
    expect(session.continueBack()).toBe("breakpoint");
    expect(comparePositions(session.position, here)).toBeLessThan(0);
    while (comparePositions(session.position, here) < 0) session.continue();
    expect(session.position).toEqual(here);
    expect(session.image).toBe(image);
    session.seekExit(Infinity);
    expect(session.image).toBe(ending.image as string);
    expect(again).toBe(printed);
  });

  test("that is cut off or damaged gives a sentence", () => {
    const copy = join(folder, "copy");
    const { size } = statSync(path);
    for (const length of [0, 1, 63, 4096, 5000, Math.floor(size / 2)]) {
      copyFileSync(path, copy);
      truncateSync(copy, length);
      expect(() => replayRecording(copy)).toThrow(RecordingError);
      expect(() => replayRecording(copy)).toThrow(/^[^\n]+: it ends too early$/);
    }
  });

  test("goes on over the guest's reset, with its disk", async () => {
    const disk = join(folder, "disk");
    const resets = join(folder, "resets.rec");
    writeFileSync(disk, "what was on the disk\n".repeat(5000));
    truncateSync(disk, MIB);
    const guest = await deviceGuest({
      name: "recorded-resets",
      modules: ["virtio_blk", "virtio_rng"],
      script: RESETS,
    });
    const vm = await Vm.start({ ...guest, record: resets, disks: [{ path: disk, format: "raw" }] });
    let said = "";
    vm.console.follow((bytes) => (said += new TextDecoder().decode(bytes)));
    await vm.console.expect(/first[^]*vda/);
    await vm.console.send("foo\n");
    await vm.console.expect(/second[^]*-/);
    await vm.console.send("bar\n");
    const { kind, image } = await vm.ended;
    expect(kind).toBe("power-off");
    rmSync(disk);
    let again = "";
    const result = replayRecording(resets, {
      console: (bytes) => (again += new TextDecoder().decode(bytes)),
    });
    expect(result).toMatchObject({ difference: undefined, image });
    expect(again).toBe(said);
    // Before the reset, and behind it.
    using session = new ReplaySession(resets, {}, { count: 8, bytes: 128 * MIB });
    session.seekExit(Infinity);
    expect(session.image).toBe(image as string);
    const { exits } = session.position;
    for (const part of [0.2, 0.8]) {
      const until = Math.floor(exits * part);
      session.seekExit(until);
      expect(session.image).toBe(replayRecording(resets, { until }).image);
    }
  });
});
