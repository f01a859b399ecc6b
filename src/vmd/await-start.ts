/** What a VM's process does before it is told what to run: it gets ready, if it has time for that. */
import type { EngineName } from "../vmm/engine.ts";
import { selectEngine } from "../vmm/select.ts";
import type { Channel, Received } from "./channel.ts";
import { isExpected } from "./expected.ts";
import { type Preparation, prepare, type TryOn } from "./preparation.ts";
import { rehearse } from "./rehearsal.ts";
import type { FromVm, PrepareMessage, StartMessage } from "./vm-messages.ts";

const READY: FromVm = { kind: "ready" };

/** What it is to run. */
export interface Start {
  readonly start: StartMessage;
  /** See StartMessage. */
  readonly descriptors: readonly number[];
  /** It waited with a machine, and is confined. */
  readonly preparation: Preparation | undefined;
}

/** VMD_WAITS: the engine that it rehearses on; VMD_MACHINE: it is to `prepare` then. */
export function awaitStart(channel: Channel, tryOn: TryOn): Start {
  const { VMD_WAITS: waits, VMD_MACHINE: machine } = process.env;
  if (waits !== undefined) {
    rehearseOn(waits as EngineName);
    if (machine !== "yes") channel.send(READY);
  }
  let received = nextMessage(channel);
  let message = JSON.parse(received.text) as PrepareMessage | StartMessage;
  let preparation: Preparation | undefined;
  if (message.kind === "prepare") {
    try {
      preparation = prepare(message, received.descriptors, tryOn);
    } catch (error) {
      if (!isExpected(error)) throw error;
      // Whoever wants it gets another process, which says why it can't be had, if that is so.
      console.error(`vmd: a process that waits: ${error.message}`);
      process.exit(1);
    }
    channel.send(READY);
    received = nextMessage(channel);
    message = JSON.parse(received.text) as StartMessage;
  }
  return { start: message as StartMessage, descriptors: received.descriptors, preparation };
}

function rehearseOn(engine: EngineName): void {
  try {
    const { engine: name } = selectEngine(engine);
    // The second time finds what the first compiled only by then.
    for (let i = 0; i < 2; i++) rehearse(name);
  } catch (error) {
    // An engine that can't be had is said to whoever wants it.
    if (!isExpected(error)) throw error;
  }
}

function nextMessage(channel: Channel): Received {
  for (;;) {
    const received = channel.receive();
    // Nobody wants it.
    if (received === "end") process.exit(1);
    if (received !== "none") return received;
    channel.wait();
  }
}
