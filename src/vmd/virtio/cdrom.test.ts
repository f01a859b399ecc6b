/** The CD-ROM drive's commands against SPC-3 and MMC-6. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { CdromAnswer, execute, Opcode, READ_MAX, SenseCode, SenseKey } from "./cdrom.ts";

const BLOCKS = 1000;
const SIZE = BLOCKS * 2048;

const run = (cdb: number[], { size = SIZE, locked = false, wellKnown = false } = {}) => {
  const answer = new CdromAnswer();
  const bytes = new Uint8Array(16);
  bytes.set(cdb);
  execute(bytes, size, locked, answer, wellKnown);
  return answer;
};
const data = (cdb: number[], options = {}) => {
  const answer = run(cdb, options);
  expect([answer.status, answer.key, answer.code]).toEqual([0, 0, 0]);
  return [...answer.data.subarray(0, answer.length)];
};
const text = (bytes: number[]) => String.fromCharCode(...bytes);
const refused = (code: number, key: number = SenseKey.ILLEGAL_REQUEST) => ({
  status: 2,
  key,
  code,
  length: 0,
  bytes: 0,
});
const FIELD = refused(SenseCode.INVALID_FIELD);

describe("INQUIRY", () => {
  test("tells of a CD-ROM drive with a removable medium", () => {
    const answer = data([0x12, 0, 0, 0, 96]);
    expect(answer.slice(0, 8)).toEqual([0x05, 0x80, 5, 2, 31, 0, 0, 0]);
    expect(text(answer.slice(8))).toBe("OpenBSD VMM CD-ROM      001 ");
  });

  test("is cut at the allocation length: SPC-3, § 4.3.4.6", () => {
    expect(data([0x12, 0, 0, 0, 5])).toHaveLength(5);
    expect(data([0x12, 0, 0, 0, 0])).toEqual([]);
    expect(data([0x12, 0, 0, 1, 0])).toHaveLength(36);
  });

  test("lists its pages, has no serial number, and an identification", () => {
    expect(data([0x12, 1, 0, 0, 96])).toEqual([5, 0, 0, 3, 0, 0x80, 0x83]);
    expect(data([0x12, 1, 0x80, 0, 96])).toEqual([5, 0x80, 0, 4, 32, 32, 32, 32]);
    const page = data([0x12, 1, 0x83, 0, 96]);
    expect(page.slice(0, 8)).toEqual([5, 0x83, 0, 28, 2, 1, 0, 24]);
    expect(text(page.slice(8))).toBe("OpenBSD VMM CD-ROM      ");
  });

  test("has no other page, and no page without EVPD", () => {
    expect(run([0x12, 1, 0xb0, 0, 96])).toMatchObject(FIELD);
    expect(run([0x12, 0, 0x80, 0, 96])).toMatchObject(FIELD);
    expect(run([0x12, 2, 0, 0, 96])).toMatchObject(FIELD);
  });
});

describe("reads", () => {
  test("of 6, 10 and 12 bytes name the same range", () => {
    const range = { status: 0, offset: 300 * 2048, bytes: 5 * 2048 };
    expect(run([0x08, 0, 1, 44, 5])).toMatchObject(range);
    expect(run([0x28, 0, 0, 0, 1, 44, 0, 0, 5])).toMatchObject(range);
    expect(run([0xa8, 0, 0, 0, 1, 44, 0, 0, 0, 5])).toMatchObject(range);
  });

  test("of no blocks are none, but READ(6) means 256", () => {
    expect(run([0x28, 0, 0, 0, 1, 44, 0, 0, 0])).toMatchObject({ status: 0, bytes: 0 });
    expect(run([0x08, 0, 0, 0, 0])).toMatchObject({ bytes: 256 * 2048 });
  });

  test("end with the disc, and with 64 MiB", () => {
    const beyond = refused(SenseCode.OUT_OF_RANGE);
    expect(run([0x28, 0, 0, 0, 3, 231, 0, 0, 1])).toMatchObject({ bytes: 2048 });
    expect(run([0x28, 0, 0, 0, 3, 231, 0, 0, 2])).toMatchObject(beyond);
    expect(run([0xa8, 0, 255, 255, 255, 255, 255, 255, 255, 255])).toMatchObject(beyond);
    const size = 2 ** 33;
    expect(run([0xa8, 0, 0, 0, 0, 0, 0, 0, 0x80, 0], { size })).toMatchObject({ bytes: READ_MAX });
    expect(run([0xa8, 0, 0, 0, 0, 0, 0, 0, 0x80, 1], { size })).toMatchObject(FIELD);
  });
});

describe("capacity", () => {
  const sixteen = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32];

  test("is the last block's number, and a block's size", () => {
    expect(data([0x25])).toEqual([0, 0, 3, 231, 0, 0, 8, 0]);
    expect(data(sixteen).slice(0, 12)).toEqual([0, 0, 0, 0, 0, 0, 3, 231, 0, 0, 8, 0]);
    expect(data(sixteen)).toHaveLength(32);
  });

  test("beyond 32 bits needs the longer command", () => {
    const size = (2 ** 32 + 5) * 2048;
    expect(data([0x25], { size }).slice(0, 4)).toEqual([255, 255, 255, 255]);
    expect(data(sixteen, { size }).slice(0, 8)).toEqual([0, 0, 0, 1, 0, 0, 0, 4]);
  });

  test("has no half block, and no other service action", () => {
    expect(data([0x25], { size: 3 * 2048 + 2047 }).slice(0, 4)).toEqual([0, 0, 0, 2]);
    expect(run([0x9e, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32])).toMatchObject(FIELD);
  });
});

describe("READ TOC", () => {
  const toc = (flags: number, format: number, track: number, control = 0) => [
    0x43,
    flags,
    format,
    0,
    0,
    0,
    track,
    0,
    255,
    control,
  ];

  test("tells of one track, and the lead-out", () => {
    expect(data(toc(0, 0, 0))).toEqual([
      ...[0, 18, 1, 1],
      ...[0, 0x14, 1, 0, 0, 0, 0, 0],
      ...[0, 0x14, 0xaa, 0, 0, 0, 3, 232],
    ]);
    expect(data(toc(0, 0, 1))).toHaveLength(20);
    expect(data(toc(0, 0, 0xaa))).toEqual([0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 0, 3, 232]);
    expect(run(toc(0, 0, 2))).toMatchObject(FIELD);
  });

  test("in minutes, seconds and frames", () => {
    const answer = data(toc(2, 0, 0));
    expect(answer.slice(8, 12)).toEqual([0, 0, 2, 0]);
    // 1150 frames
    expect(answer.slice(16, 20)).toEqual([0, 0, 15, 25]);
  });

  test("tells of one session, also where MMC-1 asks for it; no other format", () => {
    const session = [0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0];
    expect(data(toc(0, 1, 0))).toEqual(session);
    expect(data(toc(0, 0, 0, 0x40))).toEqual(session);
    expect(run(toc(0, 2, 0))).toMatchObject(FIELD);
  });
});

describe("MODE SENSE", () => {
  test("has two pages, behind a header that counts them", () => {
    expect(data([0x1a, 0, 0x01, 0, 255])).toEqual([15, 0, 0, 0, 1, 10, ...Array(10).fill(0)]);
    expect(data([0x5a, 0, 0x01, 0, 0, 0, 0, 0, 255]).slice(0, 10)).toEqual([
      ...[0, 18, 0, 0, 0, 0, 0, 0],
      ...[1, 10],
    ]);
    expect(data([0x1a, 0, 0x2a, 0, 255])).toHaveLength(26);
    expect(data([0x1a, 0, 0x3f, 0, 255])).toHaveLength(38);
    expect(data([0x1a, 0, 0x3f, 0, 4])).toEqual([37, 0, 0, 0]);
  });

  test("shows the lock", () => {
    expect(data([0x1a, 0, 0x2a, 0, 255])[4 + 6]).toBe(0x21);
    expect(data([0x1a, 0, 0x2a, 0, 255], { locked: true })[4 + 6]).toBe(0x23);
  });

  test("has current values only, and no other page", () => {
    for (const control of [0x40, 0x80, 0xc0]) {
      expect(run([0x1a, 0, control | 0x2a, 0, 255])).toMatchObject(FIELD);
    }
    expect(run([0x1a, 0, 0x08, 0, 255])).toMatchObject(FIELD);
  });
});

describe("MMC", () => {
  const get = (request: number, first = 0) => [0x46, request, 0, first, 0, 0, 0, 0, 255];

  test("GET CONFIGURATION has 56 bytes", () => {
    const answer = data(get(0));
    expect(answer).toHaveLength(56);
    expect(answer.slice(0, 8)).toEqual([0, 0, 0, 52, 0, 0, 0, 8]);
    expect(data(get(1))).toEqual(answer);
  });

  test("GET CONFIGURATION begins where it is asked to, or has one feature or none", () => {
    expect(data(get(0, 3))).toHaveLength(8 + 8 + 12);
    expect(data(get(2, 3)).slice(8, 12)).toEqual([0, 3, 3, 4]);
    expect(data(get(2, 9))).toEqual([0, 0, 0, 4, 0, 0, 0, 8]);
    expect(run(get(3))).toMatchObject(FIELD);
  });

  test("GET CONFIGURATION without a disc has no current profile", () => {
    expect(data(get(0), { size: 0 }).slice(6, 8)).toEqual([0, 0]);
    expect(data(get(0), { size: 0 })).toHaveLength(56);
    expect(data(get(1), { size: 0 })).toHaveLength(44);
  });

  test("GET EVENT STATUS tells of power only, and only when polled", () => {
    expect(data([0x4a, 1, 0, 0, 0x04, 0, 0, 0, 8])).toEqual([0, 6, 2, 4, 0, 1, 0, 0]);
    expect(data([0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8])).toEqual([0, 2, 0x80, 4]);
    expect(run([0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8])).toMatchObject(FIELD);
  });

  test("MECHANISM STATUS is zeroes; READ DISC INFO isn't had", () => {
    expect(data([0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8])).toEqual(Array(8).fill(0));
    expect(run([0x51, 0, 0, 0, 0, 0, 0, 0, 34])).toMatchObject(FIELD);
  });
});

describe("the rest", () => {
  test("REPORT LUNS: LUN 0, in 16 bytes or more", () => {
    expect(data([0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16])).toEqual([0, 0, 0, 8, ...Array(12).fill(0)]);
    expect(data([0xa0, 0, 1, 0, 0, 0, 0, 0, 0, 16])).toEqual(Array(8).fill(0));
    expect(run([0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 15])).toMatchObject(FIELD);
    expect(run([0xa0, 0, 3, 0, 0, 0, 0, 0, 0, 16])).toMatchObject(FIELD);
  });

  test("REQUEST SENSE has nothing to tell", () => {
    expect(data([0x03, 0, 0, 0, 18])).toEqual([0x70, 0, 0, 0, 0, 0, 0, 10, ...Array(10).fill(0)]);
    expect(run([0x03, 1, 0, 0, 18])).toMatchObject(FIELD);
  });

  test("PREVENT/ALLOW locks and unlocks; nothing else does", () => {
    expect(run([0x1e, 0, 0, 0, 1]).locked).toBe(true);
    expect(run([0x1e, 0, 0, 0, 0], { locked: true }).locked).toBe(false);
    expect(run([0x00], { locked: true }).locked).toBe(true);
  });

  test("without a disc the drive isn't ready", () => {
    const absent = refused(SenseCode.NO_MEDIUM, SenseKey.NOT_READY);
    const { TEST_UNIT_READY, START_STOP, READ_6, READ_10, READ_12 } = Opcode;
    const { READ_CAPACITY, READ_CAPACITY_16, READ_TOC } = Opcode;
    for (const opcode of [
      ...[TEST_UNIT_READY, START_STOP, READ_6, READ_10, READ_12],
      ...[READ_CAPACITY, READ_CAPACITY_16, READ_TOC],
    ]) {
      expect(run([opcode], { size: 2047 })).toMatchObject(absent);
    }
    expect(run([TEST_UNIT_READY])).toMatchObject({ status: 0, length: 0 });
    expect(run([START_STOP])).toMatchObject({ status: 0, length: 0 });
  });

  test("any other opcode is illegal", () => {
    const known = new Set<number>(Object.values(Opcode));
    for (let opcode = 0; opcode < 256; opcode++) {
      if (known.has(opcode)) continue;
      expect(run([opcode])).toMatchObject(refused(SenseCode.INVALID_OPCODE));
      expect(run([opcode], { size: 0 })).toMatchObject(refused(SenseCode.INVALID_OPCODE));
    }
  });

  test("the well-known unit knows what all units do", () => {
    const wellKnown = true;
    expect(data([0x12, 0, 0, 0, 96], { wellKnown }).slice(0, 2)).toEqual([0x1e, 0]);
    expect(data([0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16], { wellKnown })).toHaveLength(16);
    expect(data([0x00], { wellKnown })).toEqual([]);
    expect(run([0x28, 0, 0, 0, 0, 0, 0, 0, 1], { wellKnown })).toMatchObject(
      refused(SenseCode.INVALID_OPCODE),
    );
  });
});

test("whatever the command: data or a range on the disc or sense, and never two of them", () => {
  const opcode = fc.oneof(fc.constantFrom<number>(...Object.values(Opcode)), fc.nat(255));
  const rest = fc.uint8Array({ minLength: 15, maxLength: 15 });
  const size = fc.oneof(fc.constant(SIZE), fc.nat(2 ** 31 - 1), fc.constant(2 ** 44));
  fc.assert(
    fc.property(opcode, rest, size, fc.boolean(), fc.boolean(), (opcode, rest, size, ...flags) => {
      const [locked, wellKnown] = flags;
      const { status, length, offset, bytes, key } = run([opcode, ...rest], {
        size,
        locked,
        wellKnown,
      });
      expect(Number(length > 0) + Number(bytes > 0) + Number(status > 0)).toBeLessThanOrEqual(1);
      expect(status > 0).toBe(key > 0);
      expect(length).toBeLessThanOrEqual(64);
      expect(offset + bytes).toBeLessThanOrEqual(size);
      expect(bytes).toBeLessThanOrEqual(READ_MAX);
    }),
    { seed: 20270103, numRuns: 5000 },
  );
});
