/** virtio-scsi against virtio 1.2, § 5.6, with a backend that answers when the test wants it. */
import { beforeEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Chain } from "./chain.ts";
import { ScsiResponse, TaskFunction } from "./scsi-control.ts";
import { type CdromBackend, Scsi, ScsiRegisters } from "./scsi.ts";
import { MockDriver, type Used } from "./mock-driver.ts";

const BLOCKS = 100;
const HEADER = 12 + 96;

/** Each block is full of its own number. */
class Disc implements CdromBackend {
  size = BLOCKS * 2048;
  later = false;
  readonly waiting: ((ok: boolean) => void)[] = [];
  chain: Chain | undefined;

  read(offset: number, chain: Chain, at: number, length: number, done: (ok: boolean) => void) {
    this.chain = chain;
    const finish = (ok: boolean) => {
      const bytes = Uint8Array.from({ length }, (_, i) => Math.floor((offset + i) / 2048));
      if (ok) chain.write(at, bytes);
      done(ok);
    };
    if (this.later) this.waiting.push(finish);
    else finish(true);
  }
}

let disc: Disc;
let driver: MockDriver<Scsi>;
const [CONTROL, EVENT, REQUEST] = [0, 1, 2];
const FUNCTIONS = Object.values(TaskFunction);

beforeEach(() => {
  disc = new Disc();
  driver = new MockDriver(
    (transport) => new Scsi(ScsiRegisters.standalone(), transport, disc),
    2 ** 23,
  );
  driver.start();
});

const UNIT = [1, 0, 0x40, 0, 0, 0, 0, 0];
const request = (cdb: number[], { id = 1, lun = UNIT, cdbSize = 32 } = {}) => {
  const bytes = new Uint8Array(19 + cdbSize);
  bytes.set(lun);
  bytes[8] = id;
  bytes.set(cdb, 19);
  return bytes;
};
const read10 = (block: number, count: number) => [0x28, 0, 0, 0, 0, block, 0, 0, count];
const view = ({ data }: Used) => new DataView(data.buffer);
const response = (used: Used) => used.data[11];
const status = (used: Used) => used.data[10];
const residual = (used: Used) => view(used).getUint32(4, true);
const sense = (used: Used) => [...used.data.subarray(12, 12 + view(used).getUint32(0, true))];
const send = (bytes: Uint8Array, room = 0, senseSize = 96) =>
  driver.queues[REQUEST].request([bytes, 12 + senseSize, room]);
const tmf = (subtype: number, { id = 0, lun = UNIT } = {}) => {
  const bytes = new Uint8Array(24);
  bytes[4] = subtype;
  bytes.set(lun, 8);
  bytes[16] = id;
  return bytes;
};
const control = (bytes: Uint8Array, room = 1) => driver.queues[CONTROL].request([bytes, room]);

describe("the configuration, § 5.6.4", () => {
  const words = () => [0, 4, 8, 12, 16, 20, 24, 28, 32].map((at) => driver.readConfig(at, 4));

  test("is 36 bytes", () => {
    expect(words()).toEqual([1, 126, 8192, 1, 0, 96, 32, 0x10000, 1]);
    expect(driver.read(0x12, 2)).toBe(3);
    driver.write(0x16, 2, REQUEST);
    expect(driver.read(0x18, 2)).toBe(128);
  });

  test("takes sizes of sense data and commands, and forgets them at a reset", () => {
    driver.writeConfig(20, 4, 18);
    driver.writeConfig(24, 4, 16);
    for (const at of [0, 4, 8, 12, 16, 28, 32]) driver.writeConfig(at, 4, 77);
    driver.writeConfig(20, 4, 253);
    driver.writeConfig(24, 4, 261);
    driver.writeConfig(20, 1, 3);
    expect(words()).toEqual([1, 126, 8192, 1, 0, 18, 16, 0x10000, 1]);
    driver.status = 0;
    expect(words().slice(5, 7)).toEqual([96, 32]);
  });
});

