/**
 * A CD-ROM drive's commands: a function of the command, the size of the disc, and whether the tray
 * is locked. It reads no disc: a command that does so says which bytes.
 *
 * The commands are vmd's. Any other is an illegal request, where vmd gives no answer. Sources: SPC-3
 * and MMC-6; the sections are named where they ask for something.
 */
import {
  BLOCK,
  configuration,
  eventStatus,
  inquiry,
  luns,
  modePages,
  put32,
  senseData,
  sessions,
  toc,
  vitalProductData,
} from "./cdrom-data.ts";

export const ScsiStatus = { GOOD: 0, CHECK_CONDITION: 2 } as const;
export const SenseKey = { NONE: 0, NOT_READY: 2, MEDIUM_ERROR: 3, ILLEGAL_REQUEST: 5 } as const;
/** Additional sense code and its qualifier. */
export const SenseCode = {
  NONE: 0,
  READ_ERROR: 0x1100,
  INVALID_OPCODE: 0x2000,
  OUT_OF_RANGE: 0x2100,
  INVALID_FIELD: 0x2400,
  NO_MEDIUM: 0x3a00,
} as const;

export const Opcode = {
  TEST_UNIT_READY: 0x00,
  REQUEST_SENSE: 0x03,
  READ_6: 0x08,
  INQUIRY: 0x12,
  MODE_SENSE_6: 0x1a,
  START_STOP: 0x1b,
  PREVENT_ALLOW: 0x1e,
  READ_CAPACITY: 0x25,
  READ_10: 0x28,
  READ_TOC: 0x43,
  GET_CONFIGURATION: 0x46,
  GET_EVENT_STATUS: 0x4a,
  READ_DISC_INFO: 0x51,
  MODE_SENSE_10: 0x5a,
  READ_CAPACITY_16: 0x9e,
  REPORT_LUNS: 0xa0,
  READ_12: 0xa8,
  MECHANISM_STATUS: 0xbd,
} as const;

/** Of a command. None here is longer. */
export const CDB_SIZE = 16;
/** Bytes of one read, so that one command has an end. */
export const READ_MAX = 2 ** 26;

/** What a command comes to. One object serves for all commands. */
export class CdromAnswer {
  status: number = ScsiStatus.GOOD;
  key = 0;
  /** A SenseCode. */
  code = 0;
  /** The first `length` bytes go to the driver. */
  readonly data = new Uint8Array(64);
  length = 0;
  /** Or so many of the disc's, from there on. */
  offset = 0;
  bytes = 0;
  /** Whether the tray is locked now. */
  locked = false;
}

const be16 = (b: Uint8Array, at: number) => (b[at] << 8) | b[at + 1];
const be32 = (b: Uint8Array, at: number) => ((be16(b, at) << 16) | be16(b, at + 2)) >>> 0;

function fail(answer: CdromAnswer, key: number, code: number): void {
  answer.status = ScsiStatus.CHECK_CONDITION;
  answer.key = key;
  answer.code = code;
}

const invalid = (answer: CdromAnswer, code: number = SenseCode.INVALID_FIELD) =>
  fail(answer, SenseKey.ILLEGAL_REQUEST, code);

/** `length` bytes of data were made, or none: then a field asks for what isn't there. */
function give(answer: CdromAnswer, length: number, allocated: number): void {
  if (length === 0) invalid(answer);
  // SPC-3, § 4.3.4.6: the rest is cut off, without an error.
  else answer.length = Math.min(length, allocated);
}

/**
 * @param cdb CDB_SIZE bytes.
 * @param size bytes of the disc; less than a block: there is none.
 * @param wellKnown as the REPORT LUNS logical unit, which knows only what every unit does.
 */
export function execute(
  cdb: Uint8Array,
  size: number,
  locked: boolean,
  answer: CdromAnswer,
  wellKnown = false,
): void {
  answer.status = ScsiStatus.GOOD;
  answer.key = answer.code = answer.length = answer.offset = answer.bytes = 0;
  answer.locked = locked;
  switch (cdb[0]) {
    case Opcode.INQUIRY:
      return inquire(cdb, answer, wellKnown);
    case Opcode.REPORT_LUNS:
      return reportLuns(cdb, answer);
    case Opcode.REQUEST_SENSE:
      // Sense data comes with the command that it is about: nothing is kept. Not in descriptors.
      if ((cdb[1] & 1) !== 0) return invalid(answer);
      return give(answer, senseData(answer.data, 0, SenseKey.NONE, SenseCode.NONE), cdb[4]);
    case Opcode.TEST_UNIT_READY:
      if (wellKnown) return;
      break;
  }
  if (wellKnown) return invalid(answer, SenseCode.INVALID_OPCODE);
  drive(cdb, Math.floor(size / BLOCK), answer);
}

