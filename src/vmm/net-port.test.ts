/** The thread that moves frames: between guest memory and both kinds of socket. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { closeSync } from "node:fs";
import { MachineImage } from "./image.ts";
import { processLibrary, ptr, socketPair } from "./native.ts";
import { NetKind, NetPort } from "./net-port.ts";

let image: MachineImage;
beforeAll(() => {
  image = new MachineImage([{ base: 0, size: 2 ** 22, readonly: false }]);
});
afterAll(() => image[Symbol.dispose]());

const write = (fd: number, bytes: Uint8Array) =>
  Number(processLibrary().vmm_write(fd, ptr(bytes), bytes.length));

function read(fd: number, size = 70_000): Uint8Array | undefined {
  const bytes = new Uint8Array(size);
  const count = Number(processLibrary().vmm_read(fd, ptr(bytes), size));
  return count < 0 ? undefined : bytes.slice(0, count);
}

async function until<T>(get: () => T | undefined | false): Promise<T> {
  for (let i = 0; i < 5000; i++) {
    const found = get();
    if (found !== undefined && found !== false) return found;
    await Bun.sleep(1);
  }
  throw new Error("it did not come");
}

/** Bytes that tell of their place. */
const pattern = (length: number, seed = 0) =>
  Uint8Array.from({ length }, (_, i) => (i * 7 + seed) & 0xff);

function send(port: NetPort, header: Uint8Array, at: number, bytes: Uint8Array, cuts = 1): boolean {
  image.memory.write(at, bytes);
  port.prepareSend(header);
  const step = Math.ceil(bytes.length / cuts);
  for (let i = 0; i < bytes.length; i += step) {
    port.addSegment(image.memory.pointer(at + i, 1), Math.min(step, bytes.length - i));
  }
  const gone = port.send(header.length + bytes.length);
  port.flush();
  return gone;
}

function offer(port: NetPort, at: number, length: number): void {
  port.prepareBuffer();
  port.addSegment(image.memory.pointer(at, length), length);
  port.offer();
}

const bytes = (at: number, length: number) => {
  const into = new Uint8Array(length);
  image.memory.read(at, into);
  return into;
};

test("packets go out as they are, short and long, and come into the buffers in order", async () => {
  const [ours, theirs] = socketPair(false);
  const port = new NetPort(ours, NetKind.PACKET);
  port.start(true);
  const header = pattern(12, 3);
  // A short one goes at once, once the thread sleeps.
  await Bun.sleep(20);
  expect(send(port, header, 0x1000, pattern(100))).toBe(true);
  expect(read(theirs)).toEqual(Uint8Array.from([...header, ...pattern(100)]));
  // A long one only where another processor could not do it meanwhile.
  const gone = send(port, header, 0x1000, pattern(60_000), 20);
  expect(await until(() => read(theirs))).toEqual(Uint8Array.from([...header, ...pattern(60_000)]));
  if (!gone) await until(() => port.sent() === 1);

  for (let i = 0; i < 8; i++) offer(port, 0x10000 + 0x1000 * i, 0x1000);
  port.flush();
  write(theirs, pattern(200, 1));
  write(theirs, pattern(10_000, 2));
  await until(() => port.receive());
  expect([port.length, port.buffers]).toEqual([200, 1]);
  expect(bytes(0x10000, 200)).toEqual(pattern(200, 1));
  await until(() => port.receive());
  expect([port.length, port.buffers]).toEqual([10_000, 3]);
  expect(bytes(0x11000, 10_000)).toEqual(pattern(10_000, 2));
  closeSync(theirs);
});

for (const stream of [false, true]) {
  const kind = stream ? NetKind.STREAM : NetKind.PACKET;
  // What stands before a frame on the wire, and how long that is.
  const wire = (frame: Uint8Array) =>
    stream ? Uint8Array.from([0, 0, frame.length >> 8, frame.length & 0xff, ...frame]) : frame;
  const header = stream ? 12 : 0;

  test(`a ${stream ? "stream's frame" : "packet"} that is longer than the buffers waits for more`, async () => {
    const [ours, theirs] = socketPair(stream);
    const port = new NetPort(ours, kind);
    port.start(true);
    const frame = pattern(10_000, 7);
    offer(port, 0x80000, 0x1000);
    port.flush();
    write(theirs, wire(frame));
    write(theirs, wire(pattern(60)));
    await Bun.sleep(20);
    expect(port.receive()).toBe(false);
    offer(port, 0x81000, 0x1000);
    port.flush();
    await Bun.sleep(20);
    expect(port.receive()).toBe(false);
    for (const at of [0x82000, 0x83000]) offer(port, at, 0x1000);
    port.flush();
    await until(() => port.receive());
    expect([port.length, port.buffers]).toEqual([header + 10_000, 3]);
    expect(bytes(0x80000 + header, 10_000)).toEqual(frame);
    await until(() => port.receive());
    expect([port.length, port.buffers]).toEqual([header + 60, 1]);
    closeSync(theirs);
  });

  test(`a ${stream ? "stream's frame" : "packet"} for which no more buffers come is cut`, async () => {
    const [ours, theirs] = socketPair(stream);
    const port = new NetPort(ours, kind);
    port.start(true);
    for (const at of [0x90000, 0x91000]) offer(port, at, 0x1000);
    port.flush();
    write(theirs, wire(pattern(10_000)));
    write(theirs, wire(pattern(9_000, 1)));
    await until(() => port.receive());
    expect([port.length, port.buffers]).toEqual([0x2000, 2]);
    expect(bytes(0x90000 + header, 0x2000 - header)).toEqual(pattern(0x2000 - header));
    // The next one waits again.
    for (const at of [0x90000, 0x91000]) offer(port, at, 0x1000);
    port.flush();
    await Bun.sleep(20);
    expect(port.receive()).toBe(false);
    offer(port, 0x92000, 0x1000);
    port.flush();
    await until(() => port.receive());
    expect([port.length, port.buffers]).toEqual([header + 9_000, 3]);
    closeSync(theirs);
  });
}

