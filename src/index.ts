/** vmd as a library: a virtual machine is a value in a TypeScript program or test. */
export type { ExitCount } from "./vmd/exit-counter.ts";
export { ConsoleStream, ExpectError } from "./vmd/console-stream.ts";
export {
  type Ending,
  Vm,
  VmError,
  type VmEvent,
  type VmOptions,
  type VmStatistics,
} from "./vmd/vm.ts";
export { type Position, ReplaySession, type SessionStop } from "./vmd/recording/replay-session.ts";
export { RecordingError } from "./vmd/recording/recording-reader.ts";
export { type ReplayOptions, replayRecording, type ReplayResult } from "./vmd/recording/replay.ts";
export { type EngineChoice, type Selection, selectEngine } from "./vmm/select.ts";
export { Trace, type TraceRecord } from "./vmm/trace.ts";
