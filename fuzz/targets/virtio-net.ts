import type { RateLimits } from "../../src/vmd/virtio/rate-limit.ts";
import { type Choices, ChoicesWriter } from "../own/choices.ts";
import type { Target } from "../own/target.ts";
import { FuzzWire } from "./net-backends.ts";
import { GuestRun, type Subject } from "./guest.ts";
import { Rig } from "./rig.ts";
import { guestSeeds } from "./seeds.ts";

const [RECEIVE, TRANSMIT] = [0, 1];
const MAC = Uint8Array.of(0xfe, 0xe1, 0xbb, 0xd1, 0, 1);

/** @param limits how much it sends, and receives; absent: as much as it can */
export function netSubject(limits?: RateLimits): Subject {
  let backend!: FuzzWire;
  const rig = new Rig((memory) => {
    backend = new FuzzWire(memory);
    return { interfaces: [{ backend, mac: MAC, locked: true, mtu: 1500, limits }] };
  });
  return {
    device: 2,
    prompt: [1],
    rig,
    backend,
    good(choices: Choices) {
      const how = choices.u8();
      if ((how & 1) === 0) return { queue: RECEIVE, parts: [12 + 8 * choices.u8()] };
      const header = new Uint8Array(12);
      if ((how & 2) !== 0) header.set(choices.take(12));
      const frame = new Uint8Array(14 + choices.u8());
      frame.set(MAC, 6);
      if ((how & 4) === 0) return { queue: TRANSMIT, parts: [header, frame] };
      return { queue: TRANSMIT, parts: [new Uint8Array([...header, ...frame])] };
    },
    event(choices: Choices) {
      backend.arrive(choices.u16() & 0xfff);
      rig.machine.idle();
    },
    probe({ queues: [receive, transmit] }) {
      receive.add([2048]);
      receive.kick();
      backend.arrive(60);
      rig.machine.idle();
      const [got] = receive.used();
      const frame = new Uint8Array(12 + 60);
      frame.set(MAC, 18);
      return got.written === 72 && transmit.request([frame]).written === 0;
    },
  };
}

export const netSeeds = () =>
  guestSeeds([
    new ChoicesWriter().u8(0, 200),
    new ChoicesWriter().u8(1, 60),
    new ChoicesWriter().u8(7, 1, 1, 0, 0, 8, 0, 34, 0, 16, 0, 0, 0, 200),
    // To be cut into segments.
    new ChoicesWriter().u8(7, 1, 1, 54, 0, 0, 2, 34, 0, 16, 0, 0, 0, 250),
  ]);

const run = new GuestRun(netSubject());

export const target: Target = {
  name: "virtio-net",
  about: "an interface with a locked address: headers, frames, merged buffers",
  maxInput: 1024,
  seeds: netSeeds,
  run: (input) => run.run(input),
};
