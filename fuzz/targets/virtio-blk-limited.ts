import type { Target } from "../own/target.ts";
import { GuestRun } from "./guest.ts";
import { blkSeeds, blkSubject } from "./virtio-blk.ts";

const run = new GuestRun(blkSubject(false, { bytes: 20_000, burst: 4096, operations: 40 }));

export const target: Target = {
  name: "virtio-blk-limited",
  about: "a disk with a limit on bytes and requests: what has to wait is served later",
  maxInput: 1024,
  seeds: blkSeeds,
  run: (input) => run.run(input),
};
