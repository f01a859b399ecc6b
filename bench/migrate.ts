/**
 * A VM goes to and fro between two daemons on this host, by `vctl send | vctl receive`: how long its
 * guest stands still, and how long it takes. The guest has 64 MiB in use, and writes 8 MiB of it
 * again and again, page after page, at a rate of its own clock: 0, 10 and 40 MiB/s.
 *
 * - plain_still_ms_R, live_still_ms_R: from the moment the guest stood still to the word of the other
 *   side that it is about to run; at a dirty rate of R MiB/s, plain and with --live.
 * - plain_ms_R, live_ms_R: both commands, from their start to their end.
 * - live_mib_R: what was sent.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../golden/guests/guest.ts";
import { probe } from "../src/vmm/engine.ts";
import { type Benchmark, type Measurement, type Row, row } from "./lib.ts";
import { Watched } from "./watched.ts";

const RATES = [0, 10, 40];
const USED_PAGES = 64 * 256;
const WORKING_PAGES = 8 * 256;
const MEMORY = "80M";
const MS = 1e6;
const engine = process.env.VMD_LAB === undefined ? "unicorn" : "kvm";

/** Firmware of 4 KiB at 0xfffff000 that fills memory, and then writes it at a rate, MiB/s. */
function writer(rate: number): Uint8Array {
  const u32 = (value: number) => [
    value & 255,
    (value >> 8) & 255,
    (value >> 16) & 255,
    value >>> 24,
  ];
  const interval = rate === 0 ? 0 : Math.round(1e9 / (rate * 256));
  const bytes = new Uint8Array(4096).fill(0xf4);
  const real = [
    ...[0xfa, 0x2e, 0x66, 0x0f, 0x01, 0x16, 0x98, 0xf0], // cli; lgdt cs:[0xf098]
    ...[0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0], // cr0 |= PE
    ...[0x66, 0xea, ...u32(0xfffff020), 0x08, 0x00], // jmp 8:0xfffff020
  ];
  const rest =
    rate === 0
      ? [0xeb, 0xfe] // jmp $
      : [
          ...[0x0f, 0x31, 0x89, 0xc3], // rdtsc; mov ebx, eax
          ...[0xbf, ...u32(0x100000)], // again: mov edi, 1 MiB
          ...[0xb9, ...u32(WORKING_PAGES)], // mov ecx, …
          ...[0xff, 0x07, 0x81, 0xc7, ...u32(4096)], // next: inc dword [edi]; add edi, 4096
          ...[0x81, 0xc3, ...u32(interval)], // add ebx, interval
          ...[0x0f, 0x31, 0x29, 0xd8, 0x78, 0xfa], // wait: rdtsc; sub eax, ebx; js wait
          ...[0x49, 0x75, 0xe9, 0xeb, 0xdd], // dec ecx; jnz next; jmp again
        ];
  const flat = [
    ...[0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0x8e, 0xc0], // ds = es = 16
    ...[0xbf, ...u32(0x100000), 0xb9, ...u32(USED_PAGES)],
    ...[0x89, 0x3f, 0x81, 0xc7, ...u32(4096), 0x49, 0x75, 0xf5], // a word of each page
    ...rest,
  ];
  const descriptor = (access: number) => [0xff, 0xff, 0, 0, 0, access, 0xcf, 0];
  bytes.set(real, 0);
  bytes.set(flat, 0x20);
  bytes.set([...Array<number>(8).fill(0), ...descriptor(0x9b), ...descriptor(0x93)], 0x80);
  bytes.set([0x17, 0x00, ...u32(0xfffff080)], 0x98);
  bytes.set([0xe9, 0x0d, 0xf0], 0xff0); // the reset vector: jmp to offset 0
  return bytes;
}

/** What a trip took. */
interface Trip {
  /** ms from the commands' start to their end. */
  all: number;
  /** ms that the guest stood still. */
  still: number;
  /** Sent. */
  mib: number;
}

