// One job in the lab: starts QEMU with L1, waits for the job's end, gives its output.

import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
} from "node:fs";
import { rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { S_IFREG, writeCpio } from "../golden/guests/cpio.ts";
import { guestFile } from "../golden/guests/guest.ts";
import { vmlinux } from "../golden/guests/vmlinux.ts";
import { l1Initramfs } from "./l1.ts";
import { labCache, payload, projectArchive } from "./payload.ts";
import type { PayloadOptions } from "./payload.ts";

export interface LabOptions extends PayloadOptions {
  /** With taps, bridges and nftables in L1's kernel. */
  networks?: boolean;
  /** Added to the job's environment. */
  env?: Record<string, string>;
  /** More files for the job, by their path below /job. */
  files?: Record<string, Uint8Array | string>;
  /** About how fast L1's TSC is, kHz, as an earlier job found it: what L1 finds at first is far off. */
  tscKhz?: number;
  /** L1's memory in MiB, 2048 unless given. */
  memory?: number;
  /** Seconds that the job may take once L1 is ready, 300 unless given. */
  timeout?: number;
  /** Output as it comes. Without these it is only collected. */
  onStdout?: (data: Uint8Array) => void;
  onStderr?: (data: Uint8Array) => void;
}

export interface LabResult {
  /** The job's exit status; 128 and a signal's number if one ended it. */
  code: number;
  stdout: string;
  stderr: string;
  /** From start to end, all of it. */
  seconds: number;
  /** Until L1 was ready to run the job. */
  ready: number;
}

/** Why the lab can't run here, as a sentence; undefined if it can. */
export function labMissing(): string | undefined {
  if (!Bun.which("qemu-system-x86_64"))
    return "the lab needs QEMU: install qemu-system-x86 (`npm test` does).";
  for (const [source, file] of [
    ["linux-amd64", "vmlinuz"],
    ["busybox", "busybox"],
  ])
    if (!existsSync(guestFile(source, file)))
      return `the lab needs ${guestFile(source, file)}: run \`node setup/guests.mjs\`.`;
  return undefined;
}

/** QEMU or L1 stopped for no reason of the job's. */
class Hang extends Error {}

/** Seconds within which L1 has to be ready, and after which silence means a hang. */
const bootLimit = 90;
const silenceLimit = 60;

/**
 * Runs a command in L1, with the project in its working folder /vmd, and gives its output
 * and exit status. If the emulator hangs, it is started once more; a job is never repeated
 * for what it did, nor for taking longer than its time: that throws.
 */
export async function runInLab(command: string[], options: LabOptions = {}): Promise<LabResult> {
  const missing = labMissing();
  if (missing) throw new Error(missing);
  try {
    return await attempt(command, options);
  } catch (error) {
    if (!(error instanceof Hang)) throw error;
    console.error(`lab: ${error.message}; once more`);
    return attempt(command, options);
  }
}

async function attempt(command: string[], options: LabOptions): Promise<LabResult> {
  const started = performance.now();
  const since = () => (performance.now() - started) / 1000;
  const limit = options.timeout ?? 300;
  const folder = jobFolder();
  try {
    const file = (name: string) => join(folder, name);
    for (const name of ["console", "control", "out", "err"]) writeFileSync(file(name), "");
    writeFileSync(
      file("initrd"),
      Buffer.concat([await l1Initramfs(options), projectArchive(), jobArchive(command, options)]),
    );
    const kernel = await vmlinux(guestFile("linux-amd64", "vmlinuz"));
    const args = qemuArguments(file, kernel, payload(options), options);
    // However this process ends, QEMU ends with it.
    const leash = Bun.which("setpriv") ? ["setpriv", "--pdeathsig", "KILL", "--"] : [];
    const qemu = Bun.spawn([...leash, "qemu-system-x86_64", ...args], {
      stdio: ["ignore", "ignore", Bun.file(file("qemu"))],
    });
    const stop = () => qemu.kill("SIGKILL");
    process.on("exit", stop);

    const stdout = follow(file("out"), options.onStdout);
    const stderr = follow(file("err"), options.onStderr);
    let ready: number | undefined;
    let problem: Error | undefined;
    const look = () => {
      stdout.look();
      stderr.look();
      const { size, mtimeMs } = statSync(file("control"));
      if (size > 0) ready ??= since();
      const silent = (Date.now() - mtimeMs) / 1000;
      if (silent > (ready === undefined ? bootLimit : silenceLimit))
        problem ??= new Hang(`L1 gave no sign of life for ${silent.toFixed()} s`);
      else if (ready !== undefined && since() - ready > limit)
        problem ??= new Error(`lab: the job took more than ${limit} s`);
      if (problem) stop();
    };
    const timer = setInterval(look, 20);
    await qemu.exited;
    clearInterval(timer);
    process.off("exit", stop);
    look();

    const code = /^exit (\d+)$/m.exec(readFileSync(file("control"), "utf8"))?.[1];
    if (code === undefined)
      throw explain(problem ?? new Error("lab: L1 ended before the job did"), file);
    return {
      code: Number(code),
      stdout: stdout.text(),
      stderr: stderr.text(),
      seconds: since(),
      ready: ready ?? since(),
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A new folder for a job. Those of yesterday, whose process was killed, go. */
function jobFolder(): string {
  mkdirSync(labCache, { recursive: true });
  for (const name of readdirSync(labCache)) {
    const path = join(labCache, name);
    if (!/^\.(job|payload)-/.test(name)) continue;
    if (Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0) > 86_400_000)
      rmSync(path, { recursive: true, force: true });
  }
  return mkdtempSync(join(labCache, ".job-"));
}

/** A file that grows: hands on what is new when it is looked at. */
function follow(path: string, each?: (data: Uint8Array) => void) {
  const fd = openSync(path, "r");
  const buffer = new Uint8Array(65536);
  const look = () => {
    for (let size; (size = readSync(fd, buffer)) > 0;) each?.(buffer.slice(0, size));
  };
  const text = () => {
    closeSync(fd);
    return readFileSync(path, "utf8");
  };
  return { look: each ? look : () => {}, text };
}

/** Adds what QEMU and L1's console said last. */
function explain(error: Error, file: (name: string) => string): Error {
  const said = ["qemu", "console"].flatMap((name) =>
    existsSync(file(name))
      ? readFileSync(file(name), "utf8").trimEnd().split(/\r?\n/).slice(-60)
      : [],
  );
  error.message = [error.message, ...said.filter(Boolean)].join("\n  ");
  return error;
}

function jobArchive(command: string[], { env = {}, files = {} }: LabOptions): Uint8Array {
  const variables = { PATH: "/bin:/usr/bin", HOME: "/root", TMPDIR: "/tmp", VMD_LAB: "1", ...env };
  const script = [
    "cd /vmd",
    ...Object.entries(variables).map(([name, value]) => `export ${name}=${quote(value)}`),
    `exec ${command.map(quote).join(" ")}`,
  ].join("\n");
  return writeCpio(
    Object.entries({ run: script + "\n", ...files }).map(([path, data]) => ({
      path: `job/${path}`,
      mode: S_IFREG | 0o755,
      data: Buffer.from(data as string),
    })),
  );
}

const quote = (word: string) => `'${word.replaceAll("'", `'\\''`)}'`;

/**
 * One CPU: QEMU's multi-threaded emulation of nested SVM livelocks. `-cpu max`: Bun needs
 * AVX2. `tsc=reliable`: the emulated TSC fails the kernel's watchdog under load, and
 * without it every clock read becomes a port access.
 */
function qemuArguments(
  file: (name: string) => string,
  kernel: string,
  disk: string,
  { memory = 2048, tscKhz }: LabOptions,
): string[] {
  const append = "console=ttyS0 quiet panic=-1 tsc=reliable random.trust_cpu=on mitigations=off";
  const known = tscKhz === undefined ? "" : ` tsc_early_khz=${tscKhz}`;
  const fixed = [
    "-accel tcg -machine q35 -cpu max -smp 1 -nodefaults -no-user-config -display none -no-reboot",
    "-device virtio-serial-pci,id=ports -serial chardev:console",
    "-device virtserialport,bus=ports.0,nr=1,chardev=out",
    "-device virtserialport,bus=ports.0,nr=2,chardev=err",
    "-device virtserialport,bus=ports.0,nr=3,chardev=control",
  ];
  const channel = (name: string) => ["-chardev", `file,id=${name},path=${file(name)}`];
  const args = fixed.join(" ").split(" ");
  args.push(
    "-m",
    `${memory}`,
    "-kernel",
    kernel,
    "-initrd",
    file("initrd"),
    "-append",
    append + known,
  );
  args.push("-drive", `file=${disk},if=virtio,format=raw,snapshot=on`);
  return [...args, ...["console", "control", "out", "err"].flatMap(channel)];
}
