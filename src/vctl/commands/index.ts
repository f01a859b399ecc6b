/** The commands of vctl. */
import type { Commands } from "../program.ts";

/** What makes each command: its modules are loaded when it is wanted, since they are most of vctl. */
export const COMMANDS: Commands = {
  balloon: async () => (await import("./balloon.ts")).balloonCommand(),
  capture: async () => (await import("./capture.ts")).captureCommand(),
  console: async () => (await import("./console.ts")).consoleCommand(),
  create: async () => (await import("./create.ts")).createCommand(),
  exits: async () => (await import("./exits.ts")).exitsCommand(),
  fork: async () => (await import("./fork.ts")).forkCommand(),
  fuzz: async () => (await import("./fuzz.ts")).fuzzCommand(),
  host: async () => (await import("./host.ts")).hostCommand(),
  load: async () => (await import("./daemon.ts")).loadCommand(),
  log: async () => (await import("./daemon.ts")).logCommand(),
  merge: async () => (await import("./merge.ts")).mergeCommand(),
  metrics: async () => (await import("./metrics.ts")).metricsCommand(),
  pause: async () => (await import("./pause.ts")).pauseCommand(),
  receive: async () => (await import("./receive.ts")).receiveCommand(),
  reload: async () => (await import("./daemon.ts")).reloadCommand(),
  replay: async () => (await import("./replay.ts")).replayCommand(),
  reset: async () => (await import("./daemon.ts")).resetCommand(),
  restore: async () => (await import("./restore.ts")).restoreCommand(),
  send: async () => (await import("./send.ts")).sendCommand(),
  show: async () => (await import("./show.ts")).showCommand(),
  snapshot: async () => (await import("./snapshot.ts")).snapshotCommand(),
  start: async () => (await import("./start.ts")).startCommand(),
  status: async () => (await import("./status.ts")).statusCommand(),
  stop: async () => (await import("./stop.ts")).stopCommand(),
  top: async () => (await import("./top.ts")).topCommand(),
  unpause: async () => (await import("./pause.ts")).unpauseCommand(),
  wait: async () => (await import("./wait.ts")).waitCommand(),
  completion: async (program) => (await import("./completion.ts")).completionCommand(program),
};
