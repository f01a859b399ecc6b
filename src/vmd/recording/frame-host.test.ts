/** Descriptors of recorded interfaces: sockets with bounds, and streams. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { closeSync } from "node:fs";
import { GuestMemory } from "../../vmm/memory.ts";
import { processLibrary, ptr, socketPair } from "../../vmm/native.ts";
import { NetKind } from "../../vmm/net-port.ts";
import { Chain } from "../virtio/chain.ts";
import { DescriptorFrames } from "./frame-host.ts";

const HEADER = 12;
let ends: number[] = [];

function pair(stream: boolean): void {
  ends = socketPair(stream);
}

beforeEach(() => {
  ends = [];
});
afterEach(() => {
  for (const end of ends) closeSync(end);
});

function write(bytes: Uint8Array): void {
  expect(Number(processLibrary().vmm_write(ends[1], ptr(bytes), bytes.length))).toBe(bytes.length);
}

function read(): Uint8Array {
  const bytes = new Uint8Array(100_000);
  const length = Number(processLibrary().vmm_read(ends[1], ptr(bytes), bytes.length));
  return bytes.slice(0, Math.max(0, length));
}

/** A frame of the guest's, behind a header of 12 bytes. */
function send(host: DescriptorFrames, frame: Uint8Array, skip = HEADER): void {
  const memory = GuestMemory.standalone(2 ** 17);
  const header = new Uint8Array(HEADER + 14).fill(7);
  header.set(frame.subarray(0, 14), HEADER);
  memory.write(0, header.subarray(0, HEADER));
  memory.write(HEADER, frame);
  const chain = new Chain(memory);
  chain.clear(0);
  chain.add(0, HEADER + frame.length, false, 0);
  host.send(header.subarray(0, skip), chain, skip);
}

const frame = (length: number, from = 0) => Uint8Array.from({ length }, (_, i) => (from + i) % 251);
const prefixed = (bytes: Uint8Array) => {
  const whole = new Uint8Array(4 + bytes.length);
  new DataView(whole.buffer).setUint32(0, bytes.length);
  whole.set(bytes, 4);
  return whole;
};

test("a socket that keeps bounds has headers", () => {
  pair(false);
  const host = new DescriptorFrames(ends[0], NetKind.PACKET, undefined, () => {});
  host.start({ checksum: true, tso4: false, tso6: false });
  expect(read()).toHaveLength(4);
  for (const skip of [HEADER, HEADER + 14]) {
    send(host, frame(60), skip);
    const sent = read();
    expect(sent.subarray(0, HEADER)).toEqual(new Uint8Array(HEADER).fill(7));
    expect(sent.subarray(HEADER)).toEqual(frame(60));
  }
  expect(host.receive()).toBeUndefined();
  write(frame(12)); // a header without a frame
  write(frame(100));
  expect(host.receive()).toEqual(frame(100));
  expect(host.receive()).toBeUndefined();
});

test("a stream has lengths, in pieces of any size", () => {
  pair(true);
  const host = new DescriptorFrames(ends[0], NetKind.STREAM, undefined, () => {});
  expect(host.offloads).toBe(false);
  send(host, frame(60));
  send(host, frame(1514, 3));
  expect(read()).toEqual(Buffer.concat([prefixed(frame(60)), prefixed(frame(1514, 3))]));
  const came = Buffer.concat([prefixed(frame(42)), prefixed(frame(900, 5)), prefixed(frame(14))]);
  const got: Uint8Array[] = [];
  for (let at = 0; at < came.length; at += 37) {
    write(came.subarray(at, at + 37));
    for (let one = host.receive(); one !== undefined; one = host.receive()) got.push(one);
  }
  expect(got.map((one) => one.subarray(HEADER))).toEqual([frame(42), frame(900, 5), frame(14)]);
  expect(got.every((one) => one.subarray(0, HEADER).every((byte) => byte === 0))).toBe(true);
});

test("an answer of this host's own comes as a frame does", () => {
  pair(false);
  let told = 0;
  const answer = (asked: Uint8Array) => (asked.length === 20 ? frame(30, 9) : undefined);
  const host = new DescriptorFrames(ends[0], NetKind.PACKET, answer, () => told++);
  send(host, frame(20));
  send(host, frame(21));
  expect(told).toBe(1);
  expect(read().subarray(HEADER)).toEqual(frame(21));
  expect(host.receive()?.subarray(HEADER)).toEqual(frame(30, 9));
  expect(host.receive()).toBeUndefined();
});
