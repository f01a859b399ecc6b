/**
 * Copies of a Linux guest of 512 MiB: how soon they run, and what each costs.
 *
 * - fork_ms_p50, fork_ms_p99: from the request on vmd's socket to the answer that the copy is about to
 *   run its first instruction; the guest prints all the time, the second copy and those after it, a
 *   process waiting for each.
 * - fork_still_ms_p50: how long the guest stood still for it.
 * - fork_command_ms_p50: the same by `vctl fork`, from the command to its end.
 * - fork_first_ms: the first copy, for which all of the guest's memory is written.
 * - qemu_incoming_ms_p50: QEMU has no copies: beside each, in turns, -incoming of a file that it wrote
 *   of the same guest, from the command to the first new byte on the console.
 * - clone_private_mib: memory that an idle copy alone has, guest's memory and process: median of all
 *   that run at once.
 * - clones_private_mib: their sum, of 100 (VMD_BENCH_CLONES).
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deviceGuest } from "../golden/guests/devices.ts";
import { linuxAmd64 } from "../golden/guests/index.ts";
import { root } from "../golden/guests/guest.ts";
import { Client } from "../src/vctl/client.ts";
import { newId } from "../src/vmd/snapshot/restored.ts";
import { probe } from "../src/vmm/engine.ts";
import { type Benchmark, type Measurement, percentile, type Row, row } from "./lib.ts";
import { privatePages } from "./private.ts";
import { qemuMissing } from "./qemu.ts";
import { QemuIncoming } from "./qemu-incoming.ts";
import { Watched } from "./watched.ts";

const MEMORY = 512;
const MIB = 2 ** 20;
const MS = 1e6;
/** For a process to get ready before it is wanted, ms. */
const PREPARED = 2500;
/** What idle copies do first is over then, ms. */
const REST = 5000;
/** Names of a request at most, so that vmd answers others now and then. */
const AT_ONCE = 10;
const CLONES = Number(process.env.VMD_BENCH_CLONES ?? 100);
const BUSY = `i=0; while true; do i=$((i+1)); echo "tick $i"; usleep 2000; done`;
const IDLE = `echo "rests"; sleep 1000000`;

interface Forked {
  paused: number;
  copies: { vm: number; name: string; ms: number }[];
  failure: string | null;
}

/** A daemon with one guest. */
class Side implements AsyncDisposable {
  readonly folder = mkdtempSync(join(tmpdir(), "bench-fork-"));
  readonly #socket = join(this.folder, "vmd.sock");
  readonly #vmd: Watched;
  #client!: Client;

  constructor() {
    const command = `exec bun src/vmd/index.ts -d -f /dev/null --socket ${this.#socket} 2>&1`;
    this.#vmd = new Watched(["sh", "-c", command]);
  }

