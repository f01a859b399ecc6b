/**
 * Which engine to use. That /dev/kvm can be opened proves nothing: a KVM without the processor's
 * help emulates instructions, and not all of them. So KVM is chosen only when a guest of a few
 * instructions runs on it (native/selftest.c).
 */
import { CR0, type CpuState, flat, resetState } from "./cpu.ts";
import { ENGINES, Engine, EngineError, type EngineName, probe } from "./engine.ts";
import { ExitReason, exitName, fatalExit, IO_OUT } from "./exit.ts";
import { MachineImage } from "./image.ts";
import { hostBuffer, hostLibrary, ptr } from "./native.ts";

const CODE = 0x1000;
const MEMORY = 0x10000;
const ANSWER_PORT = 0x80;
const ANSWER = 0x600d600d;
/** Far more than it takes; a KVM that hangs must not hang us. */
const TIME_LIMIT_NS = 200e6;

/** What a user may ask for. */
export type EngineChoice = EngineName | "auto";

/** An engine, and in one sentence why not the better one. */
export interface Selection {
  engine: EngineName;
  /** Empty when the best engine was there, or the user named it. */
  why: string;
}

/** Chooses an engine. @throws EngineError when none can be had. */
export function selectEngine(choice: EngineChoice = "auto"): Selection {
  if (choice !== "auto") {
    const found = probe(choice);
    if (!found.available) throw new EngineError(`engine ${choice}: ${found.why}`);
    return { engine: choice, why: "" };
  }
  const reason = whyNotKvm();
  if (reason === undefined) return { engine: "kvm", why: "" };
  const unicorn = probe("unicorn");
  if (!unicorn.available) {
    throw new EngineError(`no engine: kvm: ${reason}; unicorn: ${unicorn.why}`);
  }
  return { engine: "unicorn", why: `KVM is not used, since ${reason}` };
}

/** Why stock kernels can't run on this host's KVM; undefined when they can. */
export function whyNotKvm(): string | undefined {
  const found = probe("kvm");
  if (!found.available) return found.why;
  try {
    const failure = selfTest("kvm");
    return failure === undefined ? undefined : `a test guest failed on it: ${failure}`;
  } catch (error) {
    return (error as Error).message;
  }
}

/** Runs the test guest. @returns what went wrong, or undefined. */
export function selfTest(name: EngineName): string | undefined {
  const size = new Uint32Array(1);
  const code = hostLibrary().vmm_selftest(ptr(size)) as unknown as number;
  using image = new MachineImage([{ base: 0, size: MEMORY, readonly: false }]);
  image.memory.write(CODE, new Uint8Array(hostBuffer(code, size[0])));
  using engine = Engine.open(name, image);
  engine.setCpu(entryState());
  const { run } = engine;
  const limit = engine.now() + TIME_LIMIT_NS;
  let answer: number | undefined;
  while (engine.now() < limit) {
    engine.setDeadline(limit);
    const result = engine.enter();
    if (result < 0) return `running it gives errno ${-result}`;
    switch (run.reason) {
      case ExitReason.IO:
        if (run.ioDirection !== IO_OUT || run.ioPort !== ANSWER_PORT) return "a wrong port";
        answer = run.view.getUint32(run.ioData, true);
        break;
      case ExitReason.HLT:
        return answer === ANSWER ? undefined : `it computed 0x${answer?.toString(16)}`;
      case ExitReason.INTR:
        break;
      case ExitReason.SHUTDOWN:
        return "an exception in it led to a triple fault";
      default:
        return fatalExit(run) ?? `unexpected ${exitName(run.reason)} exit`;
    }
  }
  return "it did not end";
}

function entryState(): CpuState {
  const data = flat(0x10, "data");
  return {
    ...resetState(),
    cs: flat(0x8, "code32"),
    ds: data,
    es: data,
    fs: data,
    gs: data,
    ss: data,
    rip: CODE,
    rsp: 0x6000,
    cr0: CR0.PE | CR0.ET,
  };
}

export { ENGINES };
