/**
 * The daemon with 1, 10 and 50 VMs at rest: a guest of a few instructions that halts, on the Unicorn
 * engine, so that what is measured is vmd and not the guest.
 *
 * - start_ms_p50_N: `vctl start`, from the command to its end, the VM running; beside QEMU's
 *   -daemonize with the same firmware and memory (qemu_start_ms_p50), in turns.
 * - status_ms_N: `vctl status`, from the command to its end.
 * - parent_private_mib_N: private memory of the daemon.
 * - vm_private_mib_N: of a VM's process, beside its guest's memory: the largest of all.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../golden/guests/guest.ts";
import { probe } from "../src/vmm/engine.ts";
import { type Benchmark, type Measurement, type Row, row } from "./lib.ts";
import { privatePages } from "./private.ts";
import { BARE, QEMU, qemuMissing } from "./qemu.ts";
import { Watched } from "./watched.ts";

const COUNTS = [1, 10, 50];
const MIB = 2 ** 20;
const MEMORY = 16;
const MS = 1e6;
const STATUS_ROUNDS = 10;

interface Vm {
  pid: number;
  name: string;
}

function privateMib(pid: number, guest: number): number {
  return privatePages(readFileSync(`/proc/${pid}/smaps`, "utf8"), guest).own / MIB;
}

class Daemon {
  readonly folder = mkdtempSync(join(tmpdir(), "bench-vmd-"));
  readonly #firmware = join(this.folder, "halt.bin");
  readonly #env = { ...process.env, VMD_SOCKET: join(this.folder, "vmd.sock") };
  readonly #process: Watched;

  constructor() {
    // sti; hlt; jmp back; at its end the jump from the reset vector. QEMU takes whole 64 KiB.
    const bytes = new Uint8Array(65536).fill(0xf4);
    bytes.set([0xfb, 0xf4, 0xeb, 0xfc]);
    bytes.set([0xe9, 0x0d, 0x00], 0xfff0);
    writeFileSync(this.#firmware, bytes);
    const socket = this.#env.VMD_SOCKET;
    this.#process = new Watched([
      "sh",
      "-c",
      `exec bun src/vmd/index.ts -d -f /dev/null --socket ${socket} 2>&1`,
    ]);
  }

  async ready(): Promise<void> {
    await this.#process.until("listening");
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** Runs vctl. @returns ns. */
  vctl(...args: string[]): { time: number; out: string } {
    const from = Bun.nanoseconds();
    const { exitCode, stdout, stderr } = Bun.spawnSync(["bun", "src/vctl/index.ts", ...args], {
      cwd: root,
      env: this.#env,
    });
    const time = Bun.nanoseconds() - from;
    if (exitCode !== 0 && args[0] !== "status") {
      throw new Error(`vctl ${args[0]} failed: ${stderr.toString().trim()}`);
    }
    return { time, out: stdout.toString() };
  }

  start(name: string): number {
    const args = ["--engine", "unicorn", "-m", `${MEMORY}M`, "-b", this.#firmware, name];
    return this.vctl("start", ...args).time;
  }

  /** QEMU with the same firmware. @returns ns until it runs; it is ended then. */
  qemu(): { time: number; private: number } {
    const pidfile = join(this.folder, "qemu.pid");
    const args = ["-accel", "tcg", "-M", "pc", "-m", `${MEMORY}M`, "-bios", this.#firmware];
    const from = Bun.nanoseconds();
    const { exitCode, stderr } = Bun.spawnSync([
      ...[QEMU, ...args, ...BARE, "-daemonize", "-pidfile", pidfile],
    ]);
    const time = Bun.nanoseconds() - from;
    if (exitCode !== 0) throw new Error(`QEMU failed: ${stderr.toString().trim()}`);
    const pid = Number(readFileSync(pidfile, "utf8"));
    Bun.sleepSync(300);
    const result = { time, private: privateMib(pid, MEMORY * MIB) };
    process.kill(pid, "SIGKILL");
    return result;
  }

  get vms(): Vm[] {
    return JSON.parse(this.vctl("status", "--json").out) as Vm[];
  }

  async end(): Promise<void> {
    this.vctl("stop", "-faw");
    await this.#process[Symbol.asyncDispose]();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

const names = COUNTS.flatMap((count) =>
  ["start_ms_p50", "status_ms", "parent_private_mib", "vm_private_mib"].map(
    (name) => `${name}_${count}`,
  ),
);

const measurement: Measurement = {
  rows: [...names, "qemu_start_ms_p50", "start_over_qemu", "qemu_private_mib"],
  rounds: 1,
  missing() {
    const { available, why } = probe("unicorn");
    return available ? qemuMissing() : `${why}.`;
  },
  async run() {
    const daemon = new Daemon();
    const rows: Row[] = [];
    const qemu: { time: number; private: number }[] = [];
    const ratios: number[] = [];
    try {
      await daemon.ready();
      let running = 0;
      for (const count of COUNTS) {
        const starts: number[] = [];
        while (running < count) {
          const time = daemon.start(`vm${++running}`);
          starts.push(time / MS);
          const peer = daemon.qemu();
          qemu.push(peer);
          ratios.push(time / peer.time);
        }
        await Bun.sleep(1000);
        const status = Array.from({ length: STATUS_ROUNDS }, () => daemon.vctl("status").time / MS);
        const vms = daemon.vms.map(({ pid }) => privateMib(pid, MEMORY * MIB));
        rows.push(
          row(`start_ms_p50_${count}`, "ms", starts),
          row(`status_ms_${count}`, "ms", status),
          row(`parent_private_mib_${count}`, "MiB", [privateMib(daemon.pid, 0)]),
          row(`vm_private_mib_${count}`, "MiB", vms),
        );
      }
    } finally {
      await daemon.end();
    }
    const times = qemu.map(({ time }) => time / MS);
    return [
      ...rows,
      row("qemu_start_ms_p50", "ms", times),
      row("start_over_qemu", "ratio", ratios),
      row(
        "qemu_private_mib",
        "MiB",
        qemu.map((one) => one.private),
      ),
    ];
  },
};

export const vmd: Benchmark = {
  name: "vmd",
  about: "the daemon with 1, 10 and 50 VMs: starts, status, memory",
  measurements: [measurement],
};
