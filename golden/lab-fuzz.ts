/**
 * The worked example of docs/fuzzing-userspace.md on KVM, as a job for the lab: boots a Linux guest whose first
 * process reads DNS messages, runs inputs in it, and a short campaign; prints a Fuzzed as JSON.
 *
 * bun golden/lab-fuzz.ts, with dns.cpio, dns, kernel-blocks, process-blocks and inputs.json in /job.
 *
 * QEMU's SVM refuses ports to processes once a host has set the guest's task register, as each reset does
 * (its cached descriptor is never a busy one). So this dns asks the kernel to write to the port: /dev/port.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Campaign, type Crash } from "../fuzz/campaign/index.ts";
import type { CrashReport, Verdict } from "../fuzz/executor.ts";
import { GuestExecutor, type GuestOptions } from "../fuzz/guest/index.ts";
import { guestFile, initramfs, prepare } from "./guests/index.ts";
import { root } from "../src/vmm/root.ts";

/** Seconds of the campaign. */
const SECONDS = 40;
/** Runs between two looks at the clock. */
const PIECE = 20;

/** In place of fuzz/harness/vmd-fuzz.h. */
const HEADER = `#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int port = -1;
uint8_t fuzz_input[512] = { 1 };
volatile unsigned long fuzz_length = 1;

static inline void say(unsigned char command)
{
	if (port < 0)
		port = open("/dev/port", O_WRONLY);
	if (pwrite(port, &command, 1, 0x5f0) != 1)
		perror("port"), _exit(9);
}

static inline size_t vmd_fuzz_ready(void *buffer, size_t size)
{
	say(1);
	memcpy(buffer, fuzz_input, fuzz_length < size ? fuzz_length : size);
	return fuzz_length;
}

static inline void vmd_fuzz_done(void)
{
	say(2);
}

static inline void vmd_fuzz_crash_at(unsigned long code, unsigned long rip, unsigned long rbp)
{
	(void)code, (void)rip, (void)rbp;
	say(3);
}
`;
const FLAGS = "-O1 -g -static -fstack-protector-strong -fno-omit-frame-pointer";

/** Builds dns and dns.cpio. */
export async function buildPortDns(folder: string): Promise<void> {
  writeFileSync(join(folder, "vmd-fuzz.h"), HEADER);
  const dns = join(folder, "dns");
  const source = join(root, "examples/fuzz/dns.c");
  const { exitCode, stderr } = Bun.spawnSync([
    ...["gcc", ...FLAGS.split(" "), `-I${folder}`, "-o", dns, source],
  ]);
  if (exitCode !== 0) throw new Error(stderr.toString());
  const init = `${prepare}
[ -c /dev/port ] || mknod /dev/port c 1 4
exec dns fuzz
`;
  const files = { "bin/dns": readFileSync(dns) };
  writeFileSync(join(folder, "dns.cpio"), await initramfs({ init, files }));
}

/** The guest, on whichever engine. */
export async function dnsGuest(folder: string): Promise<GuestOptions> {
  return {
    file: guestFile("linux-generic", "vmlinuz"),
    memory: 96 * 2 ** 20,
    initrd: join(folder, "dns.cpio"),
    symbols: [join(folder, "dns")],
    cmdline: "console=ttyS0 nokaslr",
    start: "ready",
    input: "fuzz_input,512",
    length: "fuzz_length,8",
  };
}

export interface Fuzzed {
  /** What is said of blocks of a process, where HLT is the trap. */
  readonly refusal: string;
  /** s until the guest was ready. */
  readonly boot: number;
  readonly runs: readonly {
    readonly verdict: Verdict;
    readonly crash?: CrashReport;
    readonly edges: number;
    readonly pages: number;
  }[];
  readonly campaign: {
    readonly runs: number;
    readonly seconds: number;
    readonly edges: number;
    readonly corpus: number;
    readonly crashes: readonly CrashReport[];
    readonly failure?: string;
  };
  readonly fidelity: { readonly checked: number; readonly equal: number };
}

async function open(blocks: string): Promise<GuestExecutor> {
  const guest = await dnsGuest("/job");
  // Guest seconds pass here as the emulator pleases.
  return new GuestExecutor({
    ...guest,
    ...{ engine: "kvm", blocks, verify: 1, budget: 10e9, patience: 3000 },
  });
}

async function fuzzed(): Promise<Fuzzed> {
  const inputs = (JSON.parse(readFileSync("/job/inputs.json", "utf8")) as string[]).map((hex) =>
    Uint8Array.fromHex(hex),
  );
  const refusal = await open("/job/process-blocks").then(
    (executor) => (executor.close(), "it was taken"),
    (error: Error) => error.message,
  );
  const started = performance.now();
  const executor = await open("/job/kernel-blocks");
  const boot = (performance.now() - started) / 1000;
  try {
    const runs = inputs.map((input) => {
      const verdict = executor.run(input, input.length);
      const crash = executor.crash();
      executor.novelty();
      const [edges, pages] = [executor.edges().length, executor.writtenPages().length];
      return { verdict, crash, edges, pages };
    });
    const crashes: Crash[] = [];
    const finds = { crashed: (crash: Crash) => void crashes.push(crash) };
    const campaign = new Campaign({ executor, seed: 1, seeds: inputs.slice(0, 1), finds });
    const from = performance.now();
    const seconds = () => (performance.now() - from) / 1000;
    campaign.begin();
    while (seconds() < SECONDS && campaign.failure === undefined) {
      campaign.advance(campaign.runs + PIECE);
    }
    const { edges, corpus } = campaign.counts();
    return {
      ...{ refusal, boot, runs, fidelity: executor.fidelity },
      campaign: {
        ...{ runs: campaign.runs, seconds: seconds(), edges, corpus },
        crashes: crashes.map(({ report }) => report),
        failure: campaign.failure,
      },
    };
  } finally {
    executor.close();
  }
}

if (import.meta.main) console.log(JSON.stringify(await fuzzed()));
