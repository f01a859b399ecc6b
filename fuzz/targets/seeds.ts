/** Programs of a guest that drives a virtio device: see guest.ts for what the numbers mean. */
import { ChoicesWriter } from "../own/choices.ts";

const START = [0, 0, 0];
const IDLE = 10;
const LATER = [13, 1];
const FINISH = [12, 0];
const SNAPSHOT = 19;
const ONES = new Uint8Array(48).fill(1);

/** @param requests what the subject's `good` reads, and behind it how the chain is made */
export function* guestSeeds(requests: readonly ChoicesWriter[]): Generator<Uint8Array> {
  const bytes = requests.map((one) => [1, ...one.done(), 0]);
  for (const request of bytes) yield Uint8Array.from([...START, ...request, IDLE]);
  yield Uint8Array.from([...START, ...bytes.flat(), IDLE, SNAPSHOT, ...bytes.flat()]);
  yield Uint8Array.from([...START, ...LATER, ...bytes.flat(), ...FINISH, SNAPSHOT, 18, ...START]);
  // Without EVENT_IDX and indirect descriptors, small queues.
  yield Uint8Array.from([0, 0x30, 2, ...bytes.flat(), IDLE, ...bytes.flat()]);
  // Wild chains, scribbled rings, descriptors that change while they are read.
  const wild = [6, 0, 1, 0, 0, 0, 0, 0, 64, 1, 0, 0, 0, 0, 0];
  const scribble = [7, 0, 3, 1, 8, 1, 0, 0, 0, 0, 3];
  yield Uint8Array.from([...START, ...bytes.flat(), ...wild, ...scribble]);
  yield Uint8Array.from([...START, 6, 0, 1, 0xe0, 0xe2, 0]);
  yield Uint8Array.from([...START, 14, 8, 0, ...bytes.flat(), ...ONES]);
  yield Uint8Array.from([...START, 14, 8, 1, ...bytes.flat(), ...ONES]);
  // What is read again says something else.
  for (const request of bytes) yield Uint8Array.from([...START, 14, 0, 0x11, ...request, ...ONES]);
  yield Uint8Array.from([0, 0, 0x40, 64, 0, 0, 0, 0x80, ...bytes.flat()]);
}