describe("requests, § 5.6.6.1", () => {
  test("are answered with data behind the sense area", () => {
    const used = send(request([0x12, 0, 0, 0, 96]), 96);
    expect([response(used), status(used), residual(used)]).toEqual([0, 0, 60]);
    expect(sense(used)).toEqual([]);
    expect(used.written).toBe(HEADER + 36);
    expect(String.fromCharCode(...used.data.subarray(HEADER + 8, HEADER + 36))).toContain("CD-ROM");
  });

  test("read the disc", () => {
    const used = send(request(read10(7, 2)), 5000);
    expect([response(used), status(used), residual(used)]).toEqual([0, 0, 5000 - 4096]);
    expect(used.written).toBe(HEADER + 4096);
    expect(used.data[HEADER]).toBe(7);
    expect(used.data[HEADER + 4095]).toBe(8);
    expect(used.data[HEADER + 4096]).toBe(0);
    expect(driver.interrupted().queue).toBe(true);
  });

  test("say what they aren't", () => {
    const used = send(request([0xff]));
    expect([response(used), status(used)]).toEqual([0, 2]);
    expect(sense(used)).toHaveLength(18);
    expect(sense(used).slice(0, 14)).toEqual([0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0]);
  });

  test("with less room than the data needs are an overrun, and have no effect", () => {
    expect(response(send(request(read10(7, 2)), 4095))).toBe(ScsiResponse.OVERRUN);
    expect(response(send(request([0x12, 0, 0, 0, 96]), 35))).toBe(ScsiResponse.OVERRUN);
    // The allocation length is no data.
    expect(response(send(request([0x12, 0, 0, 0, 96]), 36))).toBe(ScsiResponse.OK);
    expect(disc.chain).toBeUndefined();
  });

  test("in both directions fail: F_INOUT isn't offered", () => {
    const both = driver.queues[REQUEST].request([request([0x00]), new Uint8Array(5), HEADER + 5]);
    expect(response(both)).toBe(ScsiResponse.FAILURE);
    const out = driver.queues[REQUEST].request([request([0x00]), new Uint8Array(5), HEADER]);
    expect(response(out)).toBe(ScsiResponse.OK);
    expect(residual(out)).toBe(0);
  });

  test("go to target 0 and LUN 0, in either format, or the well-known unit", () => {
    const to = (...lun: number[]) => response(send(request([0x00], { lun })));
    expect([to(1, 0, 0x40, 0), to(1, 0, 0, 0)]).toEqual([0, 0]);
    expect(to(0xc1, 1)).toBe(0);
    for (const lun of [[0], [2, 0, 0, 0], [1, 1, 0x40, 0], [1, 0, 0x40, 1], [1, 0, 0xc0, 0]]) {
      expect(to(...lun)).toBe(ScsiResponse.BAD_TARGET);
    }
  });

  test("follow the sizes that the driver chose", () => {
    driver.writeConfig(20, 4, 4);
    driver.writeConfig(24, 4, 6);
    const used = send(request([0xff], { cdbSize: 6 }), 0, 4);
    expect(sense(used)).toEqual([0x70, 0, 5, 0]);
    expect(used.written).toBe(16);
    // Bytes that a command of 6 doesn't have are 0, whatever comes behind: it reads 0 blocks.
    const short = request([0x28, 0, 0, 0, 0, 9], { cdbSize: 6 });
    expect(residual(send(short, 100, 4))).toBe(100);
    driver.writeConfig(20, 4, 252);
    expect(send(request([0xff], { cdbSize: 6 }), 0, 252).written).toBe(264);
  });

  test("that are cut anywhere mean the same: § 2.7.4.1", () => {
    const bytes = request(read10(3, 1));
    const used = driver.queues[REQUEST].request(
      [bytes.slice(0, 1), bytes.slice(1, 30), bytes.slice(30), 5, 100, 3 + 2000, 48],
      { indirect: true },
    );
    expect(response(used)).toBe(0);
    expect(used.data.subarray(HEADER)).toEqual(new Uint8Array(2048).fill(3));
  });

  test("too short fail; those that can't be told so break the queue", () => {
    const queue = driver.queues[REQUEST];
    const short = queue.request([new Uint8Array(50), HEADER]);
    expect([response(short), short.written]).toEqual([ScsiResponse.FAILURE, HEADER]);
    const narrow = queue.request([request([0]), 20]);
    expect([response(narrow), narrow.written]).toEqual([ScsiResponse.FAILURE, 20]);
    expect(driver.needsReset).toBe(false);
    queue.add([request([0]), 11]);
    queue.kick();
    expect(queue.used()).toEqual([]);
    expect(driver.needsReset).toBe(true);
    driver.start();
    expect(response(send(request([0])))).toBe(0);
  });

  test("lock the tray until a reset", () => {
    const locked = () => (send(request([0x1a, 0, 0x2a, 0, 255]), 255).data[HEADER + 10] & 2) !== 0;
    send(request([0x1e, 0, 0, 0, 1]));
    expect(locked()).toBe(true);
    driver.start();
    expect(locked()).toBe(false);
  });
});

