import { type Choices, ChoicesWriter } from "../own/choices.ts";
import { must, type Target } from "../own/target.ts";
import { FuzzBalloon } from "./other-backends.ts";
import { GuestRun } from "./guest.ts";
import { RAM, Rig } from "./rig.ts";
import { guestSeeds } from "./seeds.ts";

let backend!: FuzzBalloon;
const rig = new Rig((memory) => {
  backend = new FuzzBalloon(memory);
  return { balloon: backend };
});
const { balloon } = rig.machine;
must(balloon !== undefined, "the machine has no balloon");
/** Pages that are nobody's: giving them away is no mistake. */
const SPARE = 0x10;

const run = new GuestRun({
  device: 2,
  prompt: [0, 1],
  rig,
  backend,
  good(choices: Choices) {
    const queue = choices.below(5);
    const how = choices.u8();
    if (queue > 2) return { queue, parts: [4096 * (how & 3)] };
    if (queue === 2) {
      const entries = new Uint8Array(10 * (how & 15));
      for (let at = 0; at < entries.length; at += 10) {
        entries[at] = choices.u8();
        entries.fill(choices.u8(), at + 2, at + 10);
      }
      return { queue, parts: [entries] };
    }
    const numbers = Uint32Array.from({ length: how & 31 }, () => SPARE + choices.below(64));
    return { queue, parts: [new Uint8Array(numbers.buffer)] };
  },
  event(choices: Choices) {
    if ((choices.u8() & 1) === 0) balloon.askStatistics();
    else balloon.target(choices.u16());
    const { wanted, actual } = balloon;
    must(wanted * 4096 <= RAM && actual < 2 ** 32, `${wanted} pages wanted, ${actual} given`);
    for (let tag = 0; tag < 10; tag++) {
      const value = balloon.statistic(tag);
      must(value === undefined || value >= 0, `statistic ${tag} is ${value}`);
    }
  },
  probe: (guest) => guest.queues[0].request([Uint8Array.of(SPARE, 0, 0, 0)]).written === 0,
});

export const target: Target = {
  name: "virtio-balloon",
  about: "a balloon: only whole pages of RAM go, and no more than there are",
  maxInput: 1024,
  seeds: () =>
    guestSeeds([
      new ChoicesWriter().u8(0, 3, 1, 2, 3),
      new ChoicesWriter().u8(1, 1, 2),
      new ChoicesWriter().u8(2, 2, 4, 1, 5, 2),
      new ChoicesWriter().u8(3, 2),
    ]),
  run: (input) => run.run(input),
};
