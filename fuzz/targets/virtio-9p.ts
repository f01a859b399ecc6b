import { type Choices, ChoicesWriter } from "../own/choices.ts";
import type { Target } from "../own/target.ts";
import { FuzzShare } from "./other-backends.ts";
import { GuestRun } from "./guest.ts";
import { Rig } from "./rig.ts";
import { guestSeeds } from "./seeds.ts";

const backend = new FuzzShare();
const rig = new Rig(() => ({ shares: [{ tag: "fuzz", backend }] }));

function message(type: number, tag: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(7 + body.length);
  new DataView(bytes.buffer).setUint32(0, bytes.length, true);
  bytes[4] = type;
  bytes[5] = tag;
  bytes.set(body, 7);
  return bytes;
}

const run = new GuestRun({
  device: 2,
  prompt: [0],
  rig,
  backend,
  // Only without a mount it can be quiesced.
  mayBeStuck: true,
  good(choices: Choices) {
    const type = [100, 104, 110, 116, 120][choices.below(5)];
    const body = choices.take(choices.u8() & 31);
    return { queue: 0, parts: [message(type, choices.u8(), body), 7 + choices.u8()] };
  },
  event(choices: Choices) {
    if ((choices.u8() & 7) === 7) backend.leave();
  },
  probe: (guest) => {
    guest.queues[0].add([message(100, 1, new Uint8Array(8)), 64]);
    guest.queues[0].kick();
    rig.machine.idle();
    const [used] = guest.queues[0].used();
    return used.written === 11 && used.data[4] === 101;
  },
});

export const target: Target = {
  name: "virtio-9p",
  about: "the device of a share: requests, replies of any size and order, a server that is gone",
  maxInput: 1024,
  seeds: () =>
    guestSeeds([
      new ChoicesWriter().u8(0, 8, 0, 0, 1, 0, 0, 0, 0, 0, 1, 60),
      new ChoicesWriter().u8(1, 4, 1, 0, 0, 0, 2, 60),
      new ChoicesWriter().u8(4, 4, 1, 0, 0, 0, 3, 60),
    ]),
  run: (input) => run.run(input),
};