describe("reads that take their time", () => {
  const add = (id: number, block = id) =>
    driver.queues[REQUEST].add([request(read10(block, 1), { id }), HEADER, 2048]);
  const start = (...ids: number[]) => {
    disc.later = true;
    const heads = ids.map((id) => add(id));
    driver.queues[REQUEST].kick();
    return heads;
  };

  test("come back in any order", () => {
    const heads = start(1, 2, 3);
    expect(driver.device.outstanding).toBe(3);
    expect(driver.queues[REQUEST].used()).toEqual([]);
    disc.waiting[1](true);
    const [second] = driver.queues[REQUEST].used();
    expect([second.head, second.data[HEADER]]).toEqual([heads[1], 2]);
    expect(driver.interrupted().queue).toBe(true);
    disc.waiting[2](true);
    disc.waiting[0](true);
    expect(driver.queues[REQUEST].used().map(({ head }) => head)).toEqual([heads[2], heads[0]]);
    expect(driver.device.outstanding).toBe(0);
  });

  test("that go wrong are an error of the medium", () => {
    start(1);
    disc.waiting[0](false);
    const [used] = driver.queues[REQUEST].used();
    expect([response(used), status(used), residual(used)]).toEqual([0, 2, 2048]);
    expect([sense(used)[2], sense(used)[12]]).toEqual([3, 0x11]);
    expect(used.written).toBe(HEADER);
  });

  test("leave others alone: what is answered at once overtakes them", () => {
    start(1);
    expect(response(send(request([0])))).toBe(0);
  });

  test("are forgotten by a reset, and reach the memory no more", () => {
    start(1, 2);
    driver.start();
    expect(driver.device.outstanding).toBe(0);
    const before = Bun.hash(snapshot());
    for (const finish of disc.waiting.splice(0)) finish(true);
    expect(Bun.hash(snapshot())).toBe(before);
    expect(driver.queues[REQUEST].used()).toEqual([]);
    start(5);
    disc.waiting[0](true);
    expect(driver.queues[REQUEST].used()[0].data[HEADER]).toBe(5);
  });

  test("said to be done twice come back once", () => {
    start(1, 2);
    disc.waiting[0](true);
    disc.waiting[0](true);
    expect(driver.queues[REQUEST].used()).toHaveLength(1);
  });

  test("of a queue that broke aren't given back", () => {
    start(1);
    driver.queues[REQUEST].offer(999);
    driver.queues[REQUEST].kick(true);
    expect(driver.needsReset).toBe(true);
    // The backend may still write its data, but nothing answers it.
    let written = 0;
    const end = driver.memory.observeWrites((_, length) => void (written += length));
    disc.waiting[0](true);
    end();
    expect(written).toBe(2048);
    expect(driver.queues[REQUEST].used()).toEqual([]);
  });

  describe("and task management, § 5.6.6.2", () => {
    test("a task that is aborted comes back before the function", () => {
      const [first] = start(1, 2);
      const head = driver.queues[CONTROL].add([tmf(TaskFunction.ABORT_TASK, { id: 1 }), 1]);
      driver.queues[CONTROL].kick();
      expect(driver.queues[CONTROL].used()).toEqual([]);
      disc.waiting[0](true);
      const [used] = driver.queues[REQUEST].used();
      expect([used.head, response(used)]).toEqual([first, ScsiResponse.ABORTED]);
      expect(driver.queues[CONTROL].used()).toMatchObject([{ head, written: 1 }]);
      disc.waiting[1](true);
      expect(response(driver.queues[REQUEST].used()[0])).toBe(ScsiResponse.OK);
    });

    test("functions behind one that waits wait, too", () => {
      start(1, 2);
      const parts = [TaskFunction.LOGICAL_UNIT_RESET, TaskFunction.QUERY_TASK_SET];
      for (const subtype of parts) driver.queues[CONTROL].add([tmf(subtype), 1]);
      driver.queues[CONTROL].kick();
      driver.transport.poll();
      disc.waiting[0](true);
      expect(driver.queues[CONTROL].used()).toEqual([]);
      disc.waiting[1](false);
      const used = driver.queues[REQUEST].used();
      expect(used.map(response)).toEqual([ScsiResponse.RESET, ScsiResponse.RESET]);
      const answers = driver.queues[CONTROL].used().map(({ data }) => data[0]);
      expect(answers).toEqual([ScsiResponse.FUNCTION_COMPLETE, ScsiResponse.FUNCTION_COMPLETE]);
    });

    test("tasks are asked about", () => {
      start(1);
      const { FUNCTION_SUCCEEDED, FUNCTION_COMPLETE } = ScsiResponse;
      const ask = (subtype: number, id = 0) => control(tmf(subtype, { id })).data[0];
      expect(ask(TaskFunction.QUERY_TASK, 1)).toBe(FUNCTION_SUCCEEDED);
      expect(ask(TaskFunction.QUERY_TASK, 2)).toBe(FUNCTION_COMPLETE);
      expect(ask(TaskFunction.QUERY_TASK_SET)).toBe(FUNCTION_SUCCEEDED);
      disc.waiting[0](true);
      expect(ask(TaskFunction.QUERY_TASK_SET)).toBe(FUNCTION_COMPLETE);
    });

    test("a reset forgets a function that waits", () => {
      start(1);
      driver.queues[CONTROL].add([tmf(TaskFunction.ABORT_TASK_SET), 1]);
      driver.queues[CONTROL].kick();
      driver.start();
      disc.waiting[0](true);
      expect(driver.queues[CONTROL].used()).toEqual([]);
      for (const subtype of FUNCTIONS) control(tmf(subtype));
    });
  });
});

