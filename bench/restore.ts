/**
 * From the command to the first new byte of the guest's console, wall time: a Linux guest of 512 MiB
 * that prints all the time, restored from a file that is in the page cache. Beside it QEMU's TCG with
 * the same kernel, memory and script, -incoming from a file, in turns.
 *
 * - restore_ms_p50, restore_ms_p99: `vctl restore -c`, of a file that this vmd has restored before, with a
 *   process that waits with it.
 * - restore_first_ms: the first time, by a vmd that has written the file.
 * - restore_over_qemu_loadvm: of each pair.
 * - restore_resident_mib_100ms: memory of the VM's process 100 ms after that byte.
 * - restore_guest_mib_100ms: of that the guest's own; most of it is the file's, which others share.
 *
 * By the library, in a process that is started for it: as it is (lazy) and with `prefetch`, in turns, from
 * the page cache (warm) and with a file that was dropped from it before (cold); what a file brings with it
 * is up to the disk's read-ahead.
 *
 * - restore_warm_lazy_ms_p50, restore_warm_prefetch_ms_p50, restore_warm_prefetch_over_lazy
 * - restore_cold_lazy_ms_p50, restore_cold_prefetch_ms_p50, restore_cold_prefetch_over_lazy
 * - restore_prefetch_guest_mib_100ms: as restore_guest_mib_100ms, warm.
 * - restore_cold_lazy_reads, restore_cold_prefetch_reads: how often the guest's thread waited for the
 *   disk until then: its major faults.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deviceGuest } from "../golden/guests/devices.ts";
import { linuxAmd64 } from "../golden/guests/index.ts";
import { root } from "../golden/guests/guest.ts";
import { Vm } from "../src/vmd/vm.ts";
import { probe } from "../src/vmm/engine.ts";
import { type Benchmark, type Measurement, pairs, percentile, type Row, row } from "./lib.ts";
import { guestResident } from "./private.ts";
import { qemuMissing } from "./qemu.ts";
import { QemuIncoming } from "./qemu-incoming.ts";
import { Watched } from "./watched.ts";

const MEMORY = "512M";
const MS = 1e6;
/** For a process to get ready before it is wanted, ms. */
const READY = 2500;
const MIB = 2 ** 20;
/** What the guest prints again and again: never the same twice. */
const SCRIPT = `i=0; while true; do i=$((i+1)); echo "tick $i"; usleep 2000; done`;

/** Of /proc/TID/stat, counted from its state on. */
const MAJOR_FAULTS = 9;

interface Restored {
  /** From the command to the first byte, ns. */
  readonly time: number;
  /** What the VM's process has 100 ms later, bytes. */
  readonly resident: number;
  /** ... of that the guest's memory. */
  readonly guest: number;
  /** How often its vCPU's thread waited for a file until then. */
  readonly reads: number;
}

class Side implements AsyncDisposable {
  readonly folder = mkdtempSync(join(tmpdir(), "bench-restore-"));
  readonly socket = join(this.folder, "vmd.sock");
  readonly snapshot = join(this.folder, "linux.snap");
  readonly #env = { ...process.env, VMD_SOCKET: this.socket };
  readonly #vmd: Watched;
  #number = 0;

  constructor() {
    const command = `exec bun src/vmd/index.ts -d -f /dev/null --socket ${this.socket} 2>&1`;
    this.#vmd = new Watched(["sh", "-c", command]);
  }

  vctl(...args: string[]): string {
    const { exitCode, stdout, stderr } = Bun.spawnSync(["bun", "src/vctl/index.ts", ...args], {
      cwd: root,
      env: this.#env,
    });
    if (exitCode !== 0) throw new Error(`vctl ${args[0]}: ${stderr.toString().trim()}`);
    return stdout.toString();
  }

  /** Has the guest run, and its snapshot written. @returns what it booted from */
  async prepare() {
    await this.#vmd.until("listening");
    const guest = await deviceGuest({ name: "ticking", modules: [], script: SCRIPT });
    const { kernel, initrd, cmdline } = guest;
    this.vctl(
      ...["start", "--engine", "unicorn", "-b", kernel, "-i", initrd, "-a", cmdline],
      ...["-m", MEMORY, "ticking"],
    );
    await Bun.sleep(6000);
    this.vctl("snapshot", "ticking", this.snapshot);
    this.vctl("stop", "-fw", "ticking");
    return guest;
  }

  /** Takes the snapshot out of the page cache, which nobody may have mapped. */
  drop(): void {
    for (const command of [
      ["sync", this.snapshot],
      ["dd", `if=${this.snapshot}`, "iflag=nocache", "count=0"],
    ]) {
      const { exitCode, stderr } = Bun.spawnSync(command);
      if (exitCode !== 0) throw new Error(`${command[0]}: ${stderr.toString().trim()}`);
    }
  }

