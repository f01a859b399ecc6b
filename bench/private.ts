/** Memory that a process has for itself alone: what one more of it costs the host. */
import { closeSync, readFileSync } from "node:fs";
import { initramfsFile, linuxAmd64, shell } from "../golden/guests/index.ts";
import type { EngineName } from "../src/vmm/engine.ts";
import { Vm } from "../src/index.ts";
import { Channel } from "../src/vmd/channel.ts";
import { programPath } from "../src/vmm/root.ts";
import { Watched } from "./watched.ts";

const MIB = 2 ** 20;
const GUEST = 256;
/** Seconds for a guest and its process to come to rest. */
const REST = 3;
const IDLE = "console.log('ready'); setInterval(() => {}, 1e6);";

/** What one VM takes beside its guest's memory, MiB. */
export interface Footprint {
  total: number;
  /** Not in it: see PrivatePages. */
  cached: number;
  /** A Bun process that does nothing. */
  bun: number;
  /** On top of it: a VM process that waits for what to run: its modules and native code. */
  modules: number;
  /** The rest: the machine, the engine, and what running it left in the heap. */
  vm: number;
}

/** Bytes. */
export interface PrivatePages {
  /** What the process alone has, and wrote or may have. */
  own: number;
  /**
   * Unwritten pages of files that no other process has mapped now: the page cache's, which the
   * next VM shares.
   */
  cached: number;
}

/**
 * Private pages of a process, without the machine image: the one mapping that is as large as the
 * guest's memory and not much larger.
 * @param guest bytes of guest memory, 0 for a process that has no guest.
 */
export function privatePages(smaps: string, guest: number): PrivatePages {
  const pages: PrivatePages = { own: 0, cached: 0 };
  let counts = true;
  let file = false;
  for (const line of smaps.split("\n")) {
    const mapping = /^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ (\d+)/.exec(line);
    if (mapping !== null) {
      const size = Number.parseInt(mapping[2], 16) - Number.parseInt(mapping[1], 16);
      counts = size < guest || size >= 1.5 * guest;
      file = mapping[3] !== "0";
      continue;
    }
    const amount = /^Private_(Clean|Dirty):\s+(\d+) kB$/.exec(line);
    if (amount === null || !counts) continue;
    pages[file && amount[1] === "Clean" ? "cached" : "own"] += Number(amount[2]) * 1024;
  }
  return pages;
}

/**
 * What a process has of the memory of a guest that was restored from a file: of the mappings that
 * follow each other around the file's and are in no core dump (dd), which the machine image's are.
 * @returns bytes
 */
export function guestResident(smaps: string, path: string): number {
  const mappings: { from: number; to: number; file: boolean; bytes: number; hidden: boolean }[] =
    [];
  for (const line of smaps.split("\n")) {
    const mapping = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (mapping !== null) {
      const [from, to] = mapping.slice(1).map((text) => Number.parseInt(text, 16));
      mappings.push({ from, to, file: line.endsWith(path), bytes: 0, hidden: false });
      continue;
    }
    const last = mappings.at(-1);
    const amount = /^Rss:\s+(\d+) kB$/.exec(line);
    if (last !== undefined && amount !== null) last.bytes = Number(amount[1]) * 1024;
    if (last !== undefined && /^VmFlags:.* dd\b/.test(line)) last.hidden = true;
  }
  let first = mappings.findIndex(({ file }) => file);
  let last = mappings.findLastIndex(({ file }) => file);
  if (first < 0) return 0;
  const goesOn = (at: number) =>
    mappings[at]?.hidden === true && mappings[at].from === mappings[at - 1]?.to;
  while (goesOn(first) && mappings[first - 1].hidden) first--;
  while (goesOn(last + 1)) last++;
  return mappings.slice(first, last + 1).reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Private pages of a process that has come to rest, MiB. */
function privateNow(pid: number, guest = 0): PrivatePages {
  const pages = privatePages(readFileSync(`/proc/${pid}/smaps`, "utf8"), guest);
  return { own: pages.own / MIB, cached: pages.cached / MIB };
}

async function idleBun(): Promise<number> {
  await using process = new Watched(["bun", "-e", IDLE]);
  await process.until("ready");
  await Bun.sleep(1000);
  return privateNow(process.pid).own;
}

async function waitingVm(): Promise<number> {
  const [ours, theirs] = Channel.pair();
  const process = Bun.spawn(["bun", programPath("vmd/vm-process.ts")], {
    stdio: ["ignore", "ignore", "inherit", theirs],
  });
  closeSync(theirs);
  await Bun.sleep(1500);
  const { own } = privateNow(process.pid);
  closeSync(ours);
  await process.exited;
  return own;
}

/** Boots Linux to its shell, and lets it rest. */
export async function measureFootprint(engine: EngineName): Promise<Footprint> {
  const bun = await idleBun();
  const waiting = await waitingVm();
  await using vm = await Vm.start({
    name: "bench",
    engine,
    memory: `${GUEST}M`,
    kernel: await linuxAmd64.kernel(),
    initrd: await initramfsFile("shell-amd64", { init: shell }),
    cmdline: "console=ttyS0 quiet noxsave",
  });
  await vm.console.expect("userspace:", 120_000);
  await Bun.sleep(REST * 1000);
  const { own: total, cached } = privateNow(vm.pid, GUEST * MIB);
  return { total, cached, bun, modules: waiting - bun, vm: total - waiting };
}