function snapshot(): Uint8Array {
  const bytes = new Uint8Array(driver.memory.size);
  driver.memory.read(0, bytes);
  return bytes;
}

describe("the control queue, § 5.6.6.2", () => {
  test("every function with nothing to do is complete; CLEAR ACA and others are rejected", () => {
    const { FUNCTION_COMPLETE, FUNCTION_REJECTED } = ScsiResponse;
    const answers = [...FUNCTIONS, 8].map((subtype) => control(tmf(subtype)).data[0]);
    expect(answers).toEqual([
      ...[FUNCTION_COMPLETE, FUNCTION_COMPLETE, FUNCTION_REJECTED, FUNCTION_COMPLETE],
      ...[FUNCTION_COMPLETE, FUNCTION_COMPLETE, FUNCTION_COMPLETE, FUNCTION_COMPLETE],
      FUNCTION_REJECTED,
    ]);
  });

  test("other targets aren't there, nor other units: but a target has one address", () => {
    const to = (subtype: number, lun: number[]) => control(tmf(subtype, { lun })).data[0];
    const { LOGICAL_UNIT_RESET, I_T_NEXUS_RESET } = TaskFunction;
    expect(to(LOGICAL_UNIT_RESET, [1, 1, 0x40, 0])).toBe(ScsiResponse.BAD_TARGET);
    expect(to(LOGICAL_UNIT_RESET, [1, 0, 0x40, 1])).toBe(ScsiResponse.INCORRECT_LUN);
    expect(to(I_T_NEXUS_RESET, [1, 0, 0x40, 1])).toBe(ScsiResponse.FUNCTION_COMPLETE);
    expect(to(I_T_NEXUS_RESET, [1, 1, 0, 0])).toBe(ScsiResponse.BAD_TARGET);
  });

  test("no events can be had", () => {
    const an = (type: number, lun = UNIT) => {
      const bytes = new Uint8Array(16);
      bytes[0] = type;
      bytes.set(lun, 4);
      bytes[12] = 0x7e;
      return [...control(bytes, 5).data];
    };
    expect(an(1)).toEqual([0, 0, 0, 0, 0]);
    expect(an(2)).toEqual([0, 0, 0, 0, 0]);
    expect(an(2, [1, 9, 0, 0])).toEqual([0, 0, 0, 0, ScsiResponse.BAD_TARGET]);
    expect(an(1, [1, 0, 0, 9])).toEqual([0, 0, 0, 0, ScsiResponse.INCORRECT_LUN]);
    expect(an(3)).toEqual([0, 0, 0, 0, ScsiResponse.FAILURE]);
  });

  test("too short fails, or breaks the queue", () => {
    expect(control(tmf(0).slice(0, 23)).data[0]).toBe(ScsiResponse.FAILURE);
    driver.queues[CONTROL].add([tmf(0)]);
    driver.queues[CONTROL].kick();
    expect(driver.needsReset).toBe(true);
  });
});