  /** Restores it by vctl, and stops it again. */
  async restore(): Promise<Restored> {
    const name = `copy${++this.#number}`;
    const from = Bun.nanoseconds();
    const child = Bun.spawn(["bun", "src/vctl/index.ts", "restore", "-c", this.snapshot, name], {
      cwd: root,
      env: this.#env,
      stdio: ["ignore", "pipe", "ignore"],
    });
    const reader = child.stdout.getReader();
    await reader.read();
    const time = Bun.nanoseconds() - from;
    await Bun.sleep(100);
    const [vm] = (
      JSON.parse(this.vctl("status", "--json")) as { pid: number; name: string; uptime: number }[]
    ).filter((one) => one.name === name);
    const restored = { time, ...this.#look(vm.pid) };
    this.vctl("stop", "-fw", name);
    await child.exited;
    return restored;
  }

  /** By the library. */
  async restoreHere(prefetch: boolean): Promise<Restored> {
    const from = Bun.nanoseconds();
    await using vm = await Vm.restore(this.snapshot, {}, { prefetch });
    const first = Promise.withResolvers<number>();
    vm.console.follow(() => first.resolve(Bun.nanoseconds()));
    const time = (await first.promise) - from;
    await Bun.sleep(100);
    return { time, ...this.#look(vm.pid) };
  }

  #look(pid: number): Omit<Restored, "time"> {
    const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
    const resident = Number(/^Rss:\s+(\d+)/m.exec(rollup)?.[1]) * 1024;
    const guest = guestResident(readFileSync(`/proc/${pid}/smaps`, "utf8"), this.snapshot);
    const thread = readFileSync(`/proc/${pid}/task/${pid}/stat`, "utf8");
    const reads = Number(thread.slice(thread.lastIndexOf(")") + 2).split(" ")[MAJOR_FAULTS]);
    return { resident, guest, reads };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#vmd[Symbol.asyncDispose]();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

const measurement: Measurement = {
  rows: [
    "restore_ms_p50",
    "restore_ms_p99",
    "restore_first_ms",
    "qemu_loadvm_ms_p50",
    "restore_over_qemu_loadvm",
    "restore_resident_mib_100ms",
    "restore_guest_mib_100ms",
  ],
  rounds: 20,
  missing() {
    const { available, why } = probe("unicorn");
    return available ? (qemuMissing() ?? linuxAmd64.missing()) : `${why}.`;
  },
  async run(rounds): Promise<Row[]> {
    await using side = new Side();
    const qemu = await QemuIncoming.prepare(await side.prepare(), MEMORY, side.folder);
    const first = (await side.restore()).time / MS;
    await qemu.run();
    const resident: number[] = [];
    const guest: number[] = [];
    const { a, b, ratios } = await pairs(
      rounds,
      async () => {
        await Bun.sleep(READY);
        const one = await side.restore();
        resident.push(one.resident / MIB);
        guest.push(one.guest / MIB);
        return one.time / MS;
      },
      async () => (await qemu.run()) / MS,
    );
    const tail = percentile(a, 0.99);
    return [
      row("restore_ms_p50", "ms", a),
      { ...row("restore_ms_p99", "ms", a), median: tail },
      row("restore_first_ms", "ms", [first]),
      row("qemu_loadvm_ms_p50", "ms", b),
      row("restore_over_qemu_loadvm", "ratio", ratios),
      row("restore_resident_mib_100ms", "MiB", resident),
      row("restore_guest_mib_100ms", "MiB", guest),
    ];
  },
};

const TEMPERATURES = ["warm", "cold"] as const;

const prefetching: Measurement = {
  rows: [
    ...TEMPERATURES.flatMap((what) => [
      `restore_${what}_lazy_ms_p50`,
      `restore_${what}_prefetch_ms_p50`,
      `restore_${what}_prefetch_over_lazy`,
    ]),
    "restore_prefetch_guest_mib_100ms",
    "restore_cold_lazy_reads",
    "restore_cold_prefetch_reads",
  ],
  rounds: 20,
  missing() {
    const { available, why } = probe("unicorn");
    return available ? linuxAmd64.missing() : `${why}.`;
  },
  async run(rounds): Promise<Row[]> {
    await using side = new Side();
    await side.prepare();
    await side.restoreHere(false);
    const rows: Row[] = [];
    const seen: Record<string, Restored[]> = {};
    const take = async (what: (typeof TEMPERATURES)[number], prefetch: boolean) => {
      if (what === "cold") side.drop();
      const one = await side.restoreHere(prefetch);
      (seen[`${what}_${prefetch ? "prefetch" : "lazy"}`] ??= []).push(one);
      return one.time / MS;
    };
    for (const what of TEMPERATURES) {
      const { a, b, ratios } = await pairs(
        rounds,
        () => take(what, true),
        () => take(what, false),
      );
      rows.push(
        row(`restore_${what}_lazy_ms_p50`, "ms", b),
        row(`restore_${what}_prefetch_ms_p50`, "ms", a),
        row(`restore_${what}_prefetch_over_lazy`, "ratio", ratios),
      );
    }
    const guest = seen.warm_prefetch.map((one) => one.guest / MIB);
    const reads = (name: string) => seen[name].map((one) => one.reads);
    return [
      ...rows,
      row("restore_prefetch_guest_mib_100ms", "MiB", guest),
      row("restore_cold_lazy_reads", "faults", reads("cold_lazy")),
      row("restore_cold_prefetch_reads", "faults", reads("cold_prefetch")),
    ];
  },
};

export const restore: Benchmark = {
  name: "restore",
  about: "from vctl restore to the guest's first new byte, beside QEMU's -incoming",
  measurements: [measurement, prefetching],
};
