import type { Target } from "../own/target.ts";
import { GuestRun } from "./guest.ts";
import { blkSeeds, blkSubject } from "./virtio-blk.ts";

const run = new GuestRun(blkSubject(true));

export const target: Target = {
  name: "virtio-blk-readonly",
  about: "a disk that is read-only: nothing that a guest says writes to it",
  maxInput: 1024,
  seeds: blkSeeds,
  run: (input) => run.run(input),
};
