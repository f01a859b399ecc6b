/**
 * A guest that goes from one engine to the other, and a job for the lab: its part on KVM.
 *
 * bun golden/lab-engines.ts begin: the guest starts, and is snapshotted; prints a Passage as JSON.
 * bun golden/lab-engines.ts end: it goes on from /job/snapshot, behind the half line in /job/rest; prints what
 * came of that.
 * bun golden/lab-engines.ts journey: another is sent from KVM to Unicorn and back; prints a Journey.
 */
import { readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Vm } from "../src/index.ts";
import { TestDaemon, until } from "../src/vmd/daemon/testing.ts";
import { followVm, trip } from "../src/vmd/migration/testing.ts";
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
  /** What it had said of the next line: the rest comes from where it goes on. */
  rest: string;
  snapshot: string;
}

export const engineGuest = () => deviceGuest({ name: "engines", modules: [], script: SCRIPT });

/** Reads what it counts, behind the beginning of a line that it said elsewhere. */
export function followCounts(vm: Vm, line = "") {
  const counts: Count[] = [];
  const seen = { text: "" };
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
  return { seen, reach, rest: () => line };
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
  const { reach, rest } = followCounts(vm);
  await reach(3, 0);
  const path = join(tmpdir(), "engines.snap");
  await vm.snapshot(path, { compress: true, stop: true });
  await vm.ended;
  // It may have said one more before it stood still.
  const last = (await reach(0, 0)).at(-1)!;
  const snapshot = readFileSync(path).toString("base64");
  rmSync(path);
  return { tscKhz: hostTsc(), last, rest: rest(), snapshot };
}

async function end() {
  await using vm = await Vm.restore("/job/snapshot", { engine: "kvm" });
  const { reach, seen } = followCounts(vm, readFileSync("/job/rest", "utf8"));
  const counts = await reach(4, 10);
  return { ...judge(counts, seen.text), tscKhz: hostTsc(), refusal: await refusal() };
}

/** What a guest of firmware has said, and where it was. */
export interface Journey {
  said: string;
  engines: string[];
  /** What `vctl receive` says where the other engine hasn't what the guest has seen. */
  refusal: string;
}

/** mov bl,'A'; for each byte that is typed: mov al,bl; out 3f8,al; inc bl. */
const LETTERS = "b3 41 ba fd 03 ec a8 01 74 fb ba f8 03 ec 88 d8 ee fe c3 eb ed";

async function journey(): Promise<Journey> {
  await using a = await TestDaemon.start();
  await using b = await TestDaemon.start();
  const kernel = a.firmware("letters", LETTERS);
  const start = async (name: string, ...more: string[]) => {
    const words = ["start", "--engine", "kvm", "-m", "4M", "-b", kernel, ...more, name];
    const { code, err } = await a.vctl(words);
    if (code !== 0) throw new Error(err);
  };
  const [engines, said]: string[][] = [[], []];
  const look = async (daemon: TestDaemon) => {
    const seen = await followVm(daemon, "letters");
    await seen.stream.send("x");
    await until(
      () => /[A-Z]/.test(seen.text),
      60_000,
      () => `it says nothing behind ${said.join("")}`,
    );
    said.push(seen.text);
    engines.push((await daemon.status()).find(({ name }) => name === "letters").engine);
  };
  const go = async (from: TestDaemon, to: TestDaemon, engine: string, args: string[] = []) => {
    const receiveArgs = ["--engine", engine];
    const result = await trip({ from, to, name: "letters", args, receiveArgs });
    if (result.send.code !== 0 || result.receive.code !== 0)
      throw new Error(JSON.stringify(result));
  };
  await start("letters", "--portable");
  await look(a);
  await go(a, b, "unicorn", ["--live"]);
  await look(b);
  await go(b, a, "kvm");
  await look(a);
  await start("native");
  const receiveArgs = ["--engine", "unicorn"];
  const { send, receive } = await trip({ from: a, to: b, name: "native", receiveArgs });
  const refusal = send.code === 1 ? receive.err.trimEnd() : "it went";
  return { said: said.join(""), engines, refusal };
}

const JOBS: Record<string, () => Promise<object>> = { begin, end, journey };

if (import.meta.main) console.log(JSON.stringify(await JOBS[process.argv[2]]()));
