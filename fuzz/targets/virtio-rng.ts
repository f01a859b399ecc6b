import { type Choices, ChoicesWriter } from "../own/choices.ts";
import type { Target } from "../own/target.ts";
import { GuestRun } from "./guest.ts";
import { Rig } from "./rig.ts";
import { guestSeeds } from "./seeds.ts";

const run = new GuestRun({
  device: 1,
  prompt: [0],
  rig: new Rig(),
  good(choices: Choices) {
    const first = choices.u8();
    return { queue: 0, parts: (first & 1) === 0 ? [first] : [8 * first, choices.u8()] };
  },
  probe: (guest) => guest.queues[0].request([16]).written === 16,
});

export const target: Target = {
  name: "virtio-rng",
  about: "the entropy device behind its ring",
  maxInput: 512,
  seeds: () => guestSeeds([new ChoicesWriter().u8(64), new ChoicesWriter().u8(33, 7)]),
  run: (input) => run.run(input),
};
