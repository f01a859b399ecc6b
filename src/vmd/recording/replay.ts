/** Runs a recording again, to its end or to an exit. */
import type { BootFile } from "../boot-files.ts";
import type { Stop } from "../vcpu.ts";
import type { EndRecord } from "./events.ts";
import { Divergence, Player } from "./player.ts";
import { RecordingReader } from "./recording-reader.ts";
import { ReplayedMachine, type ReplayOutput } from "./replayed-machine.ts";
import { imageHash } from "./state-hash.ts";

export interface ReplayOptions extends ReplayOutput {
  /** Stops after this exit. Default: the end of the recording. */
  readonly until?: number;
}

export interface ReplayResult {
  /** Exits so far. */
  readonly exits: number;
  /** Guest time, ns. */
  readonly now: number;
  /** SHA-256 of the machine: state-hash.ts. */
  readonly image: string;
  /** The CPU's, as text. */
  readonly registers: string;
  /** How the recorded run ended; undefined where the replay stopped before that. */
  readonly end: EndRecord | undefined;
  /** The recording ends here without an end: whoever wrote it was killed. */
  readonly isCut: boolean;
  /** What differs from the recorded run, and where: a sentence. */
  readonly difference: string | undefined;
}

/**
 * Runs a recording again, in this process. Nothing but the file is needed.
 * @param file its path; or open, which is closed here
 * @throws RecordingError, FileError, EngineError
 */
export function replayRecording(
  file: string | BootFile,
  options: ReplayOptions = {},
): ReplayResult {
  using reader = new RecordingReader(file);
  const player = new Player(reader);
  using machine = new ReplayedMachine(reader, player, options, [reader.snapshot]);
  const { until = Infinity } = options;
  let isCut = false;
  let end: EndRecord | undefined;
  let difference: string | undefined;
  try {
    let stop: Stop | undefined;
    while (machine.life.vcpu.exits < until) {
      const { vcpu } = machine.life;
      vcpu.limit = until;
      stop = vcpu.run();
      if (stop.kind !== "reset" || !player.isAtReset) break;
      machine.reset(true);
      stop = undefined;
    }
    machine.life.machine.flush();
    const { exits } = machine.life.vcpu;
    if (stop !== undefined && (stop.kind !== "attention" || exits < until)) {
      isCut = player.isCut;
      if (!isCut) end = reader.end(player.end());
    }
  } catch (error) {
    if (!(error instanceof Divergence)) throw error;
    difference = error.message;
  }
  const { life } = machine;
  const image = imageHash(life);
  if (end !== undefined && end.image !== image) difference = "the final image differs";
  const { now } = life.machine.clock;
  const { exits } = life.vcpu;
  return { exits, now, image, registers: life.registers(), end, isCut, difference };
}
