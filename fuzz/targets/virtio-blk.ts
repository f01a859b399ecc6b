import type { RateLimits } from "../../src/vmd/virtio/rate-limit.ts";
import { ChoicesWriter } from "../own/choices.ts";
import type { Target } from "../own/target.ts";
import { FuzzDisk } from "./block-backends.ts";
import { type Guest, GuestRun, type Subject } from "./guest.ts";
import { Rig } from "./rig.ts";
import { guestSeeds } from "./seeds.ts";
import type { Choices } from "../own/choices.ts";

const TYPES = [0, 1, 4, 8, 11, 13, 2, 255];

/** A request of virtio-blk: its header. */
function header(type: number, sector: number): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, type, true);
  view.setUint32(8, sector, true);
  return bytes;
}

/** @param limits how much it moves; absent: as much as it can */
export function blkSubject(readOnly: boolean, limits?: RateLimits): Subject {
  let backend!: FuzzDisk;
  const rig = new Rig((memory) => {
    backend = new FuzzDisk(memory, readOnly);
    return { disks: [{ backend, id: "fuzz", limits }] };
  });
  return {
    device: 2,
    prompt: [0],
    rig,
    backend,
    good(choices: Choices) {
      const type = choices.of(TYPES);
      const bytes = header(type, choices.u8());
      // A sector beyond 2^32, now and then.
      if ((choices.u8() & 15) === 15) bytes[12] = choices.u8();
      const length = 512 * (choices.u8() & 7) + ((choices.u8() & 15) === 15 ? choices.u8() : 0);
      if (type === 0) return { queue: 0, parts: [bytes, length, 1] };
      if (type === 1) return { queue: 0, parts: [bytes, new Uint8Array(length).fill(type), 1] };
      if (type === 8) return { queue: 0, parts: [bytes, choices.u8() & 31, 1] };
      const range = new Uint8Array(16);
      const view = new DataView(range.buffer);
      view.setUint32(0, choices.u8(), true);
      view.setUint32(8, choices.u8() & 0x3f, true);
      view.setUint32(12, choices.u8() & 3, true);
      const parts = type === 11 || type === 13 ? [bytes, range, 1] : [bytes, 1];
      return { queue: 0, parts };
    },
    probe(guest: Guest) {
      const { data } = guest.queues[0].request([header(0, 1), 512, 1]);
      return data.length === 513 && data[512] === 0;
    },
  };
}

export const blkSeeds = () =>
  guestSeeds([0, 1, 2, 4, 5].map((type) => new ChoicesWriter().u8(type, 3, 0, 2, 0, 0, 0, 0)));

const run = new GuestRun(blkSubject(false));

export const target: Target = {
  name: "virtio-blk",
  about: "a disk behind its rings: requests, buffers and registers of any kind",
  maxInput: 1024,
  seeds: blkSeeds,
  run: (input) => run.run(input),
};
