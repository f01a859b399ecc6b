/** virtio-console against virtio 1.2, § 5.3. */
import { beforeEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Console, ConsoleRegisters, INPUT_MAX } from "./console.ts";
import { MockDriver } from "./mock-driver.ts";

const RECEIVE = 0;
const TRANSMIT = 1;
const [SIZE, EMERG_WRITE] = [0, 2];

let printed: number[] = [];
/** Bytes until the reader blocks. */
let room = Infinity;
let wanted = 0;
let driver: MockDriver<Console>;

const bytes = (text: string) => new TextEncoder().encode(text);
const text = (codes: ArrayLike<number> = printed) =>
  new TextDecoder().decode(Uint8Array.from(codes));

beforeEach(() => {
  printed = [];
  room = Infinity;
  wanted = 0;
  const backend = {
    output: (piece: Uint8Array) => {
      printed.push(...piece);
      room -= piece.length;
    },
    blocked: () => room <= 0,
    wanted: () => void wanted++,
  };
  driver = new MockDriver(
    (transport) => new Console(ConsoleRegisters.standalone(), transport, backend),
  );
});

test("has two queues of 64, and offers its size and emergency writes: § 5.3.2, § 5.3.3", () => {
  expect(driver.device.type).toBe(3);
  expect(driver.read(0x12, 2)).toBe(2);
  expect(driver.read(0x18, 2)).toBe(64);
  expect(driver.offered[0] & 0xffffff).toBe((1 << SIZE) | (1 << EMERG_WRITE));
});

describe("the configuration, § 5.3.4", () => {
  test("has columns, rows and one port", () => {
    driver.device.resize(132, 0x143);
    expect([driver.readConfig(0, 2), driver.readConfig(2, 2)]).toEqual([132, 0x143]);
    expect([driver.readConfig(4, 4), driver.readConfig(8, 4)]).toEqual([1, 0]);
  });

  test("announces another size to a driver that wants to know, and keeps it over a reset", () => {
    driver.start();
    const generation = driver.read(0x15, 1);
    driver.device.resize(80, 24);
    expect(driver.interrupted()).toEqual({ queue: false, config: true });
    expect(driver.read(0x15, 1)).not.toBe(generation);
    driver.device.resize(80, 24);
    expect(driver.interrupted().config).toBe(false);
    driver.start({ without: [SIZE] });
    driver.device.resize(81, 25);
    expect(driver.interrupted().config).toBe(false);
    driver.status = 0;
    expect(driver.readConfig(0, 4)).toBe((25 << 16) | 81);
  });

  test("takes emergency writes at any time: § 5.3.5.1", () => {
    driver.writeConfig(8, 4, 0x12345678);
    driver.start({ without: [EMERG_WRITE] });
    driver.writeConfig(8, 1, 0x41);
    driver.queues[TRANSMIT].offer(99);
    driver.queues[TRANSMIT].kick(true);
    expect(driver.needsReset).toBe(true);
    driver.writeConfig(8, 4, 0x42);
    expect(text()).toBe("xAB");
    // A blocked reader loses them: they can't wait.
    room = 0;
    driver.writeConfig(8, 4, 0x43);
    expect(text()).toBe("xAB");
  });

  test("takes nothing else", () => {
    for (const at of [0, 2, 4]) driver.writeConfig(at, 2, 7);
    expect([driver.readConfig(0, 4), driver.readConfig(4, 4)]).toEqual([0, 1]);
    expect(printed).toEqual([]);
  });
});

describe("output, § 5.3.6", () => {
  beforeEach(() => driver.start());

  test("leaves in its order, however it is cut", () => {
    const [, queue] = driver.queues;
    queue.add([bytes("one "), bytes("two "), bytes("")]);
    queue.add([bytes("x".repeat(3000))], { indirect: true });
    queue.add([]);
    queue.kick();
    expect(queue.used().map(({ written }) => written)).toEqual([0, 0, 0]);
    expect(text()).toBe(`one two ${"x".repeat(3000)}`);
    expect(driver.interrupted().queue).toBe(true);
  });

  test("in a buffer that the device should write is none: § 5.3.6.1", () => {
    expect(driver.queues[TRANSMIT].request([bytes("a"), 10]).written).toBe(0);
    expect(driver.queues[TRANSMIT].request([10]).written).toBe(0);
    expect(text()).toBe("a");
  });

  test("waits in the queue while its reader is blocked, and goes on from there", () => {
    const [, queue] = driver.queues;
    room = 1500;
    const first = queue.add([bytes("a".repeat(3000))]);
    const second = queue.add([bytes("b")]);
    queue.kick();
    expect(queue.used()).toEqual([]);
    const before = printed.length;
    expect(before).toBe(2048);
    driver.transport.poll();
    expect(printed).toHaveLength(before);
    room = 1;
    driver.transport.poll();
    expect(queue.used().map(({ head }) => head)).toEqual([first]);
    // Not announced, since chains waited; it is found nevertheless.
    const third = queue.add([bytes("c")]);
    queue.kick();
    room = 10;
    driver.transport.poll();
    expect(queue.used().map(({ head }) => head)).toEqual([second, third]);
    expect(text()).toBe(`${"a".repeat(3000)}bc`);
    // The next one is announced again.
    queue.add([bytes("d")]);
    expect(queue.kick()).toBe(true);
    expect(queue.used()).toHaveLength(1);
  });

  test("of one notification has an end", () => {
    const [, queue] = driver.queues;
    const all = { address: 0, length: driver.memory.size, writable: false };
    queue.add([all]);
    queue.kick();
    expect(printed).toHaveLength(65_536);
    driver.transport.poll();
    expect(printed).toHaveLength(2 * 65_536);
    // Half a chain is forgotten by a reset.
    driver.start();
    printed = [];
    driver.queues[TRANSMIT].request([bytes("new")]);
    expect(text()).toBe("new");
  });
});