test("events' buffers stay where they are: § 5.6.6.3", () => {
  for (let i = 0; i < 8; i++) driver.queues[EVENT].add([16]);
  driver.queues[EVENT].kick();
  driver.transport.poll();
  expect(driver.queues[EVENT].used()).toEqual([]);
  expect(driver.needsReset).toBe(false);
});

test("whatever is asked, each chain comes back once, and the device goes on", () => {
  const opcode = fc.constantFrom(0x00, 0x03, 0x08, 0x12, 0x1a, 0x25, 0x28, 0x43, 0x46, 0xa8, 0xff);
  const step = fc.oneof(
    fc.record({ queue: fc.constant(REQUEST), opcode, id: fc.nat(5), room: fc.nat(5000) }),
    fc.record({ queue: fc.constant(CONTROL), subtype: fc.nat(9), id: fc.nat(5) }),
    fc.record({ finish: fc.nat(9), ok: fc.boolean() }),
    fc.record({ reset: fc.constant(true) }),
  );
  const bytes = fc.uint8Array({ minLength: 9, maxLength: 9 });
  fc.assert(
    fc.property(fc.array(fc.tuple(step, bytes), { maxLength: 60, size: "max" }), (steps) => {
      driver.start();
      disc.waiting.length = 0;
      disc.later = true;
      const collect = () => driver.queues.forEach((queue) => void queue.used());
      for (const [step, rest] of steps) {
        if ("reset" in step) {
          driver.start();
        } else if ("finish" in step) {
          const [finish] = disc.waiting.splice(step.finish % (disc.waiting.length + 1), 1);
          finish?.(step.ok);
        } else if ("opcode" in step) {
          // Blocks that exist, mostly.
          const cdb = [step.opcode, rest[0], 0, 0, 0, rest[4], rest[5], 0, rest[7] & 3, rest[8]];
          driver.queues[REQUEST].add([request(cdb, step), HEADER, step.room]);
          driver.queues[REQUEST].kick();
        } else {
          driver.queues[CONTROL].add([tmf(step.subtype, step), 1]);
          driver.queues[CONTROL].kick();
        }
        collect();
      }
      while (disc.waiting.length > 0) disc.waiting.pop()!(true);
      driver.transport.poll();
      collect();
      expect(driver.queues.map(({ out }) => out)).toEqual([0, 0, 0]);
      expect(driver.device.outstanding).toBe(0);
      expect(driver.broke).toEqual([]);
    }),
    { seed: 20270104, numRuns: 300 },
  );
});

test("a request over its own rings ends", () => {
  disc.later = false;
  fc.assert(
    fc.property(fc.nat(12_000), fc.nat(30_000), (start, length) => {
      driver.start();
      const queue = driver.queues[REQUEST];
      const address = queue.descriptors + start;
      for (let i = 0; i < 3; i++) {
        queue.add([request(read10(i, 2)), { address, length: length + 12, writable: true }]);
      }
      queue.kick(true);
      for (let i = 0; i < 3; i++) driver.transport.poll();
      driver.start();
      expect(response(send(request([0])))).toBe(0);
    }),
    { seed: 20270105, numRuns: 200 },
  );
});