function drive(cdb: Uint8Array, blocks: number, answer: CdromAnswer): void {
  const { data } = answer;
  switch (cdb[0]) {
    case Opcode.PREVENT_ALLOW:
      answer.locked = (cdb[4] & 1) !== 0;
      return;
    case Opcode.MODE_SENSE_6:
      return modeSense(cdb, 4, cdb[4], answer);
    case Opcode.MODE_SENSE_10:
      return modeSense(cdb, 8, be16(cdb, 7), answer);
    case Opcode.GET_EVENT_STATUS:
      // Without the polled bit the answer may take its time: not offered.
      if ((cdb[1] & 1) === 0) return invalid(answer);
      return give(answer, eventStatus(data, cdb[4]), be16(cdb, 7));
    case Opcode.GET_CONFIGURATION: {
      const request = cdb[1] & 3;
      if (request === 3) return invalid(answer);
      const length = configuration(data, request, be16(cdb, 2), blocks > 0);
      return give(answer, length, be16(cdb, 7));
    }
    case Opcode.MECHANISM_STATUS:
      data.fill(0, 0, 8);
      return give(answer, 8, be16(cdb, 8));
    case Opcode.READ_DISC_INFO:
      return invalid(answer);
  }
  disc(cdb, blocks, answer);
}

/** Commands that need a disc. */
function disc(cdb: Uint8Array, blocks: number, answer: CdromAnswer): void {
  const opcode = cdb[0];
  const known = DISC_COMMANDS.has(opcode);
  if (!known) return invalid(answer, SenseCode.INVALID_OPCODE);
  if (blocks === 0) return fail(answer, SenseKey.NOT_READY, SenseCode.NO_MEDIUM);
  switch (opcode) {
    case Opcode.READ_6:
      // SBC-3, § 5.7: 0 blocks are 256.
      return read(((cdb[1] & 0x1f) << 16) | be16(cdb, 2), cdb[4] || 256, blocks, answer);
    case Opcode.READ_10:
      return read(be32(cdb, 2), be16(cdb, 7), blocks, answer);
    case Opcode.READ_12:
      return read(be32(cdb, 2), be32(cdb, 6), blocks, answer);
    case Opcode.READ_CAPACITY:
      put32(answer.data, 0, Math.min(blocks - 1, 2 ** 32 - 1));
      put32(answer.data, 4, BLOCK);
      return give(answer, 8, 8);
    case Opcode.READ_CAPACITY_16:
      return capacity16(cdb, blocks, answer);
    case Opcode.READ_TOC:
      return readToc(cdb, blocks, answer);
  }
}

const DISC_COMMANDS: ReadonlySet<number> = new Set([
  Opcode.TEST_UNIT_READY,
  Opcode.START_STOP,
  Opcode.READ_6,
  Opcode.READ_10,
  Opcode.READ_12,
  Opcode.READ_CAPACITY,
  Opcode.READ_CAPACITY_16,
  Opcode.READ_TOC,
]);

function read(block: number, count: number, blocks: number, answer: CdromAnswer): void {
  if (block + count > blocks) return invalid(answer, SenseCode.OUT_OF_RANGE);
  if (count * BLOCK > READ_MAX) return invalid(answer);
  answer.offset = block * BLOCK;
  answer.bytes = count * BLOCK;
}

function inquire(cdb: Uint8Array, answer: CdromAnswer, wellKnown: boolean): void {
  const { data } = answer;
  const allocated = be16(cdb, 3);
  // Bit 1 asked for command support data, which SPC-3 has no more.
  if ((cdb[1] & 2) !== 0) return invalid(answer);
  if ((cdb[1] & 1) !== 0) return give(answer, vitalProductData(data, cdb[2], wellKnown), allocated);
  // SPC-3, § 6.4.1: a page is of vital product data.
  if (cdb[2] !== 0) return invalid(answer);
  give(answer, inquiry(data, wellKnown), allocated);
}

function reportLuns(cdb: Uint8Array, answer: CdromAnswer): void {
  const allocated = be32(cdb, 6);
  // SPC-3, § 6.21: no less than the list's header and one entry.
  if (allocated < 16 || cdb[2] > 2) return invalid(answer);
  give(answer, luns(answer.data, cdb[2] === 1), allocated);
}

function modeSense(cdb: Uint8Array, header: 4 | 8, allocated: number, answer: CdromAnswer): void {
  // Current values only: nothing can be changed, nor saved.
  if (cdb[2] >> 6 !== 0) return invalid(answer);
  give(answer, modePages(answer.data, header, cdb[2] & 0x3f, answer.locked), allocated);
}

function capacity16(cdb: Uint8Array, blocks: number, answer: CdromAnswer): void {
  const { data } = answer;
  // The opcode has several commands: SBC-3, § 5.16.
  if ((cdb[1] & 0x1f) !== 0x10) return invalid(answer);
  data.fill(0, 0, 32);
  put32(data, 0, Math.floor((blocks - 1) / 2 ** 32));
  put32(data, 4, (blocks - 1) % 2 ** 32);
  put32(data, 8, BLOCK);
  give(answer, 32, be32(cdb, 10));
}

function readToc(cdb: Uint8Array, blocks: number, answer: CdromAnswer): void {
  const msf = (cdb[1] & 2) !== 0;
  // Before MMC-2 the format was in the last byte, where Linux still puts it.
  const format = cdb[2] & 0xf || cdb[9] >> 6;
  const allocated = be16(cdb, 7);
  if (format === 0) return give(answer, toc(answer.data, blocks, cdb[6], msf), allocated);
  if (format === 1) return give(answer, sessions(answer.data, msf), allocated);
  invalid(answer);
}
