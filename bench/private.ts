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
  /** A Bun process that does nothing. */
  bun: number;
  /** On top of it: the modules that a VM's main thread loads. */
  main: number;
  /** On top of that: a second thread, doing nothing. */
  worker: number;
  /** The rest: the vCPU thread's modules and heap, the machine, the engine. */
  vcpu: number;
}

/**
 * Private pages of a process, clean and dirty, in bytes; without the machine image, the one
 * mapping that is as large as the guest's memory and not much larger.
 * @param guest bytes of guest memory, 0 for a process that has no guest.
 */
export function privateBytes(smaps: string, guest: number): number {
  let sum = 0;
  let counts = true;
  for (const line of smaps.split("\n")) {
    const mapping = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (mapping !== null) {
      const size = Number.parseInt(mapping[2], 16) - Number.parseInt(mapping[1], 16);
      counts = size < guest || size >= 1.5 * guest;
      continue;
    }
    const pages = /^Private_(?:Clean|Dirty):\s+(\d+) kB$/.exec(line);
    if (pages !== null && counts) sum += Number(pages[1]) * 1024;
  }
  return sum;
}

/** MiB that a command's process takes, some time after it has printed a text. */
async function settled(
  command: readonly string[],
  { text = "ready", rest = 1, guest = 0 } = {},
): Promise<number> {
  await using process = new Watched(command);
  await process.until(text);
  await Bun.sleep(rest * 1000);
  return privateBytes(readFileSync(`/proc/${process.pid}/smaps`, "utf8"), guest) / MIB;
}

const script = (code: string) => ["bun", "-e", `${code}; ${IDLE}`];

/** Boots Linux to its shell, and lets it rest. */
export async function measureFootprint(engine: EngineName): Promise<Footprint> {
  const kernel = await linuxAmd64.kernel();
  const initrd = await initramfsFile("shell-amd64", { init: shell });
  const modules = 'await import("./src/vctl/commands/start.ts"); await import("./src/vmd/vm.ts")';
  const thread = 'new Worker("data:text/javascript,self.onmessage=()=>{}")';
  const bun = await settled(script(""));
  const main = await settled(script(modules));
  const worker = await settled(script(`${modules}; ${thread}`));
  const vm = [...VCTL, "start", "-c", "--engine", engine, "-m", `${GUEST}M`];
  const guest = ["-b", kernel, "-i", initrd, "-a", "console=ttyS0 quiet noxsave", "bench"];
  const total = await settled([...vm, ...guest], {
    text: "userspace:",
    rest: REST,
    guest: GUEST * MIB,
  });
  return { total, bun, main: main - bun, worker: worker - main, vcpu: total - worker };
}