class Pair {
  readonly #folder = mkdtempSync(join(tmpdir(), "bench-migrate-"));
  readonly #daemons = ["a", "b"].map((name) => {
    const socket = join(this.#folder, `${name}.sock`);
    const command = `exec bun src/vmd/index.ts -d -f /dev/null --socket ${socket} 2>&1`;
    return { socket, process: new Watched(["sh", "-c", command]) };
  });

  async ready(): Promise<void> {
    for (const { process } of this.#daemons) await process.until("listening");
  }

  start(rate: number): void {
    const firmware = join(this.#folder, `writer-${rate}`);
    writeFileSync(firmware, writer(rate));
    this.#run(0, "start", "--engine", engine, "-m", MEMORY, "-b", firmware, "vm");
  }

  stop(at: number): void {
    this.#run(at, "stop", "-fw", "vm");
  }

  /** From one to the other. */
  async go(from: number, live: boolean): Promise<Trip> {
    const vctl = "bun src/vctl/index.ts";
    const [source, target] = from === 0 ? this.#daemons : this.#daemons.toReversed();
    const line =
      `VMD_SOCKET=${source.socket} ${vctl} send ${live ? "--live" : ""} vm | ` +
      `VMD_SOCKET=${target.socket} ${vctl} receive vm`;
    const start = Bun.nanoseconds();
    const child = Bun.spawn(["sh", "-c", line], { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    const said = await new Response(child.stderr).text();
    await child.exited;
    const all = (Bun.nanoseconds() - start) / MS;
    const found = /sent vm vm: (\d+) MiB, its guest stood still for (\d+) ms/.exec(said);
    if (found === null) throw new Error(`it was not sent: ${said.trim()}`);
    return { all, still: Number(found[2]), mib: Number(found[1]) };
  }

  #run(at: number, ...args: string[]): void {
    const { exitCode, stderr } = Bun.spawnSync(["bun", "src/vctl/index.ts", ...args], {
      cwd: root,
      env: { ...process.env, VMD_SOCKET: this.#daemons[at].socket },
    });
    if (exitCode !== 0) throw new Error(`vctl ${args[0]} failed: ${stderr.toString().trim()}`);
  }

  async end(): Promise<void> {
    for (const { process } of this.#daemons) await process[Symbol.asyncDispose]();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

const measurement: Measurement = {
  rows: RATES.flatMap((rate) => [
    ...["plain", "live"].flatMap((how) => [`${how}_still_ms_${rate}`, `${how}_ms_${rate}`]),
    `live_mib_${rate}`,
  ]),
  rounds: 10,
  missing() {
    const { available, why } = probe(engine);
    return available ? undefined : `${why}.`;
  },
  async run(rounds) {
    const pair = new Pair();
    const rows: Row[] = [];
    try {
      await pair.ready();
      for (const rate of RATES) {
        pair.start(rate);
        // It fills its memory first.
        await Bun.sleep(2000);
        const plain: Trip[] = [];
        const live: Trip[] = [];
        // There and back, as many times as rounds.
        for (let round = 0; round < rounds; round++) {
          plain.push(await pair.go(0, false));
          live.push(await pair.go(1, true));
        }
        pair.stop(0);
        const of = (trips: Trip[], key: keyof Trip) => trips.map((trip) => trip[key]);
        rows.push(
          row(`plain_still_ms_${rate}`, "ms", of(plain, "still")),
          row(`plain_ms_${rate}`, "ms", of(plain, "all")),
          row(`live_still_ms_${rate}`, "ms", of(live, "still")),
          row(`live_ms_${rate}`, "ms", of(live, "all")),
          row(`live_mib_${rate}`, "MiB", of(live, "mib")),
        );
      }
    } finally {
      await pair.end();
    }
    return rows;
  },
};

export const migrate: Benchmark = {
  name: "migrate",
  about: "a VM goes from one daemon to another: how long its guest stands still",
  measurements: [measurement],
};
