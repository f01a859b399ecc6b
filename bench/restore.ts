/**
 * From the command to the first new byte of the guest's console, wall time: a Linux guest of 512 MiB
 * that prints all the time, restored from a file that is in the page cache. Beside it QEMU's TCG with
 * the same kernel, memory and script, -incoming from a file, in turns.
 *
 * - restore_ms_p50, restore_ms_p99: `vctl restore -c`, with a vmd that has written the file.
 * - restore_over_qemu_loadvm: of each pair.
 * - restore_resident_mib_100ms: memory of the VM's process 100 ms after that byte.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deviceGuest } from "../golden/guests/devices.ts";
import { linuxAmd64 } from "../golden/guests/index.ts";
import { root } from "../golden/guests/guest.ts";
import { probe } from "../src/vmm/engine.ts";
import { type Benchmark, type Measurement, pairs, percentile, type Row, row } from "./lib.ts";
import { qemuMissing } from "./qemu.ts";
import { QemuIncoming } from "./qemu-incoming.ts";
import { Watched } from "./watched.ts";

const MEMORY = "512M";
const MS = 1e6;
const MIB = 2 ** 20;
/** What the guest prints again and again: never the same twice. */
const SCRIPT = `i=0; while true; do i=$((i+1)); echo "tick $i"; usleep 2000; done`;

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

  /** Has both sides write what they restore from. */
  async prepare(): Promise<QemuIncoming> {
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
    return await QemuIncoming.prepare(guest, MEMORY, this.folder);
  }

  /** @returns ns from the command to the first byte, and what the process has 100 ms later */
  async restore(): Promise<{ time: number; resident: number }> {
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
    const rollup = readFileSync(`/proc/${vm.pid}/smaps_rollup`, "utf8");
    const resident = Number(/^Rss:\s+(\d+)/m.exec(rollup)?.[1]) * 1024;
    this.vctl("stop", "-fw", name);
    await child.exited;
    return { time, resident };
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
    "qemu_loadvm_ms_p50",
    "restore_over_qemu_loadvm",
    "restore_resident_mib_100ms",
  ],
  rounds: 20,
  missing() {
    const { available, why } = probe("unicorn");
    return available ? (qemuMissing() ?? linuxAmd64.missing()) : `${why}.`;
  },
  async run(rounds): Promise<Row[]> {
    await using side = new Side();
    const qemu = await side.prepare();
    await side.restore();
    await qemu.run();
    const resident: number[] = [];
    const { a, b, ratios } = await pairs(
      rounds,
      async () => {
        const one = await side.restore();
        resident.push(one.resident / MIB);
        return one.time / MS;
      },
      async () => (await qemu.run()) / MS,
    );
    const tail = percentile(a, 0.99);
    return [
      row("restore_ms_p50", "ms", a),
      { ...row("restore_ms_p99", "ms", a), median: tail },
      row("qemu_loadvm_ms_p50", "ms", b),
      row("restore_over_qemu_loadvm", "ratio", ratios),
      row("restore_resident_mib_100ms", "MiB", resident),
    ];
  },
};

export const restore: Benchmark = {
  name: "restore",
  about: "from vctl restore to the guest's first new byte, beside QEMU's -incoming",
  measurements: [measurement],
};
