import { encodeCpu, CPU_LAYOUT } from "../../src/vmm/cpu-codec.ts";
import { resetState } from "../../src/vmm/cpu.ts";
import { encodeBlocks, applyBlocks, imageBlocks } from "../../src/vmm/snapshot/blocks.ts";
import {
  checksum,
  encodeHead,
  HEAD,
  PAGE,
  padded,
  RecordType,
  SnapshotError,
} from "../../src/vmm/snapshot/format.ts";
import { BytesSource } from "../../src/vmm/snapshot/sources.ts";
import { parseConfig } from "../../src/vmd/snapshot/config.ts";
import { applyClock, applyCpu, encodeCpuRecord } from "../../src/vmd/snapshot/cpu-record.ts";
import { loadSnapshots } from "../../src/vmd/snapshot/load.ts";
import { Choices, ChoicesWriter } from "../own/choices.ts";
import { must, type Target } from "../own/target.ts";
import { FuzzDisc, FuzzDisk } from "./block-backends.ts";
import { FuzzSockets, FuzzWire } from "./net-backends.ts";
import { FuzzBalloon, FuzzTerminal } from "./other-backends.ts";
import { Guest } from "./guest.ts";
import { Rig } from "./rig.ts";

const TYPES = Object.values(RecordType);
const { CONFIG, PAGES, STATE, CPU, HOST } = RecordType;
/** What an input's record holds: its own bytes, or what the machine had with changes. */
const Kind = { OWN: 0, CONFIG: 1, STATE: 2, CPU: 3, HOST: 4, END: 5, PAGES: 6 } as const;
const KINDS = 7;
const MAC = Uint8Array.of(0xfe, 0xe1, 0xbb, 0xd1, 0, 1);

const rig = new Rig((memory) => ({
  interfaces: [{ backend: new FuzzWire(memory), mac: MAC, locked: false }],
  disks: [{ backend: new FuzzDisk(memory, false), id: "fuzz" }],
  cdrom: new FuzzDisc(memory),
  balloon: new FuzzBalloon(memory),
  console: new FuzzTerminal(),
  vsock: { backend: new FuzzSockets(memory), cid: 42 },
}));
const DEVICES = 7;

/** A machine in use: its registers, and its CPU's. */
const saved = (() => {
  const { machine, image } = rig;
  const drivers = Array.from({ length: DEVICES }, (_, index) => new Guest(rig, index + 1));
  rig.reset(new Choices(new Uint8Array(0)));
  for (const driver of drivers) driver.start();
  encodeCpu(image.cpu, resetState());
  const state = encodeBlocks(imageBlocks(image));
  const cpu = encodeCpuRecord(image, machine.clock.now);
  const host = new TextEncoder().encode(JSON.stringify({ halted: false, input: "aGk=", ahead: 5 }));
  const config = new TextEncoder().encode(
    JSON.stringify({
      format: 1,
      id: "0".repeat(32),
      created: 0,
      engine: "unicorn",
      cpuid: [[1, 0, 0, 1, 2, 3, 4]],
      boot: "firmware",
      options: { name: "fuzz", memory: 2 ** 20 },
      ahead: 0,
      interfaces: [],
    }),
  );
  return { [Kind.STATE]: state, [Kind.CPU]: cpu, [Kind.HOST]: host, [Kind.CONFIG]: config };
})();
/** Where the registers begin in STATE. */
const REGISTERS = 4 + new DataView(saved[Kind.STATE].buffer).getUint32(0, true);

/** Other bytes in what was saved: places, then what they become. */
function changed(bytes: Uint8Array, from: number, changes: Choices): Uint8Array {
  const copy = bytes.slice();
  while (!changes.ended) {
    const at = from + (changes.u32() % (copy.length - from));
    const length = 1 + (changes.u8() & 7);
    copy.set(changes.take(length).subarray(0, copy.length - at), at);
  }
  return copy;
}

