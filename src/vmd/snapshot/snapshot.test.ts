/** A Linux guest that goes on from snapshots, through the library. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deviceGuest } from "../../../golden/guests/devices.ts";
import { linuxAmd64 } from "../../../golden/guests/linux.ts";
import { createQcow2 } from "../disk/index.ts";
import { qemuImg, qemuMissing } from "../disk/testing.ts";
import { Vm } from "../vm.ts";

setDefaultTimeout(900_000);
const missing = linuxAmd64.missing();
if (missing !== undefined) console.log(`snapshots of Linux skipped: ${missing}`);

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "snapshots-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const MIB = 2 ** 20;
const ROUNDS = Number(process.env.VMD_SNAPSHOT_ROUNDS ?? 4);
const engine = process.env.VMD_LAB === undefined ? ("unicorn" as const) : ("kvm" as const);

/** Counts on the console, and compares what it reads from its disk. */
const COUNTING = `
dd if=/dev/urandom of=/dev/vda bs=64k count=64 2>/dev/null; sum=$(md5sum </dev/vda)
i=0; while [ $i -lt 100000 ]; do
  i=$((i+1)); echo "count $i"
  echo 3 >/proc/sys/vm/drop_caches
  [ "$(md5sum </dev/vda)" = "$sum" ] || echo "WRONG"
done`;

/** Counts, with much memory in use, of which it writes a little and compares all of that. */
const FILLED = `
mkdir -p /ram; mount -t tmpfs -o size=150m none /ram
dd if=/dev/urandom of=/ram/much bs=1M count=80 2>/dev/null
dd if=/dev/urandom of=/ram/x bs=64k count=8 2>/dev/null; sum=$(md5sum </ram/x)
i=0; while [ $i -lt 100000 ]; do
  i=$((i+1)); echo "count $i"
  cp /ram/x /ram/y$((i%4)); [ "$(md5sum </ram/y$((i%4)))" = "$sum" ] || echo "WRONG"
done`;

function follow(vm: Vm): { text: string } {
  const seen = { text: "" };
  vm.console.follow((bytes) => {
    seen.text += new TextDecoder().decode(bytes);
  });
  return seen;
}

async function reach(seen: { text: string }, what: RegExp): Promise<RegExpExecArray> {
  for (let i = 0; i < 600; i++) {
    const match = what.exec(seen.text);
    if (match !== null) return match;
    await Bun.sleep(50);
  }
  throw new Error(`${what} did not come: ${seen.text.slice(-500)}`);
}

const numbers = (text: string) => [...text.matchAll(/^count (\d+)\r$/gm)].map(([, n]) => Number(n));

