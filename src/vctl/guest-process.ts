/**
 * The process in which a guest runs for vctl itself. It opens what it needs, confines itself, and then
 * reads what may come from anybody, and runs it. It ends when vctl is gone.
 */
import { writeSync } from "node:fs";
import { type BootSet, openBootFiles } from "../vmd/boot-files.ts";
import { BootFiles } from "../vmd/boot-load.ts";
import { confine } from "../vmd/confine.ts";
import { crossCheck } from "../vmd/cross-check.ts";
import { follow, followLimits } from "../vmd/follow.ts";
import { serveReplay } from "../vmd/gdb/replay-server.ts";
import { waitsForGdb } from "../vmd/gdb-option.ts";
import { Divergence } from "../vmd/recording/player.ts";
import { replayRecording } from "../vmd/recording/replay.ts";
import { ReplaySession } from "../vmd/recording/replay-session.ts";
import { replay, traceOptions } from "../vmd/replay.ts";
import type { SandboxOptions } from "../vmd/sandbox.ts";
import { ATTEMPTS, type Attempt, prepareProbe } from "../vmd/sandbox-probe.ts";
import type { VcpuOptions } from "../vmd/vm-options.ts";
import { ENGINES } from "../vmm/engine-library.ts";
import { daemonLibrary } from "../vmm/native.ts";
import { selectEngine } from "../vmm/select.ts";
import { Trace } from "../vmm/trace.ts";
import { complain, fail, printBytes, say, UsageError } from "./cli.ts";
import type { GuestJob, GuestOrder } from "./guest-host.ts";

const FILE = 3;
const LISTENER = 4;

type RecordingJob = GuestJob & { kind: "recording" };
type TraceJob = GuestJob & { kind: "trace" };

interface Work {
  /** The sandbox that it can be done in. */
  readonly profile: SandboxOptions["profile"];
  readonly work: () => void;
}

/** Opens and loads what a job needs. @returns what is left to do */
function prepare(job: GuestJob): Work {
  if (job.kind === "both") {
    for (const engine of ENGINES) selectEngine(engine);
    const files = openBootFiles(job.options);
    return { profile: "fuzzer", work: () => compare(job.options, files) };
  }
  if (job.kind === "recording") {
    const { engine } = selectEngine("unicorn");
    if (job.gdb === undefined) return { profile: engine, work: () => again(job) };
    daemonLibrary();
    return { profile: engine, work: () => debug(job) };
  }
  const trace = new Trace(job.path, FILE);
  if (job.crossCheck === undefined) {
    return { profile: "control", work: () => check(trace, job, undefined) };
  }
  const { engine } = selectEngine(job.crossCheck);
  const files = openBootFiles(traceOptions(trace));
  return { profile: engine, work: () => check(trace, job, files) };
}

function again({ path, until, console, registers }: RecordingJob): void {
  const result = replayRecording(
    { path, descriptor: FILE },
    { until, console: console ? printBytes : undefined },
  );
  const { exits, now, end, image, isCut, difference } = result;
  if (until !== undefined || registers) complain(`${result.registers}\n`);
  if (difference !== undefined) {
    throw new UsageError(`${path}: not the same: ${difference}`);
  }
  const time = `${(now / 1e9).toFixed(6)} s of the guest's time`;
  if (isCut) {
    throw new UsageError(`${path}: it ends too early: the same up to exit ${exits}, ${time}`);
  }
  if (end !== undefined) say(end.message);
  say(`${exits} exits, ${time}`);
  say(end === undefined ? `image: ${image}` : `final image: ${image}, the same`);
}

function debug({ path, until, console, gdb }: RecordingJob): void {
  const output = { console: console ? printBytes : undefined };
  using session = new ReplaySession({ path, descriptor: FILE }, output);
  try {
    if (until !== undefined) session.seekExit(until);
    if (gdb !== undefined) say(waitsForGdb(path, gdb));
    serveReplay(session, LISTENER);
  } catch (error) {
    if (!(error instanceof Divergence)) throw error;
    throw new UsageError(`${path}: not the same: ${error.message}`);
  }
}

function check(trace: Trace, job: TraceJob, files: BootSet | undefined): void {
  if (job.replay) {
    const { exits, difference } = replay(trace);
    if (difference !== undefined) throw new UsageError(difference);
    say(`${exits} exits replayed: every answer is the recorded one`);
  }
  if (job.crossCheck === undefined) return;
  const limits = followLimits(trace, job.crossCheck);
  if (limits !== undefined) say(limits);
  const { equal, difference, ending, failed } = follow(trace, job.crossCheck, files);
  if (difference !== undefined) throw new UsageError(difference);
  const result = `${equal} exits are equal on engine ${job.crossCheck}: ${ending}`;
  if (failed) throw new UsageError(result);
  say(result);
}

function compare(options: VcpuOptions, set: BootSet): void {
  const { name, memory, epoch, debugExit } = options;
  using files = new BootFiles(options, set);
  const result = crossCheck({
    engines: ENGINES,
    memory,
    epoch,
    debugExit: debugExit === true,
    output: printBytes,
    debug: (bytes) => void writeSync(2, bytes),
    rom: files.rom,
    load: (machine) => files.load(machine),
  });
  say(`${name}: ${result.equal} exits are equal on ${ENGINES.join(" and ")}`);
  if (result.difference !== undefined) complain(`${result.difference}\n`);
  say(`${name}: ${result.ending}`);
  if (result.failed || result.difference !== undefined) process.exitCode = 1;
}

function main(): void {
  const { job, confine: confinement } = JSON.parse(process.argv[2]) as GuestOrder;
  const attempt = ATTEMPTS.find((one): one is Attempt => one === process.env.VMD_PROBE);
  const probe = attempt === undefined ? undefined : prepareProbe();
  try {
    const { profile, work } = prepare(job);
    const missing = confine(confinement, profile);
    if (missing !== "") say(missing);
    work();
    if (attempt !== undefined) complain(`${attempt}: ${probe?.(attempt)}\n`);
  } catch (error) {
    fail(error);
  }
}

main();
