import { type Choices, ChoicesWriter } from "../own/choices.ts";
import type { Target } from "../own/target.ts";
import { FuzzDisc } from "./block-backends.ts";
import { GuestRun } from "./guest.ts";
import { Rig } from "./rig.ts";
import { guestSeeds } from "./seeds.ts";

const [CONTROL, REQUEST] = [0, 2];
const OPCODES = [
  0x00, 0x03, 0x08, 0x12, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x43, 0x46, 0x4a, 0x51, 0x5a, 0x9e, 0xa0,
  0xa8, 0xbd,
];
const ANSWER = 108;
/** LUN 0 of target 0. */
const UNIT = 1;

let backend!: FuzzDisc;
const rig = new Rig((memory) => {
  backend = new FuzzDisc(memory);
  return { cdrom: backend };
});

function task(subtype: number, id: number): Uint8Array {
  const bytes = new Uint8Array(24);
  bytes[4] = subtype;
  bytes[8] = UNIT;
  bytes[16] = id;
  return bytes;
}

const run = new GuestRun({
  device: 2,
  prompt: [0, 2],
  rig,
  backend,
  good(choices: Choices) {
    const how = choices.u8();
    if ((how & 7) === 7) {
      const bytes = task(choices.below(9), how >> 4);
      if ((how & 8) !== 0) bytes.set([1, 0, 0, 0, UNIT]);
      return { queue: CONTROL, parts: [bytes, (how & 8) !== 0 ? 5 : 1] };
    }
    const bytes = new Uint8Array(19 + 32);
    bytes[0] = UNIT;
    bytes[8] = how >> 4;
    bytes[19] = choices.of(OPCODES);
    bytes.set(choices.take(11), 20);
    return { queue: REQUEST, parts: [bytes, ANSWER, 16 * choices.u8()] };
  },
  probe(guest) {
    const bytes = new Uint8Array(19 + 32);
    bytes[0] = UNIT;
    const { data } = guest.queues[REQUEST].request([bytes, ANSWER]);
    return data[10] === 0 && data[11] === 0;
  },
});

export const target: Target = {
  name: "virtio-scsi",
  about: "a CD-ROM drive: commands, task management, reads that are out",
  maxInput: 1024,
  seeds: () =>
    guestSeeds([
      ...OPCODES.map((_, index) =>
        new ChoicesWriter().u8(0, index, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 128),
      ),
      new ChoicesWriter().u8(7, 0),
      new ChoicesWriter().u8(15, 1),
    ]),
  run: (input) => run.run(input),
};
