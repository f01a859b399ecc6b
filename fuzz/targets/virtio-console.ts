import { type Choices, ChoicesWriter } from "../own/choices.ts";
import type { Target } from "../own/target.ts";
import { FuzzTerminal } from "./other-backends.ts";
import { GuestRun } from "./guest.ts";
import { Rig } from "./rig.ts";
import { guestSeeds } from "./seeds.ts";

const RECEIVE = 0;
const backend = new FuzzTerminal();
const rig = new Rig(() => ({ console: backend }));
const { virtioConsole } = rig.machine;

const run = new GuestRun({
  device: 2,
  prompt: [1],
  rig,
  backend,
  good(choices: Choices) {
    const queue = choices.below(2);
    const length = choices.u16() & 0x7ff;
    return { queue, parts: [queue === RECEIVE ? length : new Uint8Array(length).fill(65)] };
  },
  event(choices: Choices) {
    const what = choices.u8();
    if ((what & 1) === 0) virtioConsole?.input(new Uint8Array(choices.u16() % 3000).fill(what));
    else virtioConsole?.resize(choices.u8(), choices.u8());
  },
  probe({ queues: [receive] }) {
    receive.add([1]);
    receive.kick();
    virtioConsole?.input(new Uint8Array(1));
    return receive.used().length === 1;
  },
});

export const target: Target = {
  name: "virtio-console",
  about: "a console device: nothing is lost, and no output comes to a reader that takes none",
  maxInput: 1024,
  seeds: () => guestSeeds([new ChoicesWriter().u8(0, 64, 0), new ChoicesWriter().u8(1, 64, 0)]),
  run: (input) => run.run(input),
};