  async start(script: string) {
    await this.#vmd.until("listening");
    process.env.VMD_SOCKET = this.#socket;
    this.#client = Client.connect();
    const guest = await deviceGuest({ name: "forked", modules: [], script });
    const { kernel, initrd, cmdline } = guest;
    const memory = MEMORY * MIB;
    const request = "start" as const;
    this.#client.call({
      request,
      vm: "origin",
      kernel,
      initrd,
      cmdline,
      memory,
      engine: "unicorn",
    });
    await Bun.sleep(6000);
    return guest;
  }

  fork(names: readonly string[]): Forked {
    const answer = this.#client.call({
      request: "fork",
      vm: "origin",
      names: [...names],
      snapshot: newId(),
    }) as Forked;
    if (answer.failure !== null) throw new Error(`fork: ${answer.failure}`);
    return answer;
  }

  /** By vctl. @returns ns */
  command(name: string): number {
    const from = Bun.nanoseconds();
    const args = ["bun", "src/vctl/index.ts", "fork", "origin", name];
    const env = { ...process.env, VMD_SOCKET: this.#socket };
    const { exitCode, stderr } = Bun.spawnSync(args, { cwd: root, env });
    if (exitCode !== 0) throw new Error(`vctl fork: ${stderr.toString().trim()}`);
    return Bun.nanoseconds() - from;
  }

  stop(name: string): void {
    this.#client.call({ request: "stop", vm: name, force: true, wait: true });
  }

  pids(): number[] {
    const { vms } = this.#client.call({ request: "status" });
    const copies = (vms as { name: string; pid: number }[]).filter(({ name }) => name !== "origin");
    return copies.map(({ pid }) => pid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#client.call({ request: "stop", force: true, wait: true });
    this.#client[Symbol.dispose]();
    await this.#vmd[Symbol.asyncDispose]();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function missing(): string | undefined {
  const { available, why } = probe("unicorn");
  return available ? (qemuMissing() ?? linuxAmd64.missing()) : `${why}.`;
}

const time: Measurement = {
  rows: [
    ...["fork_ms_p50", "fork_ms_p99", "fork_still_ms_p50", "fork_command_ms_p50"],
    ...["fork_first_ms", "qemu_incoming_ms_p50", "fork_over_qemu_incoming"],
  ],
  rounds: 20,
  missing,
  async run(rounds): Promise<Row[]> {
    await using side = new Side();
    const guest = await side.start(BUSY);
    const qemu = await QemuIncoming.prepare(guest, `${MEMORY}M`, side.folder);
    const took: Record<"first" | "fork" | "still" | "command" | "qemu", number[]> = {
      ...{ first: [], fork: [], still: [], command: [], qemu: [] },
    };
    for (let round = 0; round <= rounds; round++) {
      const from = Bun.nanoseconds();
      const { paused } = side.fork(["copy"]);
      const one = (Bun.nanoseconds() - from) / MS;
      side.stop("copy");
      if (round === 0) {
        took.first.push(one);
      } else {
        took.fork.push(one);
        took.still.push(paused);
        took.command.push(side.command("typed") / MS);
        side.stop("typed");
        took.qemu.push((await qemu.run()) / MS);
      }
      await Bun.sleep(PREPARED);
    }
    return [
      row("fork_ms_p50", "ms", took.fork),
      { ...row("fork_ms_p99", "ms", took.fork), median: percentile(took.fork, 0.99) },
      row("fork_still_ms_p50", "ms", took.still),
      row("fork_command_ms_p50", "ms", took.command),
      row("fork_first_ms", "ms", took.first),
      row("qemu_incoming_ms_p50", "ms", took.qemu),
      row(
        "fork_over_qemu_incoming",
        "ratio",
        took.fork.map((one, round) => one / took.qemu[round]),
      ),
    ];
  },
};

const memory: Measurement = {
  rows: ["clone_private_mib", "clones_private_mib"],
  rounds: 1,
  missing,
  async run(rounds): Promise<Row[]> {
    const each: number[] = [];
    const sums: number[] = [];
    for (let round = 0; round < rounds; round++) {
      await using side = new Side();
      await side.start(IDLE);
      for (let made = 0; made < CLONES; made += AT_ONCE) {
        const count = Math.min(AT_ONCE, CLONES - made);
        side.fork(Array.from({ length: count }, (_, index) => `clone-${made + index}`));
      }
      await Bun.sleep(REST);
      const all = side.pids().map((pid) => {
        return privatePages(readFileSync(`/proc/${pid}/smaps`, "utf8"), 0).own / MIB;
      });
      if (all.length !== CLONES) throw new Error(`${all.length} of ${CLONES} copies run`);
      each.push(...all);
      sums.push(all.reduce((sum, one) => sum + one, 0));
    }
    return [row("clone_private_mib", "MiB", each), row("clones_private_mib", "MiB", sums)];
  },
};

export const fork: Benchmark = {
  name: "fork",
  about: "copies of a Linux guest: time to the first instruction, private memory of 100",
  measurements: [time, memory],
};