describe("input, § 5.3.6", () => {
  beforeEach(() => driver.start());

  test("fills buffers as they are", () => {
    const [queue] = driver.queues;
    for (let i = 0; i < 3; i++) queue.add([2, 3]);
    queue.kick();
    expect(queue.used()).toEqual([]);
    expect(driver.device.input(bytes("hello, w"))).toBe(8);
    expect(driver.interrupted().queue).toBe(true);
    const used = queue.used();
    expect(used.map(({ written }) => written)).toEqual([5, 3]);
    expect(text(used[0].data)).toBe("hello");
    expect(text(used[1].data.subarray(0, 3))).toBe(", w");
    driver.device.input(bytes("o"));
    expect(queue.used()).toMatchObject([{ written: 1 }]);
  });

  test("waits for buffers, whose coming is announced", () => {
    const [queue] = driver.queues;
    driver.device.input(bytes("early"));
    queue.add([64]);
    expect(queue.kick()).toBe(true);
    expect(queue.used()).toMatchObject([{ written: 5 }]);
  });

  test("that waits has a bound; who was refused hears of room", () => {
    const [queue] = driver.queues;
    expect(driver.device.input(new Uint8Array(INPUT_MAX + 5))).toBe(INPUT_MAX);
    expect(driver.device.input(bytes("x"))).toBe(0);
    expect([driver.device.room, wanted]).toEqual([0, 0]);
    queue.add([10]);
    queue.kick();
    expect([driver.device.room, wanted]).toEqual([10, 1]);
    queue.add([10]);
    queue.kick();
    expect(wanted).toBe(1);
  });

  test("in a buffer that the device should read is none: § 5.3.6.1", () => {
    const [queue] = driver.queues;
    const head = queue.add([bytes("no room")]);
    queue.add([8]);
    driver.device.input(bytes("a"));
    expect(queue.used().map(({ head: h, written }) => [h === head, written])).toEqual([
      [true, 0],
      [false, 1],
    ]);
  });

  test("is taken only while a driver is there, and forgotten by a reset", () => {
    driver.device.input(bytes("lost"));
    driver.status = 0;
    expect(driver.device.input(bytes("refused"))).toBe(0);
    expect(wanted).toBe(0);
    driver.start();
    expect(wanted).toBe(1);
    driver.queues[RECEIVE].add([8]);
    driver.queues[RECEIVE].kick();
    expect(driver.queues[RECEIVE].used()).toEqual([]);
    driver.device.input(bytes("a"));
    expect(driver.queues[RECEIVE].used()).toMatchObject([{ written: 1 }]);
  });
});

test("whatever happens in which order, both streams arrive whole", () => {
  const chunk = fc.uint8Array({ maxLength: 3000 });
  const step = fc.oneof(
    fc.record({ out: fc.array(chunk, { minLength: 1, maxLength: 3 }), indirect: fc.boolean() }),
    fc.record({ in: chunk }),
    fc.record({ buffer: fc.array(fc.nat(2000), { minLength: 1, maxLength: 3 }) }),
    fc.record({ room: fc.nat(5000) }),
    fc.constant({ poll: true }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80, size: "max" }), fc.boolean(), (steps, plain) => {
      if (plain) driver.startPlain();
      else driver.start();
      const [receive, transmit] = driver.queues;
      printed = [];
      room = 0;
      const typed: number[] = [];
      const received: number[] = [];
      const said: number[] = [];
      const collect = () => {
        transmit.used();
        for (const { data, written } of receive.used()) received.push(...data.subarray(0, written));
      };
      for (const step of steps) {
        if ("out" in step && transmit.room >= 3) {
          transmit.add(step.out, { indirect: step.indirect && !plain });
          transmit.kick();
          for (const part of step.out) said.push(...part);
        } else if ("in" in step) {
          const taken = driver.device.input(step.in);
          typed.push(...step.in.subarray(0, taken));
        } else if ("buffer" in step && receive.room >= 3) {
          receive.add(step.buffer);
          receive.kick();
        } else if ("room" in step) {
          room = step.room;
        } else {
          driver.transport.poll();
        }
        collect();
      }
      room = Infinity;
      for (let i = 0; i < 10; i++) driver.transport.poll();
      collect();
      expect(transmit.out).toBe(0);
      expect(Buffer.from(printed).equals(Buffer.from(said))).toBe(true);
      while (received.length < typed.length) {
        receive.add([2000]);
        expect(receive.kick()).toBe(true);
        collect();
      }
      expect(Buffer.from(received).equals(Buffer.from(typed))).toBe(true);
      expect(driver.broke).toEqual([]);
    }),
    { seed: 20270106, numRuns: 100 },
  );
});
