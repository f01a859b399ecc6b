/**
 * A guest that goes from one engine to the other, and a job for the lab: its part on KVM.
 *
 * bun golden/lab-engines.ts begin: the guest starts, and is snapshotted; prints a Passage as JSON.
 * bun golden/lab-engines.ts end: it goes on from /job/snapshot; prints what came of that.
 */
import { readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Vm } from "../src/index.ts";
import { Engine } from "../src/vmm/engine.ts";
import { MachineImage } from "../src/vmm/image.ts";
import { deviceGuest } from "./guests/devices.ts";

/** Counts and computes, with floating-point numbers too, and says what time it is. */
const SCRIPT = `
sum=$(seq 1 3000 | md5sum); i=0
product() { awk 'BEGIN { x = 1; for (i = 0; i < 99; i++) x = x * 1.1; printf "%.15g", x }'; }
number=$(product)
while :; do
  i=$((i+1)); read up idle </proc/uptime; echo "count $i up $up date $(date +%s)"
  [ "$(seq 1 3000 | md5sum)" = "$sum" ] || echo "WRONG sum"
  [ "$(product)" = "$number" ] || echo "WRONG number $(product)"
done`;

export interface Count {
  count: number;
  /** s since the guest's start, and since 1970, as it sees them. */
  up: number;
  date: number;
  /** s since 1970, of its host, when that was read. */
  host: number;
}

/** A guest that was put into a snapshot. */
export interface Passage {
  tscKhz: number;
  last: Count;
  snapshot: string;
}

export const engineGuest = () => deviceGuest({ name: "engines", modules: [], script: SCRIPT });

/** Reads what it counts. */
export function followCounts(vm: Vm) {
  const counts: Count[] = [];
  const seen = { text: "" };
  let line = "";
  vm.console.follow((bytes) => {
    const text = new TextDecoder().decode(bytes);
    seen.text += text;
    line += text;
    const host = Date.now() / 1000;
    for (const [, count, up, date] of line.matchAll(/^count (\d+) up ([\d.]+) date (\d+)\r\n/gm))
      counts.push({ count: Number(count), up: Number(up), date: Number(date), host });
    line = line.slice(line.lastIndexOf("\n") + 1);
  });
  const reach = async (number: number, seconds: number) => {
    const until = Date.now() + 240_000;
    while (counts.length < number || counts.at(-1)!.host - counts[0].host < seconds) {
      if (Date.now() > until) throw new Error(`it stands still: ${seen.text.slice(-2000)}`);
      await Bun.sleep(50);
    }
    return counts;
  };
  return { seen, reach };
}

/**
 * Guest seconds for one of the host's. A line may be read late and never early: so of the first and the
 * last third of the lines the one that was read the soonest counts.
 */
function rateOf(counts: readonly Count[]): number {
  const third = Math.ceil(counts.length / 3);
  const soonest = (some: readonly Count[]) =>
    some.reduce((best, one) => (one.host - one.up < best.host - best.up ? one : best));
  const from = soonest(counts.slice(0, third));
  const to = soonest(counts.slice(-third));
  return (to.up - from.up) / (to.host - from.host);
}

/** How the guest's clock went on, against its host's. */
export function judge(counts: readonly Count[], text: string) {
  const [first] = counts;
  const last = counts.at(-1)!;
  return {
    wrong: /WRONG.*/.exec(text)?.[0] ?? null,
    gaps: counts.some(({ count }, index) => count !== first.count + index),
    first,
    rate: rateOf(counts),
    /** s */
    off: last.date - last.host,
  };
}

/** How fast this host's KVM lets a TSC count, kHz. */
function hostTsc(): number {
  using image = new MachineImage([{ base: 0, size: 4096, readonly: false }]);
  using engine = Engine.open("kvm", image);
  return engine.tscKhz;
}

/** Why a guest can't go on here whose TSC is another: of firmware that does nothing but halt. */
async function refusal(): Promise<string> {
  const path = join(tmpdir(), "halted.bin");
  const firmware = Buffer.alloc(4096, 0x90);
  // At the reset vector: a jump to what is behind it, sti, hlt, and back to sti.
  firmware.set([0xeb, 0x00, 0xfb, 0xf4, 0xeb, 0xfc], 0xff0);
  await Bun.write(path, firmware);
  const options = { memory: "1M", kernel: path, engine: "unicorn", portable: true } as const;
  await using vm = await Vm.start({ ...options, tscKhz: 1_000_000 });
  await vm.snapshot(`${path}.snap`);
  try {
    await using _vm = await Vm.restore(`${path}.snap`, { engine: "kvm" });
    return "it went on";
  } catch (error) {
    return (error as Error).message;
  }
}

async function begin(): Promise<Passage> {
  const guest = await engineGuest();
  const { memory: _, ...options } = guest;
  const vm = await Vm.start({ ...options, memory: "128M", engine: "kvm", portable: true });
  const { reach } = followCounts(vm);
  await reach(3, 0);
  const path = join(tmpdir(), "engines.snap");
  await vm.snapshot(path, { compress: true, stop: true });
  await vm.ended;
  // It may have said one more before it stood still.
  const last = (await reach(0, 0)).at(-1)!;
  const snapshot = readFileSync(path).toString("base64");
  rmSync(path);
  return { tscKhz: hostTsc(), last, snapshot };
}

async function end() {
  await using vm = await Vm.restore("/job/snapshot", { engine: "kvm" });
  const { reach, seen } = followCounts(vm);
  const counts = await reach(4, 10);
  return { ...judge(counts, seen.text), tscKhz: hostTsc(), refusal: await refusal() };
}

if (import.meta.main) {
  console.log(JSON.stringify(process.argv[2] === "begin" ? await begin() : await end()));
}
