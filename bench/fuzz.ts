/**
 * A parser (fuzz/harness/tlv.c) under our fuzzer, AFL++ and libFuzzer, in turns, each on one processor,
 * for a minute, with the same seeds and inputs of at most 64 bytes. Ours runs it in a machine that goes
 * back to its snapshot before each input; the others run it in a process whose state nobody resets.
 *
 * - unicorn_execs_per_s: inputs run, by wall time; afl_execs_per_s, libfuzzer_execs_per_s likewise.
 * - over_aflpp_persistent, over_libfuzzer: of each pair.
 * - found_s, afl_found_s, libfuzzer_found_s: until the planted bug; a minute when it was not found.
 * - reset_us_p50_16_pages: a reset alone, 16 pages copied back.
 * - reset_fidelity: of 10,000 resets, how many left all memory, CPU and chips as they were.
 * - reset_over_qemu_loadvm: beside `loadvm` of QEMU's monitor, the same program in 16 MiB.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GuestExecutor } from "../fuzz/guest/index.ts";
import { buildBare, buildMissing, TLV_SOURCES } from "../fuzz/harness/build.ts";
import { probe } from "../src/vmm/engine.ts";
import { root } from "../src/vmm/root.ts";
import { type Benchmark, type Measurement, median, type Row, row } from "./lib.ts";
import { BARE, QEMU, qemuMissing } from "./qemu.ts";

const SECONDS = Number(process.env.VMD_BENCH_SECONDS ?? 60);
const INPUT_MAX = 64;
/** Records that mean nothing to the bug. */
const SEEDS = [
  [0x01, 0x04, 0x61, 0x62, 0x63, 0x64, 0x22, 0x02, 0x78, 0x79],
  [0x11, 0x04, 0x30, 0x30, 0x30, 0x30, 0x05, 0x01, 0x00],
];
const MEMORY = 16 * 2 ** 20;
const RESETS = 10_000;
const CLANG = ["clang-14", "clang"].find((name) => Bun.which(name) !== null);

/** What one fuzzer did in its turn. */
interface Turn {
  readonly rate: number;
  readonly found: number;
}

const now = () => String(Date.now() / 1000);

class Contenders implements Disposable {
  readonly #folder = mkdtempSync(join(tmpdir(), "bench-fuzz-"));
  readonly #seeds = join(this.#folder, "seeds");
  readonly #guest: string;
  #turn = 0;

  constructor() {
    mkdirSync(this.#seeds);
    SEEDS.forEach((seed, index) =>
      writeFileSync(join(this.#seeds, `${index}`), Uint8Array.from(seed)),
    );
    this.#guest = buildBare(TLV_SOURCES, join(this.#folder, "tlv.elf"));
    const sources = [join(root, "bench/native/tlv-native.c"), join(root, "fuzz/harness/tlv.c")];
    const flags = ["-O2", "-g", `-I${join(root, "fuzz/harness")}`];
    this.#run(["afl-clang-fast", "-DAFL", ...flags, "-o", this.#path("afl"), ...sources]);
    this.#run([
      CLANG as string,
      "-fsanitize=fuzzer",
      ...flags,
      "-o",
      this.#path("libfuzzer"),
      ...sources,
    ]);
  }

  #path(name: string): string {
    return join(this.#folder, name);
  }

  /** Standard output and error of a command that has to succeed, on one processor. */
  #run(command: readonly string[], env: Record<string, string> = {}): string {
    const pinned = ["taskset", "-c", "1", ...command];
    const { exitCode, stdout, stderr } = Bun.spawnSync(pinned, {
      cwd: this.#folder,
      env: { ...process.env, ...env },
    });
    const output = `${stdout.toString()}${stderr.toString()}`;
    if (exitCode === 0) return output;
    throw new Error(`${command[0]} ended with ${exitCode}:\n${output.slice(-1000)}`);
  }

