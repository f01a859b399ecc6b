import { ChoicesWriter } from "../own/choices.ts";
import type { Target } from "../own/target.ts";
import { GuestRun } from "./guest.ts";
import { guestSeeds } from "./seeds.ts";
import { blkSubject } from "./virtio-blk.ts";

const run = new GuestRun(blkSubject(true));

export const target: Target = {
  name: "virtio-blk-readonly",
  about: "a disk that is read-only: nothing that a guest says writes to it",
  maxInput: 1024,
  seeds: () =>
    guestSeeds([0, 1, 2, 4, 5].map((type) => new ChoicesWriter().u8(type, 3, 0, 2, 0, 0, 0, 0))),
  run: (input) => run.run(input),
};
