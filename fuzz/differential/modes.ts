/** Which of the processor's modes both engines run. */
import type { EngineName } from "../../src/vmm/engine.ts";
import { type Case, FPU_SIZE, STATE, STATE_SIZE } from "./case.ts";
import { CODE, MODES, type Mode } from "./layout.ts";
import { Random } from "./random.ts";
import { randomState, set64 } from "./states.ts";
import { Ending, Target } from "./target.ts";

const NOP_AND_HLT = Uint8Array.of(0x90, 0xf4);
/** The first entry of a slow host takes longer than a case may. */
const TRIES = 5;

/** @returns those in which NOP and HLT run; a KVM that only emulates hasn't all of them. */
export function modesOf(engines: readonly EngineName[]): Mode[] {
  let modes = [...MODES];
  for (const name of new Set(engines)) {
    using target = new Target(name);
    modes = modes.filter((mode) => runs(target, mode));
  }
  return modes;
}

/** Whether a mode runs on a target. */
export function runs(target: Pick<Target, "run" | "ending" | "vector">, mode: Mode): boolean {
  const random = new Random();
  random.seed(1, 0);
  const it: Case = {
    mode,
    cpl: 0,
    deep: false,
    at: CODE,
    code: NOP_AND_HLT,
    state: new Uint8Array(STATE_SIZE),
    fpu: new Uint8Array(FPU_SIZE),
    patches: [],
  };
  randomState(random, it);
  it.at = CODE;
  const view = new DataView(it.state.buffer);
  set64(view, STATE.rip, CODE);
  set64(view, STATE.rflags, 2);
  for (let i = 0; i < TRIES; i++) {
    target.run(it);
    if (target.ending !== Ending.BUDGET) break;
  }
  return target.ending === Ending.HALT && target.vector < 0;
}