interface Written {
  type: number;
  payload: Uint8Array;
  flags: number;
  data: Uint8Array;
  pages: number;
}

function record(choices: Choices): Written {
  const kind = choices.below(KINDS);
  const body = choices.take(choices.u16());
  const plain = { flags: 0, data: new Uint8Array(0), pages: 0 };
  switch (kind) {
    case Kind.CONFIG:
      return { type: CONFIG, payload: changed(saved[kind], 0, new Choices(body)), ...plain };
    case Kind.STATE: {
      // Mostly registers, now and then their description.
      const from = (body[0] ?? 0) === 255 ? 0 : REGISTERS;
      return { type: STATE, payload: changed(saved[kind], from, new Choices(body)), ...plain };
    }
    case Kind.CPU:
      return { type: CPU, payload: changed(saved[kind], 0, new Choices(body)), ...plain };
    case Kind.HOST:
      return { type: HOST, payload: changed(saved[kind], 0, new Choices(body)), ...plain };
    case Kind.END:
      return { type: RecordType.END, payload: new Uint8Array(0), ...plain };
    case Kind.PAGES: {
      const pages = 1 + ((body[0] ?? 0) % 4);
      const payload = new Uint8Array(16);
      const view = new DataView(payload.buffer);
      view.setUint32(0, (body[1] ?? 0) | ((body[2] ?? 0) << 8), true);
      view.setUint32(8, pages, true);
      const raw = new Uint8Array(pages * PAGE).fill(body[3] ?? 0);
      if ((body[4] ?? 0) % 2 === 0) return { type: PAGES, payload, flags: 0, data: raw, pages };
      const data = new Uint8Array(Bun.zstdCompressSync(raw));
      data.set(body.subarray(5, 5 + data.length));
      return { type: PAGES, payload, flags: 1, data, pages };
    }
    default: {
      const own = new Choices(body);
      const type = own.below(16);
      const header = {
        type: TYPES[type] ?? own.u32(),
        flags: own.u8(),
        pages: own.u8(),
      };
      const data = new Uint8Array(Math.min(64, header.pages) * PAGE);
      return { ...header, payload: own.rest(), data };
    }
  }
}

/** Records with checksums that are right. */
function stream(choices: Choices): Uint8Array {
  const parts: Uint8Array[] = [];
  let before = 0n;
  for (let serial = 0; serial < 16 && !choices.ended; serial++) {
    const { type, flags, payload, data, pages } = record(choices);
    const whole = new Uint8Array(padded(HEAD + payload.length) + padded(data.length));
    whole.set(payload, HEAD);
    whole.set(data, padded(HEAD + payload.length));
    const head = {
      ...{ type: type as RecordType, flags, length: payload.length, pages },
      ...{ stored: data.length, data: data.length === 0 ? 0n : checksum(data) },
    };
    before = encodeHead(whole, head, serial, before);
    parts.push(whole);
  }
  return new Uint8Array(Buffer.concat(parts));
}

/** Intel SDM vol. 3A, 2.4, 2.5, 4.1: what every processor state has. */
function checkCpuState(): void {
  const { cpu } = rig.image;
  const get = (at: number) => cpu.getBigUint64(CPU_LAYOUT.sregs + at, true);
  const [cr0, cr3, cr4, efer] = [get(224), get(240), get(248), get(264)];
  const paging = (cr0 & 0x80000000n) !== 0n;
  const long = (efer & 0x400n) !== 0n;
  must(!paging || (cr0 & 1n) !== 0n, "paging without protection");
  must(!long || (paging && (cr4 & 0x20n) !== 0n), "long mode without paging and PAE");
  must(cr3 < 2n ** 52n, "CR3 is no address");
  must(cpu.getUint32(CPU_LAYOUT.msrCount, true) <= 32, "more MSRs than there is room for");
}

