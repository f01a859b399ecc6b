/** What comes through virtio-scsi's control queue, and how units are addressed: virtio 1.2, § 5.6.6. */
import type { Chain } from "./chain.ts";

export const ScsiResponse = {
  OK: 0,
  FUNCTION_COMPLETE: 0,
  OVERRUN: 1,
  ABORTED: 2,
  BAD_TARGET: 3,
  RESET: 4,
  FAILURE: 9,
  FUNCTION_SUCCEEDED: 10,
  FUNCTION_REJECTED: 11,
  INCORRECT_LUN: 12,
} as const;

const Type = { TMF: 0, AN_QUERY: 1, AN_SUBSCRIBE: 2 } as const;

export const TaskFunction = {
  ABORT_TASK: 0,
  ABORT_TASK_SET: 1,
  CLEAR_ACA: 2,
  CLEAR_TASK_SET: 3,
  I_T_NEXUS_RESET: 4,
  LOGICAL_UNIT_RESET: 5,
  QUERY_TASK: 6,
  QUERY_TASK_SET: 7,
} as const;

/** Where an address leads. */
export const Addressed = { NOTHING: 0, TARGET: 1, UNIT: 2, WELL_KNOWN: 3 } as const;

/** § 5.6.6.1: the eight bytes of an address at `at`. There is target 0, and in it LUN 0. */
export function address(bytes: Uint8Array, at: number): number {
  if (bytes[at] === 0xc1 && bytes[at + 1] === 1) return Addressed.WELL_KNOWN;
  if (bytes[at] !== 1 || bytes[at + 1] !== 0) return Addressed.NOTHING;
  // SAM-3, § 4.9: a number of 14 bits, as "flat space" or, below 256, as "peripheral".
  const kind = bytes[at + 2] >> 6;
  const lun = ((bytes[at + 2] & 0x3f) << 8) | bytes[at + 3];
  return kind <= 1 && lun === 0 ? Addressed.UNIT : Addressed.TARGET;
}

const TMF_SIZE = 24;
const AN_SIZE = 16;

/** A request of the control queue. One object serves for all of them. */
export class TaskManagement {
  readonly #bytes = new Uint8Array(TMF_SIZE);
  readonly #view = new DataView(this.#bytes.buffer);
  readonly #actual = new Uint8Array(5);
  /** Whether it is a task management function. */
  #function = false;
  /** How it is answered if no task has a say. */
  response = 0;
  /** Asks whether a task is there. */
  queries = false;
  /** How tasks are answered that it ends; 0: it ends none. */
  ends = 0;
  #one = false;
  #any = false;

  /** @returns the rule that the driver broke, when there is no answer to that. */
  parse(chain: Chain): string | undefined {
    const view = this.#view;
    this.#bytes.fill(0);
    const had = chain.read(0, this.#bytes);
    const type = view.getUint32(0, true);
    this.queries = this.#one = this.#any = false;
    this.ends = 0;
    this.#function = type === Type.TMF;
    if (had < 4 || chain.writableBytes < (this.#function ? 1 : 5)) {
      return `a control request has ${chain.readableBytes} and ${chain.writableBytes} bytes`;
    }
    if (type > Type.AN_SUBSCRIBE || had < (this.#function ? TMF_SIZE : AN_SIZE)) {
      this.response = ScsiResponse.FAILURE;
      return undefined;
    }
    const at = address(this.#bytes, this.#function ? 8 : 4);
    this.response = ScsiResponse.OK;
    if (at === Addressed.NOTHING) this.response = ScsiResponse.BAD_TARGET;
    else if (this.#function) this.#parseFunction(view.getUint32(4, true), at);
    else if (at === Addressed.TARGET) this.response = ScsiResponse.INCORRECT_LUN;
    return undefined;
  }

  #parseFunction(subtype: number, at: number): void {
    // It addresses the target, whatever the LUN.
    if (at === Addressed.TARGET && subtype !== TaskFunction.I_T_NEXUS_RESET) {
      this.response = ScsiResponse.INCORRECT_LUN;
      return;
    }
    // No task of the well-known unit takes any time.
    const any = at !== Addressed.WELL_KNOWN;
    switch (subtype) {
      case TaskFunction.ABORT_TASK:
        this.ends = ScsiResponse.ABORTED;
        this.#one = any;
        return;
      case TaskFunction.ABORT_TASK_SET:
      case TaskFunction.CLEAR_TASK_SET:
        this.ends = ScsiResponse.ABORTED;
        this.#any = any;
        return;
      case TaskFunction.I_T_NEXUS_RESET:
      case TaskFunction.LOGICAL_UNIT_RESET:
        this.ends = ScsiResponse.RESET;
        this.#any = any;
        return;
      case TaskFunction.QUERY_TASK:
        this.queries = true;
        this.#one = any;
        return;
      case TaskFunction.QUERY_TASK_SET:
        this.queries = true;
        this.#any = any;
        return;
      default:
        // CLEAR ACA too: the drive has no such condition (SPC-3, § 6.4.2, NORMACA).
        this.response = ScsiResponse.FUNCTION_REJECTED;
    }
  }

  /** Whether it is about the task with that identifier, low and high half. */
  concerns(id: number, idHigh: number): boolean {
    if (this.#any) return true;
    const view = this.#view;
    return this.#one && view.getUint32(16, true) === id && view.getUint32(20, true) === idHigh;
  }

  /** @returns bytes written. */
  respond(chain: Chain, response: number): number {
    if (this.#function) return chain.writeByte(0, response) ? 1 : 0;
    // No event can be had: event_actual is 0.
    this.#actual[4] = response;
    return chain.write(0, this.#actual);
  }
}