test("stopped while a packet waits for buffers, it forgets that one", async () => {
  const [ours, theirs] = socketPair(false);
  const port = new NetPort(ours, NetKind.PACKET);
  port.start(true);
  offer(port, 0xa0000, 0x1000);
  port.flush();
  write(theirs, pattern(5000));
  await Bun.sleep(20);
  port.stop();
  port.start(true);
  offer(port, 0xa1000, 0x1000);
  port.flush();
  write(theirs, pattern(100, 9));
  await until(() => port.receive());
  expect([port.length, port.buffers]).toEqual([100, 1]);
  expect(bytes(0xa1000, 100)).toEqual(pattern(100, 9));
  closeSync(theirs);
});

test("without merged buffers a packet takes one", async () => {
  const [ours, theirs] = socketPair(false);
  const port = new NetPort(ours, NetKind.PACKET);
  port.start(false);
  offer(port, 0x20000, 100);
  offer(port, 0x21000, 100);
  port.flush();
  write(theirs, pattern(300));
  await until(() => port.receive());
  expect([port.length, port.buffers]).toEqual([100, 1]);
  closeSync(theirs);
});

test("a stream has a length before each frame, and no header", async () => {
  const [ours, theirs] = socketPair(true);
  const port = new NetPort(ours, NetKind.STREAM);
  port.start(true);
  const frame = pattern(1500);
  send(port, new Uint8Array(12), 0x1000, frame, 3);
  expect(await until(() => read(theirs))).toEqual(Uint8Array.from([0, 0, 5, 220, ...frame]));
  await until(() => port.sent() === 1);

  for (let i = 0; i < 4; i++) offer(port, 0x30000 + 0x1000 * i, 0x1000);
  port.flush();
  // Cut where it hurts.
  const stream = Uint8Array.from([
    0,
    0,
    0,
    60,
    ...pattern(60, 1),
    0,
    0,
    5,
    220,
    ...pattern(1500, 2),
  ]);
  for (const [from, to] of [
    [0, 2],
    [2, 30],
    [30, 70],
    [70, stream.length],
  ]) {
    write(theirs, stream.subarray(from, to));
    await Bun.sleep(5);
  }
  await until(() => port.receive());
  expect(port.length).toBe(72);
  expect(bytes(0x30000 + 12, 60)).toEqual(pattern(60, 1));
  await until(() => port.receive());
  expect(port.length).toBe(1512);
  expect(bytes(0x31000, 12)).toEqual(new Uint8Array(12));
  closeSync(theirs);
  await until(() => port.ended !== 0);
});

test("a stream that speaks nonsense ends", async () => {
  const [ours, theirs] = socketPair(true);
  const port = new NetPort(ours, NetKind.STREAM);
  port.start(true);
  offer(port, 0x40000, 0x1000);
  port.flush();
  write(theirs, new Uint8Array(100).fill(0xff));
  await until(() => port.ended !== 0);
  closeSync(theirs);
});

test("a frame of the host's own comes between the others", async () => {
  const [ours, theirs] = socketPair(false);
  const port = new NetPort(ours, NetKind.PACKET);
  port.start(true);
  offer(port, 0x50000, 0x1000);
  port.flush();
  expect(port.inject(pattern(300, 5))).toBe(true);
  await until(() => port.receive());
  expect(port.length).toBe(312);
  expect(bytes(0x5000c, 300)).toEqual(pattern(300, 5));
  // So many wait, and no more.
  let count = 0;
  while (port.inject(pattern(60))) count++;
  expect(count).toBe(16);
  closeSync(theirs);
});

test("stopped, it touches nothing; started again, its rings are empty", async () => {
  const [ours, theirs] = socketPair(false);
  const port = new NetPort(ours, NetKind.PACKET);
  for (let round = 0; round < 50; round++) {
    port.start(true);
    for (let i = 0; i < 4; i++) offer(port, 0x60000 + 0x1000 * i, 0x1000);
    port.flush();
    write(theirs, pattern(100, round));
    if (round % 2 === 0) await until(() => port.receive());
    port.stop();
    expect(port.stopped).toBe(true);
    image.memory.fill(0x60000, 0x4000, 0);
    write(theirs, pattern(100));
    await Bun.sleep(1);
    expect(bytes(0x60000, 0x4000).every((byte) => byte === 0)).toBe(true);
    expect(port.receive()).toBe(false);
    // What came meanwhile is the next driver's.
    port.start(true);
    offer(port, 0x70000, 0x1000);
    port.flush();
    await until(() => port.receive());
    port.stop();
  }
  closeSync(theirs);
});
