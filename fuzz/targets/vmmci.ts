import { VmmciCommand } from "../../src/vmd/virtio/vmmci.ts";
import { Choices, ChoicesWriter } from "../own/choices.ts";
import { must, type Target } from "../own/target.ts";
import { Rig } from "./rig.ts";

const BASE = 0x1000;
const PLACES = [
  0, 4, 8, 0xc, 0xe, 0x10, 0x12, 0x13, 0x14, 0x18, 0x1c, 0x20, 0x28, 0x34, 0x38, 0xffe,
];
const SIZES = [1, 2, 4] as const;
const rig = new Rig();
const { vmmci } = rig.machine;

function step(choices: Choices): void {
  const what = choices.u8();
  const at = BASE + choices.of(PLACES) + ((what & 0x80) !== 0 ? choices.u8() & 3 : 0);
  const size = SIZES[(what >> 4) % 3];
  switch (what & 3) {
    case 0:
      rig.write(at, size, size === 4 ? choices.u32() : choices.u8());
      return;
    case 1:
      rig.read(at, size);
      return;
    case 2:
      vmmci.request(choices.below(5));
      return;
    default:
      rig.pass(choices.u16() * 1e5);
  }
}

export const target: Target = {
  name: "vmmci",
  about: "the channel by which a guest is shut down and told the time",
  maxInput: 256,
  *seeds() {
    const ready = new ChoicesWriter().u8(0, 6, 3, 0x20, 1).u32(7).u8(0, 6, 7);
    yield ready.u8(2, 0, 1, 1, 8, 0x20, 8).u32(1).u8(1, 7).done();
    yield new ChoicesWriter().u8(0x21, 9, 0x21, 10, 0x21, 11).done();
  },
  run(input) {
    const choices = new Choices(input);
    rig.reset(choices);
    while (!choices.ended) {
      rig.begin();
      step(choices);
    }
    rig.check();
    rig.roundTrip();
    rig.machine.reset();
    must(!vmmci.hasDriver && !vmmci.request(VmmciCommand.SHUTDOWN), "a reset leaves a driver");
    rig.write(BASE + 4, 4, 7);
    rig.write(BASE + 0x12, 1, 7);
    must(vmmci.request(VmmciCommand.SHUTDOWN), "a good driver can't be asked");
    must(rig.read(BASE + 0x14, 4) === 1 && rig.read(BASE + 0x13, 1) === 2, "it isn't told of it");
  },
};
