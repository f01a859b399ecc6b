import { type Choices, Choices as Bytes, ChoicesWriter } from "../own/choices.ts";
import { must, type Target } from "../own/target.ts";
import { DRIVER_BASE, Rig } from "./rig.ts";

const rig = new Rig();
const { machine } = rig;
const PORTS = Array.from({ length: 0x10000 }, (_, port) => port)
  .filter((port) => port < 0x1000 && machine.ports.has(port))
  // Beside those of chips: some that nobody has, and the BARs.
  .concat([0x80, 0x3f7, 0xffff, 0x1000, 0x1012, 0x1013, 0x1014, 0x1018, 0x2014, 0x2100]);
const SIZES = [1, 2, 4] as const;
const MMIO = [0xfee00000, 0xfee00ff8, 0xfec00000, 0xa0000, 0xfffffff0];
const data = new Uint8Array(8);

function step(choices: Choices): void {
  const what = choices.u8();
  switch (what & 7) {
    case 0:
    case 1:
    case 2: {
      const port = PORTS[choices.u8() % PORTS.length];
      const size = SIZES[(what >> 3) % 3];
      rig.write(port, size, size === 1 ? choices.u8() : size === 2 ? choices.u16() : choices.u32());
      return;
    }
    case 3:
      rig.read(PORTS[choices.u8() % PORTS.length], SIZES[(what >> 3) % 3]);
      return;
    case 4:
      rig.pass([100, 10_000, 1e6, 1e9][(what >> 3) & 3] * (1 + choices.u8()));
      must(!Number.isNaN(machine.clock.deadline), "the clock's deadline is no number");
      return;
    case 5:
      if (what >= 0xf0) rig.blocked = !rig.blocked;
      else if ((what & 8) === 0) machine.console.input(choices.take(what >> 4));
      else machine.idle();
      return;
    case 6: {
      if (!machine.interrupts.pending) return;
      const vector = machine.interrupts.acknowledge();
      must(Number.isInteger(vector) && vector >= 0 && vector < 256, `vector ${vector}`);
      return;
    }
    default: {
      const address = MMIO[choices.u8() % MMIO.length] + (choices.u8() & 7);
      const size = [1, 2, 4, 8][(what >> 3) & 3];
      if ((what & 0x20) !== 0) machine.mmio.write(address, choices.take(8), size);
      else machine.mmio.read(address, data, size);
    }
  }
}

/** Writes of single bytes to ports, as a seed. */
function writes(...pairs: (readonly [port: number, value: number])[]): ChoicesWriter {
  const writer = new ChoicesWriter();
  for (const [port, value] of pairs) writer.u8(0, PORTS.indexOf(port), value);
  return writer;
}

/** Starts a DMA operation of fw_cfg by the low half of its descriptor's address. */
function dma(): Uint8Array {
  // Big-endian.
  const low = (DRIVER_BASE >>> 24) | ((DRIVER_BASE >>> 8) & 0xff00);
  return new ChoicesWriter().u8(0x10, PORTS.indexOf(0x518)).u32(low).done();
}

export const target: Target = {
  name: "chips",
  about: "every port and MMIO register of the classic machine, time, interrupts and input",
  maxInput: 512,
  *seeds() {
    const pic = [
      [0x20, 0x11],
      [0x21, 0x20],
      [0x21, 4],
      [0x21, 1],
      [0x21, 0],
    ] as const;
    yield writes(...pic, [0x43, 0x34], [0x40, 0xa9], [0x40, 4])
      .u8(12, 3, 6, 20, 3, 6)
      .done();
    yield writes([0x43, 0xb6], [0x42, 0x34], [0x42, 0x12], [0x61, 3]).u8(3, 2, 12, 9).done();
    yield writes([0x70, 0x0b], [0x71, 0x72], [0x70, 0x0c]).u8(3, 5, 28, 2, 3, 5).done();
    yield writes([0x3fb, 0x83], [0x3f8, 1], [0x3fb, 3], [0x3f9, 15], [0x3fa, 7], [0x3f8, 65])
      .u8(0x45, 1, 2, 3, 4, 13, 12, 1)
      .done();
    yield new ChoicesWriter()
      .u8(0x10, PORTS.indexOf(0xcf8))
      .u32(0x80000810)
      .u8(0x10, PORTS.indexOf(0xcfc))
      .u32(0xffffffff)
      .u8(0x13, PORTS.indexOf(0xcfc))
      .done();
    // COM1's reader takes nothing, or nothing for a while.
    const bytes = Array.from({ length: 18 }, () => [0x3f8, 65] as const);
    const blocked = [0xf5, ...writes([0x3fa, 1], ...bytes).done()];
    yield Uint8Array.from(blocked);
    yield Uint8Array.from([...blocked, 0xf5, 0x0d]);
    yield dma();
    yield writes([0x92, 1]).done();
    yield new ChoicesWriter().u8(7, 0, 0, 0x27, 1, 4, 1, 2, 3, 4, 5, 6, 7, 8).done();
  },
  run(input) {
    const choices = new Bytes(input);
    rig.reset(choices);
    while (!choices.ended) {
      rig.begin();
      step(choices);
      // As its process does: whatever ends a machine is asked for at each exit.
      machine.event = undefined;
    }
    rig.check();
    must(!Number.isNaN(machine.clock.deadline), "the clock's deadline is no number");
    const stuck = rig.roundTrip();
    must(stuck.length === 0, `can't be quiesced: ${stuck.join("; ")}`);
    rig.check();
  },
};
