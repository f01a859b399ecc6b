/**
 * The process that runs a recording or a trace again. It opens what it needs, confines itself, and then
 * reads what may come from anybody, and runs its guest. It ends when vctl is gone.
 */
import { openBootFiles } from "../vmd/boot-files.ts";
import { confine } from "../vmd/confine.ts";
import { follow, followLimits } from "../vmd/follow.ts";
import { serveReplay } from "../vmd/gdb/replay-server.ts";
import { waitsForGdb } from "../vmd/gdb-option.ts";
import { Divergence } from "../vmd/recording/player.ts";
import { replayRecording } from "../vmd/recording/replay.ts";
import { ReplaySession } from "../vmd/recording/replay-session.ts";
import { replay, traceOptions } from "../vmd/replay.ts";
import { ATTEMPTS, type Attempt, prepareProbe } from "../vmd/sandbox-probe.ts";
import { daemonLibrary } from "../vmm/native.ts";
import { selectEngine } from "../vmm/select.ts";
import { Trace } from "../vmm/trace.ts";
import { complain, fail, printBytes, say, UsageError } from "./cli.ts";
import type { ReplayJob, ReplayOrder } from "./replay-host.ts";

const FILE = 3;
const LISTENER = 4;

type RecordingJob = ReplayJob & { kind: "recording" };
type TraceJob = ReplayJob & { kind: "trace" };

/** Opens and loads what a job needs. @returns what is left to do, and the sandbox that it can be done in */
function prepare(job: ReplayJob): { profile: "kvm" | "unicorn" | "control"; work: () => void } {
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

function check(
  trace: Trace,
  job: TraceJob,
  files: ReturnType<typeof openBootFiles> | undefined,
): void {
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

function main(): void {
  const { job, confine: confinement } = JSON.parse(process.argv[2]) as ReplayOrder;
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