/** A restored machine goes on, whatever it was. */
function goOn(): void {
  const { machine } = rig;
  for (let round = 0; round < 3; round++) {
    rig.begin();
    machine.idle();
    rig.pass(1e6);
    must(!Number.isNaN(machine.clock.deadline), "the clock's deadline is no number");
    if (machine.interrupts.pending) machine.interrupts.acknowledge();
    for (const port of [0x20, 0x40, 0x61, 0x71, 0x3f8, 0x3fa, 0x3fd, 0x511, 0xcfc, 0x1014]) {
      rig.read(port, 1);
    }
    for (let device = 1; device <= DEVICES; device++) {
      rig.read(0x1000 + 0x1000 * device + 0x14, 4);
      rig.write(0x1000 + 0x1000 * device + 0x100, 2, round);
    }
    rig.write(0x3f8, 1, 65);
    rig.write(0x40, 1, 7);
  }
  rig.check(true);
  rig.begin();
  const stuck = rig.roundTrip();
  must(stuck.length === 0, `can't be quiesced: ${stuck.join("; ")}`);
}

const item = (kind: number, body: Iterable<number> = []): number[] => {
  const bytes = [...body];
  return [kind, bytes.length & 0xff, bytes.length >> 8, ...bytes];
};

export const target: Target = {
  name: "snapshot",
  about: "snapshot streams and what they hold: refused, or a machine that goes on",
  maxInput: 4096,
  steps: 4_000_000,
  memory: 2 ** 27,
  answers: [SnapshotError],
  *seeds() {
    const rest = [...item(Kind.CPU), ...item(Kind.HOST), ...item(Kind.END)];
    const pages = [...item(Kind.PAGES, [1, 2, 0, 7, 0]), ...item(Kind.PAGES, [0, 0, 1, 8, 1])];
    yield Uint8Array.from([0, ...item(Kind.CONFIG), ...item(Kind.STATE), ...rest]);
    yield Uint8Array.from([0, ...item(Kind.CONFIG), ...pages, ...item(Kind.STATE), ...rest]);
    for (const at of [8, 40, 100, 400, 900, 2000, 9000, 70_000]) {
      const change = new ChoicesWriter().u32(at).u8(7, 0, 0, 0, 0, 0, 0, 0xf0, 0x7f).done();
      yield Uint8Array.from([0, ...item(Kind.CONFIG), ...item(Kind.STATE, change), ...rest]);
    }
    const cpu = new ChoicesWriter()
      .u32(40 + CPU_LAYOUT.sregs + 224)
      .u8(0, 0x31)
      .done();
    const at = (register: number) => 40 + CPU_LAYOUT.sregs + register;
    const long = new ChoicesWriter()
      .u32(at(224))
      .u8(3, 0x31, 0, 0, 0x80)
      .u32(at(248))
      .u8(0, 0x20)
      .u32(at(264))
      .u8(1, 0, 5)
      .done();
    for (const change of [cpu, long]) {
      yield Uint8Array.from([
        ...[0, ...item(Kind.CONFIG), ...item(Kind.STATE), ...item(Kind.CPU, change)],
        ...[...item(Kind.HOST), ...item(Kind.END)],
      ]);
    }
    yield Uint8Array.from([0, ...item(Kind.OWN, [2, 0, 0, 1, 2, 3]), ...item(Kind.END)]);
  },
  run(input) {
    const choices = new Choices(input);
    const asItIs = (choices.u8() & 1) !== 0;
    const bytes = asItIs ? choices.rest() : stream(choices);
    rig.reset(choices);
    const { machine, image } = rig;
    const state = loadSnapshots(image, [{ source: new BytesSource(bytes), verify: true }]);
    const first = new DataView(bytes.buffer, bytes.byteOffset).getUint32(8, true);
    parseConfig(bytes.subarray(HEAD, HEAD + first));
    applyClock(image, state.cpu);
    machine.reset();
    machine.restore(() => {
      applyBlocks(image, state.blocks);
      applyCpu(image, state.cpu);
    }, state.host);
    checkCpuState();
    goOn();
  },
};
