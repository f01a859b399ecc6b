import type { Target } from "../own/target.ts";
import { GuestRun } from "./guest.ts";
import { netSeeds, netSubject } from "./virtio-net.ts";

const run = new GuestRun(netSubject({ bytes: 20_000, burst: 4096, operations: 40 }));

export const target: Target = {
  name: "virtio-net-limited",
  about: "an interface with a limit on bytes and frames, each way",
  maxInput: 1024,
  seeds: netSeeds,
  run: (input) => run.run(input),
};
