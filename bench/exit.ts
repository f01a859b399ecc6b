/**
 * What an exit costs: the guest of loop.ts, its accesses answered by the classic machine's devices
 * through the vCPU loop.
 *
 * - kvm_ts_over_c: on the KVM engine, against the same loop in C on the same vCPU;
 *   one runs the guest's loop, then the other.
 * - unicorn_out_over_qemu_tcg: against QEMU's TCG with the same kernel file and its own serial port
 *   behind the same port. QEMU's time is that of its process less the one of a process whose guest
 *   makes one access.
 *
 * All times are CPU times, the guest's own instructions included: exits of a guest that does
 * nothing else take that time on a quiet host, and on a busy one the figure stays.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { probe } from "../src/vmm/engine.ts";
import { cLoopMissing } from "./c-loop.ts";
import { type Benchmark, type Measurement, pairs, type Row, row } from "./lib.ts";
import { loopKernel } from "./loop.ts";
import { LoopThread } from "./loop-thread.ts";
import { BARE, QEMU, qemuMissing } from "./qemu.ts";

/** Accesses in one round; a tenth of a second to one second each. */
const KVM_COUNT = 20_000;
const UNICORN_COUNT = 1_000_000;
const QEMU_COUNT = 10_000_000;

const engineMissing = (name: "kvm" | "unicorn") => () => {
  const { available, why } = probe(name);
  return available ? undefined : `${why}.`;
};

const kvm: Measurement = {
  rows: ["kvm_ts_over_c", "kvm_ts_out_us"],
  rounds: 25,
  missing: () => engineMissing("kvm")() ?? cLoopMissing(),
  async run(rounds) {
    const options = { engine: "kvm", access: "out", count: KVM_COUNT } as const;
    using loop = await LoopThread.open(options, true);
    const { a, ratios } = await pairs(
      rounds,
      () => loop.run(),
      () => loop.runInC(),
    );
    return [
      row("kvm_ts_over_c", "ratio", ratios),
      row(
        "kvm_ts_out_us",
        "us",
        a.map((ns) => ns / 1000),
      ),
    ];
  },
};

/** The loop on the Unicorn engine; in C, it tells how much of it is the engine. */
function unicorn(name: string, access: "out" | "mmio", c = false): Measurement {
  return {
    rows: [name],
    rounds: 9,
    missing: () => engineMissing("unicorn")() ?? (c ? cLoopMissing() : undefined),
    async run(rounds) {
      using loop = await LoopThread.open({ engine: "unicorn", access, count: UNICORN_COUNT }, c);
      const values: number[] = [];
      while (values.length < rounds) values.push(await (c ? loop.runInC() : loop.run()));
      return [row(name, "ns", values)];
    },
  };
}

const qemu: Measurement = {
  rows: ["unicorn_out_over_qemu_tcg", "qemu_tcg_out_ns"],
  rounds: 7,
  missing: () => engineMissing("unicorn")() ?? qemuMissing(),
  async run(rounds): Promise<Row[]> {
    const folder = mkdtempSync(join(tmpdir(), "vmd-bench-"));
    try {
      const kernels = [1, QEMU_COUNT].map((count) => {
        const path = join(folder, `loop-${count}`);
        writeFileSync(path, loopKernel("out", count));
        return path;
      });
      const options = { engine: "unicorn", access: "out", count: UNICORN_COUNT } as const;
      using loop = await LoopThread.open(options);
      const { b, ratios } = await pairs(
        rounds,
        () => loop.run(),
        async () => {
          const start = await qemuTime(kernels[0]);
          return ((await qemuTime(kernels[1])) - start) / QEMU_COUNT;
        },
      );
      return [row("unicorn_out_over_qemu_tcg", "ratio", ratios), row("qemu_tcg_out_ns", "ns", b)];
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
};

const OPTIONS =
  "-accel tcg -M pc -m 16M -serial null -device isa-debug-exit,iobase=0xf4,iosize=0x04";

/** A process's CPU time until its guest has ended, ns. */
async function qemuTime(kernel: string): Promise<number> {
  const process = Bun.spawn([QEMU, ...OPTIONS.split(" "), ...BARE, "-kernel", kernel], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  if ((await process.exited) % 2 !== 1) throw new Error(`${QEMU} did not run the loop`);
  return Number(process.resourceUsage()?.cpuTime.total ?? 0) * 1000;
}

export const exit: Benchmark = {
  name: "exit",
  about: "what an exit to a device costs, beside C and QEMU's TCG",
  measurements: [
    kvm,
    unicorn("unicorn_out_ns", "out"),
    unicorn("unicorn_c_out_ns", "out", true),
    qemu,
    unicorn("unicorn_mmio_ns", "mmio"),
  ],
};