  #next(name: string): { folder: string; found: string; env: Record<string, string> } {
    const folder = this.#path(`${name}${++this.#turn}`);
    const found = `${folder}.found`;
    return { folder, found, env: { TLV_FOUND: found, TLV_BEGAN: now() } };
  }

  #foundAt(file: string): number {
    return existsSync(file) ? Math.min(SECONDS, Number(readFileSync(file, "utf8"))) : SECONDS;
  }

  async ours(): Promise<Turn> {
    const { folder } = this.#next("ours");
    const vctl = join(root, "src/vctl/index.ts");
    const child = Bun.spawn(
      [
        ...["taskset", "-c", "1", process.execPath, vctl, "fuzz", "-m", "4M", "--corpus", folder],
        ...["--seeds", this.#seeds, "--seed", `${this.#turn}`, "-j", "1", "--time", `${SECONDS}`],
        ...["--json", "--verify", "10000", this.#guest],
      ],
      { stdout: "pipe", stderr: "ignore" },
    );
    let found = SECONDS;
    let last = { meanRunsPerSecond: 0, seconds: 0, crashes: 0 };
    for (const line of (await new Response(child.stdout).text()).trim().split("\n")) {
      last = JSON.parse(line);
      if (last.crashes > 0) found = Math.min(found, last.seconds);
    }
    await child.exited;
    return { rate: last.meanRunsPerSecond, found };
  }

  afl(): Turn {
    const { folder, found, env } = this.#next("afl");
    this.#run(
      [
        ...["afl-fuzz", "-i", this.#seeds, "-o", folder, "-V", `${SECONDS}`, "-G", `${INPUT_MAX}`],
        ...["--", this.#path("afl")],
      ],
      {
        ...env,
        ...{ AFL_NO_UI: "1", AFL_SKIP_CPUFREQ: "1", AFL_NO_AFFINITY: "1" },
        AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES: "1",
      },
    );
    const stats = readFileSync(join(folder, "default/fuzzer_stats"), "utf8");
    const value = (name: string) =>
      Number(new RegExp(`^${name}\\s*: (\\S+)`, "m").exec(stats)?.[1]);
    return { rate: value("execs_done") / value("run_time"), found: this.#foundAt(found) };
  }

  libfuzzer(): Turn {
    const { folder, found, env } = this.#next("libfuzzer");
    mkdirSync(folder);
    const output = this.#run(
      [
        ...[this.#path("libfuzzer"), `-max_total_time=${SECONDS}`, `-max_len=${INPUT_MAX}`],
        ...["-print_final_stats=1", "-verbosity=0", folder, this.#seeds],
      ],
      env,
    );
    const runs = Number(/stat::number_of_executed_units:\s+(\d+)/.exec(output)?.[1]);
    return { rate: runs / SECONDS, found: this.#foundAt(found) };
  }

  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

function software(): string | undefined {
  const { available, why } = probe("unicorn");
  return available ? buildMissing() : `${why}.`;
}

const peers: Measurement = {
  rows: [
    ...["unicorn_execs_per_s", "afl_execs_per_s", "libfuzzer_execs_per_s"],
    ...["over_aflpp_persistent", "over_libfuzzer", "found_s", "afl_found_s", "libfuzzer_found_s"],
  ],
  rounds: 5,
  missing() {
    if (Bun.which("afl-clang-fast") === null) return "there is no AFL++ (Debian package afl++).";
    if (CLANG === undefined)
      return "there is no clang (Debian packages clang-14, libclang-rt-14-dev).";
    return software();
  },
  async run(rounds): Promise<Row[]> {
    using contenders = new Contenders();
    const ours: Turn[] = [];
    const afl: Turn[] = [];
    const libfuzzer: Turn[] = [];
    for (let round = 0; round < rounds; round++) {
      ours.push(await contenders.ours());
      afl.push(contenders.afl());
      libfuzzer.push(contenders.libfuzzer());
    }
    const rates = (turns: readonly Turn[]) => turns.map(({ rate }) => rate);
    const found = (turns: readonly Turn[]) => turns.map((turn) => turn.found);
    const over = (turns: readonly Turn[]) =>
      ours.map(({ rate }, round) => rate / turns[round].rate);
    return [
      row("unicorn_execs_per_s", "1/s", rates(ours)),
      row("afl_execs_per_s", "1/s", rates(afl)),
      row("libfuzzer_execs_per_s", "1/s", rates(libfuzzer)),
      row("over_aflpp_persistent", "ratio", over(afl)),
      row("over_libfuzzer", "ratio", over(libfuzzer)),
      row("found_s", "s", found(ours)),
      row("afl_found_s", "s", found(afl)),
      row("libfuzzer_found_s", "s", found(libfuzzer)),
    ];
  },
};

const resets: Measurement = {
  rows: ["reset_us_p50_16_pages", "reset_fidelity"],
  rounds: 5,
  missing: software,
  async run(rounds): Promise<Row[]> {
    const folder = mkdtempSync(join(tmpdir(), "bench-fuzz-"));
    try {
      const file = buildBare([join(root, "bench/guest/dirty16.c")], join(folder, "dirty16.elf"));
      const times: number[] = [];
      const equal: number[] = [];
      for (let round = 0; round < rounds; round++) {
        times.push(resetTime(file));
        equal.push(fidelity(file, Math.ceil(RESETS / rounds)));
      }
      return [row("reset_us_p50_16_pages", "us", times), row("reset_fidelity", "ratio", equal)];
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};

/** Median of the time of a reset, us. */
function resetTime(file: string): number {
  const executor = new GuestExecutor({ file, memory: MEMORY, verify: 0 });
  const { point } = executor.machine;
  const input = new Uint8Array(8);
  const times: number[] = [];
  for (let i = 0; i < RESETS; i++) {
    // It goes back to the point first, which is none of what is measured.
    executor.run(input, 8);
    const from = Bun.nanoseconds();
    const pages = point.reset();
    times.push((Bun.nanoseconds() - from) / 1000);
    if (pages !== 16) throw new Error(`a run wrote ${pages} pages, not 16`);
  }
  executor.close();
  return median(times.slice(RESETS / 10));
}

function fidelity(file: string, count: number): number {
  const executor = new GuestExecutor({ file, memory: 4 * 2 ** 20, verify: 1 });
  const input = new Uint8Array(8);
  for (let i = 0; i < count; i++) {
    input[0] = i;
    executor.run(input, 1 + (i % 8));
  }
  const { checked, equal } = executor.fidelity;
  executor.close();
  return equal / checked;
}

const qemu: Measurement = {
  rows: ["qemu_loadvm_us", "reset_over_qemu_loadvm"],
  rounds: 5,
  missing: () => software() ?? qemuMissing(),
  async run(rounds): Promise<Row[]> {
    const folder = mkdtempSync(join(tmpdir(), "bench-fuzz-"));
    try {
      const file = buildBare([join(root, "bench/guest/dirty16.c")], join(folder, "dirty16.elf"));
      const loads: number[] = [];
      const ratios: number[] = [];
      for (let round = 0; round < rounds; round++) {
        const ours = resetTime(file);
        const load = await loadvm(folder, file);
        loads.push(load);
        ratios.push(ours / load);
      }
      return [row("qemu_loadvm_us", "us", loads), row("reset_over_qemu_loadvm", "ratio", ratios)];
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};

const LOADS = 50;

/** Mean time of `loadvm`, us, by QEMU's monitor. */
async function loadvm(folder: string, file: string): Promise<number> {
  const image = join(folder, "state.qcow2");
  // QEMU's Multiboot takes no 64-bit ELF file; it is the same program.
  const kernel = join(folder, "kernel32.elf");
  Bun.spawnSync(["objcopy", "-O", "elf32-i386", file, kernel]);
  Bun.spawnSync(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"]);
  const child = Bun.spawn(
    [
      ...[QEMU, "-accel", "tcg", "-M", "pc", "-m", "16", ...BARE, "-kernel", kernel],
      ...["-drive", `file=${image},if=ide,format=qcow2`, "-monitor", "stdio", "-serial", "none"],
    ],
    { stdin: "pipe", stdout: "pipe", stderr: "ignore" },
  );
  const reader = child.stdout.getReader();
  let heard = "";
  const prompts = async (count: number) => {
    for (let seen = 0; ;) {
      seen = heard.split("(qemu)").length - 1;
      if (seen >= count) return;
      const { value, done } = await reader.read();
      if (done) throw new Error(`QEMU ended:\n${heard.slice(-500)}`);
      heard += new TextDecoder().decode(value);
    }
  };
  try {
    await prompts(1);
    await Bun.sleep(300);
    child.stdin.write("stop\nsavevm point\n");
    await child.stdin.flush();
    await prompts(3);
    const from = Bun.nanoseconds();
    child.stdin.write("loadvm point\n".repeat(LOADS));
    await child.stdin.flush();
    await prompts(3 + LOADS);
    return (Bun.nanoseconds() - from) / 1000 / LOADS;
  } finally {
    child.kill("SIGKILL");
    await child.exited;
  }
}

export const fuzzBench: Benchmark = {
  name: "fuzz",
  about: "inputs a second, and what a reset costs, beside AFL++, libFuzzer and QEMU's loadvm",
  measurements: [peers, resets, qemu],
};
