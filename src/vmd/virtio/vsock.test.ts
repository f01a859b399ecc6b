/** virtio-vsock against virtio 1.2, § 5.10. */
import { beforeEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { MockDriver } from "./mock-driver.ts";
import { READ_END, READ_GONE, type VsockBackend } from "./vsock-backend.ts";
import { VsockHeader, VsockOp as Op } from "./vsock-packet.ts";
import { VsockRegisters } from "./vsock-table.ts";
import { BUFFER, Vsock } from "./vsock.ts";

const [RECEIVE, TRANSMIT] = [0, 1];
const CID = 42;
const PORT = 1234;
const GUEST_PORT = 5000;

interface Packet {
  op: number;
  type: number;
  src: [cid: number, port: number];
  dst: [cid: number, port: number];
  flags: number;
  bufAlloc: number;
  fwdCnt: number;
  data: Uint8Array;
}

/** A host whose sockets take `space` bytes, and have what is put into `coming`. */
class MockHost implements VsockBackend {
  readonly open = new Map<number, { taken: number[]; coming: Uint8Array[]; end: number }>();
  readonly said: string[] = [];
  space = Infinity;
  accepts = true;
  driver!: MockDriver<Vsock>;

  attach(): void {}
  add(key: number) {
    const connection = { taken: [] as number[], coming: [] as Uint8Array[], end: 0 };
    this.open.set(key, connection);
    return connection;
  }
  connect(key: number, port: number): boolean {
    this.said.push(`connect ${port}`);
    if (this.accepts) this.add(key);
    return this.accepts;
  }
  accepted(): void {
    this.said.push("accepted");
  }
  write(key: number, address: number, length: number): number {
    const bytes = new Uint8Array(length);
    this.driver.memory.read(address, bytes);
    this.open.get(key)!.taken.push(...bytes);
    const moved = Math.min(length, this.space);
    this.space -= moved;
    return moved;
  }
  read(key: number, address: number, length: number): number {
    const { coming, end } = this.open.get(key)!;
    const [first] = coming;
    if (first === undefined) return end;
    const piece = first.subarray(0, length);
    this.driver.memory.write(address, piece);
    if (piece.length === first.length) coming.shift();
    else coming[0] = first.subarray(length);
    return piece.length;
  }
  shutdown(key: number, what: number): void {
    if (!this.open.has(key)) throw new Error("shut down and not open");
    this.said.push(`shutdown ${what}`);
  }
  close(key: number): void {
    if (!this.open.delete(key)) throw new Error("closed twice");
    this.said.push("close");
  }
}

let host: MockHost;
let driver: MockDriver<Vsock>;

function packet(fields: Partial<Omit<Packet, "data">> & { op: number; length?: number }) {
  const header = new VsockHeader();
  const { src = [CID, GUEST_PORT], dst = [2, PORT], bufAlloc = BUFFER } = fields;
  [header.sourceCid, header.sourcePort] = src;
  [header.destinationCid, header.destinationPort] = dst;
  header.op = fields.op;
  header.type = fields.type ?? 1;
  header.flags = fields.flags ?? 0;
  header.bufAlloc = bufAlloc;
  header.fwdCnt = fields.fwdCnt ?? 0;
  header.length = fields.length ?? 0;
  return header.bytes.slice();
}

function send(fields: Parameters<typeof packet>[0], data = new Uint8Array(0)) {
  const header = packet({ length: data.length, ...fields });
  driver.queues[TRANSMIT].request(data.length > 0 ? [header, data] : [header]);
}

function parse(bytes: Uint8Array): Packet {
  const header = new VsockHeader();
  header.bytes.set(bytes.subarray(0, 44));
  const { op, type, flags, bufAlloc, fwdCnt } = header;
  return {
    op,
    type,
    flags,
    bufAlloc,
    fwdCnt,
    src: [header.sourceCid, header.sourcePort],
    dst: [header.destinationCid, header.destinationPort],
    data: bytes.slice(44, 44 + header.length),
  };
}

/** Gives receive buffers, and gets what came in those that there are. */
function received(): Packet[] {
  driver.device.poll();
  return driver.queues[RECEIVE].used().map(({ data }) => parse(data));
}

function buffers(count: number, size = 4096): void {
  for (let i = 0; i < count; i++) driver.queues[RECEIVE].add([size]);
  driver.queues[RECEIVE].kick();
}

const key = () => [...host.open.keys()][0];
const ops = (packets: Packet[]) => packets.map(({ op }) => op);

/** A connection that the guest asked for. */
function connect(): number {
  send({ op: Op.REQUEST });
  driver.device.connected(key());
  expect(ops(received())).toEqual([Op.RESPONSE]);
  return key();
}

beforeEach(() => {
  host = new MockHost();
  driver = new MockDriver(
    (transport) => new Vsock(VsockRegisters.standalone(), transport, host, CID),
  );
  host.driver = driver;
  driver.start();
  buffers(16);
});

test("has three queues, no features, and the guest's CID: § 5.10.2 to § 5.10.4", () => {
  expect(driver.device.type).toBe(19);
  expect(driver.read(0x12, 2)).toBe(3);
  expect(driver.offered[0] & 0xffffff).toBe(0);
  expect([driver.readConfig(0, 4), driver.readConfig(4, 4)]).toEqual([CID, 0]);
});

describe("connections, § 5.10.6.5", () => {
  test("the guest asks, the host answers", () => {
    send({ op: Op.REQUEST });
    expect(host.said).toEqual([`connect ${PORT}`]);
    expect(received()).toEqual([]);
    driver.device.connected(key());
    const [response] = received();
    expect(response).toMatchObject({ op: Op.RESPONSE, src: [2, PORT], dst: [CID, GUEST_PORT] });
    expect(response.bufAlloc).toBe(BUFFER);
  });

  test("a refusal is RST, at once or later", () => {
    host.accepts = false;
    send({ op: Op.REQUEST });
    expect(ops(received())).toEqual([Op.RST]);
    host.accepts = true;
    send({ op: Op.REQUEST });
    const before = key();
    host.open.clear();
    driver.device.refused(before);
    expect(ops(received())).toEqual([Op.RST]);
    driver.device.refused(before);
    driver.device.connected(before);
    expect(received()).toEqual([]);
  });

  test("the host asks, the guest accepts or not", () => {
    const incoming = driver.device.incoming(80)!;
    host.add(incoming);
    const [request] = received();
    const port = driver.device.hostPort(incoming);
    expect(request).toMatchObject({ op: Op.REQUEST, src: [2, port], dst: [CID, 80] });
    send({ op: Op.RESPONSE, src: [CID, 80], dst: [2, port] });
    expect(host.said).toEqual(["accepted"]);
    host.open.get(incoming)!.coming.push(Uint8Array.of(1, 2));
    driver.device.available(incoming);
    expect(received()).toMatchObject([{ op: Op.RW, data: Uint8Array.of(1, 2) }]);

    const refused = driver.device.incoming(81)!;
    host.add(refused);
    const second = driver.device.hostPort(refused);
    expect(second).not.toBe(port);
    send({ op: Op.RST, src: [CID, 81], dst: [2, second] });
    expect(host.said).toEqual(["accepted", "close"]);
  });

  test("without a driver nobody is asked", () => {
    driver.status = 0;
    expect(driver.device.incoming(80)).toBeUndefined();
  });

  test("more than 1024 are refused", () => {
    for (let port = 0; port < 1024; port++) send({ op: Op.REQUEST, src: [CID, port] });
    expect(host.open.size).toBe(1024);
    send({ op: Op.REQUEST, src: [CID, 5000] });
    expect(host.open.size).toBe(1024);
    expect(received()).toMatchObject([{ op: Op.RST, dst: [CID, 5000] }]);
    expect(driver.device.incoming(80)).toBeUndefined();
  });

  test("a device reset closes all", () => {
    connect();
    driver.status = 0;
    expect(host.open.size).toBe(0);
    driver.start();
    buffers(1);
    connect();
  });
});

describe("ends, § 5.10.6.5", () => {
  test("both sides' SHUTDOWN leads to RST once all has left", () => {
    const open = connect();
    host.space = 3;
    send({ op: Op.RW }, Uint8Array.of(1, 2, 3, 4, 5));
    send({ op: Op.SHUTDOWN, flags: 2 });
    send({ op: Op.SHUTDOWN, flags: 1 });
    expect(received()).toEqual([]);
    expect(host.said.slice(1)).toEqual(["shutdown 2", "shutdown 1"]);
    driver.device.room(open, 2);
    expect(ops(received())).toEqual([Op.RST]);
    expect(host.open.size).toBe(0);
  });

  test("the host's end of data is SHUTDOWN of sending, and the guest may go on", () => {
    const open = connect();
    const connection = host.open.get(open)!;
    connection.coming.push(Uint8Array.of(7));
    connection.end = READ_END;
    driver.device.available(open);
    expect(received()).toMatchObject([{ op: Op.RW }, { op: Op.SHUTDOWN, flags: 2 }]);
    send({ op: Op.RW }, Uint8Array.of(1));
    expect(connection.taken).toEqual([1]);
    driver.device.ended(open);
    expect(received()).toMatchObject([{ op: Op.SHUTDOWN, flags: 3 }]);
    expect(host.open.size).toBe(0);
    send({ op: Op.RW }, Uint8Array.of(2));
    send({ op: Op.RST });
    expect(received()).toEqual([]);
  });

  test("a host that is gone", () => {
    const open = connect();
    host.open.get(open)!.end = READ_GONE;
    driver.device.available(open);
    expect(received()).toMatchObject([{ op: Op.SHUTDOWN, flags: 3 }]);
    send({ op: Op.SHUTDOWN, flags: 3 });
    expect(ops(received())).toEqual([Op.RST]);
  });

  test("a guest that doesn't receive gets nothing", () => {
    const open = connect();
    send({ op: Op.SHUTDOWN, flags: 1 });
    host.open.get(open)!.coming.push(Uint8Array.of(1));
    driver.device.available(open);
    expect(received()).toEqual([]);
  });
});

describe("data and credit, § 5.10.6.3", () => {
  test("the guest's bytes, and news of room", () => {
    const open = connect();
    const data = Uint8Array.from({ length: BUFFER }, (_, i) => i);
    send({ op: Op.RW }, data);
    expect(host.open.get(open)!.taken).toEqual([...data]);
    expect(received()).toMatchObject([{ op: Op.CREDIT_UPDATE, fwdCnt: BUFFER }]);
    host.space = 0;
    send({ op: Op.RW }, data);
    expect(received()).toEqual([]);
    driver.device.room(open, BUFFER / 2);
    expect(received()).toMatchObject([{ op: Op.CREDIT_UPDATE, fwdCnt: BUFFER * 1.5 }]);
    send({ op: Op.CREDIT_REQUEST });
    expect(ops(received())).toEqual([Op.CREDIT_UPDATE]);
    send({ op: Op.RW }, data.subarray(0, BUFFER / 2));
    expect(received()).toEqual([]);
    // Nothing is left.
    send({ op: Op.RW }, Uint8Array.of(1));
    expect(ops(received())).toEqual([Op.RST]);
    expect(host.open.size).toBe(0);
  });

  test("the host's bytes, as far as there is credit", () => {
    send({ op: Op.REQUEST, bufAlloc: 10 });
    const open = key();
    host.open.get(open)!.coming.push(new Uint8Array(25).fill(1));
    driver.device.connected(open);
    expect(ops(received())).toEqual([Op.RESPONSE, Op.RW, Op.CREDIT_REQUEST]);
    send({ op: Op.CREDIT_UPDATE, bufAlloc: 10, fwdCnt: 4 });
    expect(received().map(({ op, data }) => [op, data.length])).toEqual([
      [Op.RW, 4],
      [Op.CREDIT_REQUEST, 0],
    ]);
    send({ op: Op.CREDIT_UPDATE, bufAlloc: 1000, fwdCnt: 14 });
    expect(received().map(({ op, data }) => [op, data.length])).toEqual([[Op.RW, 11]]);
  });

  test("waits for buffers, of any cut", () => {
    const open = connect();
    buffers(15);
    for (let i = 0; i < 30; i++) send({ op: Op.CREDIT_REQUEST });
    received();
    host.open.get(open)!.coming.push(Uint8Array.from({ length: 300 }, (_, i) => i));
    driver.device.available(open);
    received();
    while (driver.queues[RECEIVE].out > 0) {
      send({ op: Op.CREDIT_REQUEST });
      received();
    }
    host.open.get(open)!.coming.push(Uint8Array.from({ length: 300 }, (_, i) => i));
    driver.device.available(open);
    expect(received()).toEqual([]);
    driver.queues[RECEIVE].add([10, 30, 20, 40]);
    driver.queues[RECEIVE].add([44]);
    driver.queues[RECEIVE].add([44, 1000]);
    driver.queues[RECEIVE].kick();
    const packets = received();
    expect(packets.map(({ op, data }) => [op, data.length])).toEqual([
      [Op.RW, 56],
      [Op.CREDIT_UPDATE, 0],
      [Op.RW, 244],
    ]);
    expect([...packets[2].data.subarray(0, 3)]).toEqual([56, 57, 58]);
  });
});

describe("what breaks rules", () => {
  test("RST for other types, unknown operations and connections", () => {
    send({ op: Op.REQUEST, type: 2 });
    send({ op: Op.RW });
    send({ op: 99 });
    send({ op: Op.RST });
    expect(received().map(({ op, type }) => [op, type])).toEqual([
      [Op.RST, 2],
      [Op.RST, 1],
      [Op.RST, 1],
    ]);
    connect();
    send({ op: 99 });
    expect(ops(received())).toEqual([Op.RST]);
    connect();
    send({ op: Op.REQUEST });
    expect(ops(received())).toEqual([Op.RST]);
    connect();
    send({ op: Op.RW, length: 10 }, Uint8Array.of(1));
    expect(ops(received())).toEqual([Op.RST]);
    connect();
    send({ op: Op.RW }, new Uint8Array(BUFFER + 1));
    expect(ops(received())).toEqual([Op.RST]);
  });

  test("other CIDs are not heard", () => {
    send({ op: Op.REQUEST, src: [CID + 1, GUEST_PORT] });
    send({ op: Op.REQUEST, dst: [3, PORT] });
    expect(host.said).toEqual([]);
    expect(received()).toEqual([]);
  });

  test("less than a header breaks the queue", () => {
    driver.queues[TRANSMIT].add([new Uint8Array(43)]);
    driver.queues[TRANSMIT].kick();
    expect(driver.needsReset).toBe(true);
    expect(driver.broke).toEqual(["queue 1: a packet has 43 bytes"]);
  });

  test("a receive buffer of less than a header breaks its queue", () => {
    driver.start();
    buffers(1, 43);
    send({ op: Op.RW });
    expect(driver.broke).toEqual(["queue 0: a receive buffer has 43 bytes"]);
  });

  test("resets without buffers wait, then packets do", () => {
    driver.start();
    let sent = 0;
    while (driver.queues[TRANSMIT].out === 0) {
      driver.queues[TRANSMIT].add([packet({ op: Op.RW, src: [CID, sent++] })]);
      driver.queues[TRANSMIT].kick();
      driver.queues[TRANSMIT].used();
      expect(sent).toBeLessThan(5000);
    }
    expect(sent).toBe(2049);
    const ports: number[] = [];
    while (ports.length < sent) {
      buffers(1, 44);
      ports.push(...received().map(({ dst }) => dst[1]));
    }
    expect(ports).toEqual(Array.from({ length: sent }, (_, i) => i));
    expect(driver.queues[TRANSMIT].used().length).toBe(1);
  });
});

describe("properties", () => {
  const port = fc.integer({ min: 1, max: 4 });
  const action = fc.oneof(
    fc.record({
      kind: fc.constant("packet" as const),
      op: fc.oneof(fc.integer({ min: 0, max: 8 }), fc.constantFrom(Op.REQUEST, Op.RW)),
      guest: port,
      host: port,
      type: fc.constantFrom(1, 1, 1, 1, 2),
      flags: fc.integer({ min: 0, max: 3 }),
      bufAlloc: fc.constantFrom(0, 5, 1000, 0xffffffff),
      fwdCnt: fc.constantFrom("honest" as const, 0, 0xfffffff0),
      size: fc.constantFrom(0, 1, 100, 40_000),
      claim: fc.constantFrom(0, 0, 0, 1, 70_000),
    }),
    fc.record({
      kind: fc.constantFrom(
        "connected" as const,
        "refused" as const,
        "available" as const,
        "ended" as const,
        "incoming" as const,
        "room" as const,
      ),
      which: fc.nat({ max: 7 }),
      size: fc.constantFrom(1, 100, 5000),
    }),
    fc.record({
      kind: fc.constant("buffers" as const),
      count: fc.nat({ max: 4 }),
      size: fc.constantFrom(44, 45, 200, 4096),
    }),
    fc.record({ kind: fc.constant("space" as const), size: fc.constantFrom(0, 10, 100_000) }),
  );

  test("whatever is sent, chains come back once and credit is kept", () => {
    fc.assert(
      fc.property(fc.array(action, { maxLength: 120 }), (actions) => {
        host.open.clear();
        driver.start();
        // Of each pair of ports, as the guest sees it: sent to it since REQUEST, and what it told.
        const credit = new Map<string, { sent: number; alloc: number; fwd: number }>();
        const pending = new Map<number, number>();
        const write = host.write.bind(host);
        host.write = (key, address, length) => {
          const moved = write(key, address, length);
          pending.set(key, (pending.get(key) ?? 0) + length - moved);
          expect(pending.get(key)!).toBeLessThanOrEqual(BUFFER);
          return moved;
        };
        const hear = () => {
          for (const { op, dst, src, data } of received()) {
            const one = credit.get(`${dst[1]} ${src[1]}`);
            if (op !== Op.RW) continue;
            one!.sent = (one!.sent + data.length) >>> 0;
            expect((one!.sent - one!.fwd) >>> 0).toBeLessThanOrEqual(one!.alloc);
          }
          driver.queues[TRANSMIT].used();
        };
        for (const step of actions) {
          const keys = [...host.open.keys()];
          switch (step.kind) {
            case "packet": {
              const id = `${step.guest} ${step.host}`;
              const { op, type, flags, bufAlloc, size } = step;
              hear();
              if (driver.queues[TRANSMIT].room < 2) break;
              const before = host.said.length;
              const known = credit.get(id);
              const fwdCnt = step.fwdCnt === "honest" ? (known?.sent ?? 0) : step.fwdCnt;
              const one = { sent: known?.sent ?? 0, alloc: bufAlloc, fwd: fwdCnt };
              driver.queues[TRANSMIT].add([
                packet({
                  op,
                  type,
                  flags,
                  bufAlloc,
                  fwdCnt,
                  src: [CID, step.guest],
                  dst: [2, step.host],
                  length: size + step.claim,
                }),
                new Uint8Array(size),
              ]);
              if (type === 1) credit.set(id, one);
              driver.queues[TRANSMIT].kick(true);
              if (host.said.slice(before).some((text) => text.startsWith("connect"))) one.sent = 0;
              break;
            }
            case "buffers":
              for (let i = 0; i < step.count && driver.queues[RECEIVE].room > 0; i++) {
                driver.queues[RECEIVE].add([step.size]);
              }
              driver.queues[RECEIVE].kick();
              break;
            case "space":
              host.space = step.size;
              break;
            case "incoming": {
              const incoming = driver.device.incoming(1 + (step.which % 4));
              if (incoming !== undefined) host.add(incoming);
              break;
            }
            case "room": {
              const one = keys[step.which % (keys.length || 1)];
              const bytes = Math.min(pending.get(one) ?? 0, step.size);
              if (bytes === 0) break;
              pending.set(one, pending.get(one)! - bytes);
              driver.device.room(one, bytes);
              break;
            }
            case "available": {
              const one = keys[step.which % (keys.length || 1)];
              if (one === undefined) break;
              if (step.which === 7) host.open.get(one)!.end = READ_END;
              host.open.get(one)!.coming.push(new Uint8Array(step.size));
              driver.device.available(one);
              break;
            }
            case "refused": {
              const one = keys[step.which % (keys.length || 1)];
              // Only who was asked can refuse.
              if (one === undefined || step.which < 6) break;
              driver.device.connected(one);
              break;
            }
            default: {
              const one = keys[step.which % (keys.length || 1)];
              driver.device[step.kind](one ?? step.which);
            }
          }
          hear();
        }
        expect(driver.broke).toEqual([]);
        host.write = write;
        driver.status = 0;
        expect(host.open.size).toBe(0);
      }),
      { numRuns: 300 },
    );
  });

  test("random bytes break nothing", () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ minLength: 44, maxLength: 120 }), { maxLength: 60 }),
        (packets) => {
          driver.start();
          buffers(32);
          for (const bytes of packets) {
            // Most are to get past the CIDs.
            bytes.set(packet({ op: bytes[30] % 9, type: 1 }).subarray(0, 16));
            if (bytes[28] !== 7) bytes.set([1, 0, bytes[30] % 9, 0], 28);
            driver.queues[TRANSMIT].request([bytes]);
          }
          received();
          expect(driver.needsReset).toBe(false);
        },
      ),
    );
  });
});
