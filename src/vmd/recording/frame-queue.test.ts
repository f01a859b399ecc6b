/** Frames of a recorded interface: where they go, and which are lost. */
import { expect, test } from "bun:test";
import { GuestMemory } from "../../vmm/memory.ts";
import { Chain } from "../virtio/chain.ts";
import { FRAME_MAX, FrameQueue } from "./frame-queue.ts";

function buffers(queue: FrameQueue, sizes: number[]): GuestMemory {
  const memory = GuestMemory.standalone(2 ** 20);
  let at = 0;
  for (const size of sizes) {
    const chain = new Chain(memory);
    chain.clear(0);
    chain.add(at, size, true, 0);
    queue.offer(chain);
    at += size;
  }
  return memory;
}

const frame = (length: number) => Uint8Array.from({ length }, (_, i) => i % 251);
const offloads = { checksum: false, tso4: false, tso6: false };

test("a frame takes as many buffers as it needs, where they may be merged", () => {
  const queue = new FrameQueue(true);
  queue.start(offloads, true);
  const memory = buffers(queue, [100, 100, 100, 50]);
  queue.deliver(frame(250));
  queue.deliver(frame(40));
  expect(queue.look()).toBe(true);
  expect(queue.receive()).toBe(true);
  expect([queue.length, queue.buffers]).toEqual([250, 3]);
  const bytes = new Uint8Array(250);
  memory.read(0, bytes);
  expect(bytes).toEqual(frame(250));
  expect(queue.receive()).toBe(true);
  expect([queue.length, queue.buffers]).toEqual([40, 1]);
  expect(queue.receive()).toBe(false);
  expect(queue.look()).toBe(false);
});

test("a frame that doesn't fit is lost, and the next one comes", () => {
  for (const merge of [true, false]) {
    const queue = new FrameQueue(true);
    queue.start(offloads, merge);
    buffers(queue, [100, 30]);
    queue.deliver(frame(merge ? 131 : 101));
    queue.deliver(frame(100));
    expect(queue.receive()).toBe(true);
    expect([queue.length, queue.buffers]).toEqual([100, 1]);
    expect(queue.receive()).toBe(false);
  }
});

test("there is room while the longest frame is sure to fit", () => {
  const queue = new FrameQueue(true);
  expect(queue.hasRoom).toBe(false);
  queue.start(offloads, true);
  buffers(queue, [1500, FRAME_MAX]);
  expect(queue.hasRoom).toBe(true);
  queue.deliver(frame(60));
  // It may take the first buffer alone.
  expect(queue.hasRoom).toBe(true);
  queue.deliver(frame(60));
  expect(queue.hasRoom).toBe(false);
  queue.stop();
  queue.deliver(frame(60));
  expect(queue.look()).toBe(false);
});
