/** Memory that a process has for itself alone: what one more of it costs the host. */
import { readFileSync } from "node:fs";
import { initramfsFile, linuxAmd64, shell } from "../golden/guests/index.ts";
import type { EngineName } from "../src/vmm/engine.ts";
import { VCTL, Watched } from "./watched.ts";

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
  /** On top of it: the modules that a VM's main thread loads. */
  main: number;
  /** On top of that: a second thread, doing nothing. */
  worker: number;
  /** The rest: the vCPU thread's modules and heap, the machine, the engine. */
  vcpu: number;
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

/** What a command's process takes, MiB, some time after it has printed a text. */
async function settled(
  command: readonly string[],
  { text = "ready", rest = 1, guest = 0 } = {},
): Promise<PrivatePages> {
  await using process = new Watched(command);
  await process.until(text);
  await Bun.sleep(rest * 1000);
  const pages = privatePages(readFileSync(`/proc/${process.pid}/smaps`, "utf8"), guest);
  return { own: pages.own / MIB, cached: pages.cached / MIB };
}

const script = (code: string) => ["bun", "-e", `${code}; ${IDLE}`];

/** Boots Linux to its shell, and lets it rest. */
export async function measureFootprint(engine: EngineName): Promise<Footprint> {
  const kernel = await linuxAmd64.kernel();
  const initrd = await initramfsFile("shell-amd64", { init: shell });
  const modules = 'await import("./src/vctl/commands/start.ts"); await import("./src/vmd/vm.ts")';
  const thread = 'new Worker("data:text/javascript,self.onmessage=()=>{}")';
  const { own: bun } = await settled(script(""));
  const { own: main } = await settled(script(modules));
  const { own: worker } = await settled(script(`${modules}; ${thread}`));
  const vm = [...VCTL, "start", "-c", "--engine", engine, "-m", `${GUEST}M`];
  const guest = ["-b", kernel, "-i", initrd, "-a", "console=ttyS0 quiet noxsave", "bench"];
  const { own: total, cached } = await settled([...vm, ...guest], {
    text: "userspace:",
    rest: REST,
    guest: GUEST * MIB,
  });
  return { total, cached, bun, main: main - bun, worker: worker - main, vcpu: total - worker };
}