describe.skipIf(missing !== undefined)(`snapshots on ${engine}`, () => {
  test("a guest goes on where it was, again and again, with its disk", async () => {
    const disk = join(folder, "disk.qcow2");
    createQcow2(disk, 4 * MIB);
    const guest = await deviceGuest({
      name: "counting",
      modules: ["virtio_blk"],
      script: COUNTING,
    });
    let vm = await Vm.start({ ...guest, engine, disks: [disk] });
    let seen = follow(vm);
    await reach(seen, /count 3\r/);
    for (let round = 0; round < ROUNDS; round++) {
      const path = join(folder, `round-${round}`);
      // Each that goes on makes the chains of its disk longer.
      const stop = round === 2 || round > 3;
      const { pages, bytes } = await vm.snapshot(path, { compress: round % 2 === 1, stop });
      expect(statSync(path).size).toBe(bytes);
      expect(pages).toBeGreaterThan(1000);
      const before = numbers(seen.text).at(-1)!;
      // Else it goes on after its snapshot, too.
      if (!stop) await reach(seen, new RegExp(`count ${before + 2}\r`));
      expect((await (stop ? vm.ended : vm.stop())).kind).toBe("stopped");
      vm = await Vm.restore(path, {}, { verify: round === 3 });
      // It is mapped: its name isn't needed any more.
      rmSync(path);
      const after = follow(vm);
      await reach(after, /count \d+\r\n(.*\n)*count \d+\r/);
      const [first, ...others] = numbers(after.text);
      expect(first).toBeGreaterThanOrEqual(before);
      expect(first).toBeLessThanOrEqual(before + 2);
      expect(others.slice(0, 2)).toEqual([first + 1, first + 2].slice(0, others.length));
      expect(after.text).not.toContain("WRONG");
      seen = after;
    }
    await vm.stop();
    if (qemuMissing !== undefined) return;
    const images = readdirSync(folder).filter((name) => /disk/.test(name));
    // Frozen in three rounds, and a new one in each but that in which it was stopped.
    expect(images.length).toBeGreaterThan(6);
    for (const image of images) qemuImg(["check", join(folder, image)]);
  });

  test("a raw disk: of a VM that goes on, no snapshot; of one that ends, unless it is written", async () => {
    const disk = join(folder, "disk.img");
    writeFileSync(disk, "");
    truncateSync(disk, MIB);
    const guest = await deviceGuest({
      name: "sleeping",
      modules: ["virtio_blk"],
      script: "echo up; sleep 1000",
    });
    const vm = await Vm.start({ ...guest, engine, disks: [disk] });
    await reach(follow(vm), /up\r/);
    const path = join(folder, "raw");
    expect(vm.snapshot(path)).rejects.toThrow(`${disk}: a raw image can't stay as it is`);
    expect(existsSync(path)).toBe(false);
    expect(vm.snapshot(disk, { stop: true })).rejects.toThrow(`${disk}: File exists`);
    await vm.snapshot(path, { stop: true });
    await vm.ended;
    const copy = await Vm.restore(path);
    await copy.stop();
    writeFileSync(disk, Buffer.alloc(MIB, 1));
    expect(Vm.restore(path)).rejects.toThrow(
      `${disk}: it was written since the snapshot was taken`,
    );
  });

  test("with virtual time, the same snapshot leads to the same run", async () => {
    if (engine === "kvm") return console.log("skipped: KVM has no virtual time");
    const script = `i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo "count $i $(cat /proc/uptime)"; done`;
    const guest = await deviceGuest({ name: "virtual", modules: [], script });
    const vm = await Vm.start({ ...guest, engine, virtualTime: true, reboot: false });
    const seen = follow(vm);
    await reach(seen, /count 20 /);
    const path = join(folder, "virtual");
    await vm.snapshot(path);
    await vm.stop();
    const run = async () => {
      const copy = await Vm.restore(path);
      const text = follow(copy);
      await copy.ended;
      return text.text;
    };
    const one = await run();
    expect(one).toContain("count 400 ");
    expect(await run()).toBe(one);
  });

  test("its memory is copied while it runs, and it stands still for the rest only", async () => {
    const guest = await deviceGuest({ name: "filled", modules: ["virtio_blk"], script: FILLED });
    const disk = join(folder, "filled.qcow2");
    createQcow2(disk, 4 * MIB);
    await using vm = await Vm.start({ ...guest, memory: "192M", engine, disks: [disk] });
    const seen = follow(vm);
    await reach(seen, /count 2\r/);
    const plain = await vm.snapshot(join(folder, "plain.snap"));
    const path = join(folder, "live.snap");
    const before = numbers(seen.text).length;
    const live = await vm.snapshot(path, { live: 50 });
    expect(statSync(path).size).toBe(live.bytes);
    expect(live.rounds).toBeGreaterThan(0);
    expect(live.pages).toBeGreaterThan(64 * 256);
    console.log(
      `${live.rounds} rounds, ${live.pages} pages: stood still for ${Math.round(live.paused)} ms, ` +
        `without --live for ${Math.round(plain.paused)} ms`,
    );
    await reach(seen, new RegExp(`count ${before + 3}\r`));
    expect(seen.text).not.toContain("WRONG");
    await using again = await Vm.restore(path);
    const other = follow(again);
    await reach(other, /count \d+\r[^]*count \d+\r[^]*count \d+\r/);
    const [first, ...rest] = numbers(other.text);
    expect(first).toBeGreaterThanOrEqual(before);
    expect(rest.slice(0, 2)).toEqual([first + 1, first + 2]);
    expect(other.text).not.toContain("WRONG");
  });

  test("of a live snapshot that fails, nothing is left, and the guest goes on", async () => {
    const guest = await deviceGuest({
      name: "counting2",
      modules: ["virtio_blk"],
      script: COUNTING,
    });
    const disk = join(folder, "failing.qcow2");
    createQcow2(disk, 4 * MIB);
    await using vm = await Vm.start({ ...guest, engine, disks: [disk] });
    const seen = follow(vm);
    await reach(seen, /count 1\r/);
    const path = join(folder, "failing.snap");
    const says = (promise: Promise<unknown>) => promise.catch((error: Error) => error.message);
    expect(await says(vm.snapshot(path, { live: true, stop: true }))).toContain(
      "a live snapshot is neither differential nor the VM's end",
    );
    const first = vm.snapshot(path, { live: true });
    expect(await says(vm.snapshot(`${path}.2`))).toContain("one is being written already");
    await first;
    const ended = says(vm.snapshot(`${path}.3`, { live: true }));
    await vm.stop();
    expect(await ended).toMatch(/no snapshot|ended|stopped/);
    expect(existsSync(`${path}.2`) || existsSync(`${path}.3`)).toBe(false);
    expect(readdirSync(folder).filter((name) => name.startsWith("failing.qcow2."))).toHaveLength(1);
    expect(seen.text).not.toContain("WRONG");
  });
});
