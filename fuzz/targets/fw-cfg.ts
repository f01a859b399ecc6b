import { Choices, ChoicesWriter } from "../own/choices.ts";
import { must, type Target } from "../own/target.ts";
import { DRIVER_BASE, RAM, Rig } from "./rig.ts";

const SELECTOR = 0x510;
const DATA = 0x511;
const DMA_HIGH = 0x514;
const DMA_LOW = 0x518;
const KEYS = [0x00, 0x01, 0x05, 0x19, 0x20, 0x21, 0x22, 0x23, 0x8003, 0xffff];
const rig = new Rig();
const { memory } = rig;
/** Pages that nobody but the guest may change. */
const GUARD = DRIVER_BASE + 0x20000;
const guard = new Uint8Array(64);
/** No operation so far may have reached them. */
let guarded = true;

const swap = (value: number) =>
  ((value << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | (value >>> 24)) >>> 0;

function descriptor(at: number, control: number, length: number, address: number): void {
  memory.write32(at, swap(control));
  memory.write32(at + 4, swap(length));
  memory.write32(at + 8, swap(Math.floor(address / 2 ** 32)));
  memory.write32(at + 12, swap(address % 2 ** 32));
}

function step(choices: Choices): void {
  const what = choices.u8();
  switch (what & 3) {
    case 0:
      rig.write(SELECTOR, 2, choices.of(KEYS));
      return;
    case 1:
      rig.read(DATA, 1);
      return;
    case 2:
      guarded = false;
      rig.ahead(1 + choices.below(4), { skip: choices.below(8) });
      return;
    default:
      operate(what, choices);
  }
}

/** A DMA operation, whose descriptor may lie anywhere, as what it names may. */
function operate(what: number, choices: Choices): void {
  const at = (what & 4) === 0 ? DRIVER_BASE + 16 * choices.u8() : RAM - choices.u8();
  const control =
    choices.of([2, 4, 0x10, 0x18, 0, 0xffff]) + choices.of(KEYS) * 0x10000 + (what & 8);
  const length = (what & 0x10) === 0 ? choices.u8() : choices.u32();
  const address =
    (what & 0x20) === 0
      ? DRIVER_BASE + 0x1000 + choices.u16()
      : [RAM - choices.u8(), choices.u32(), 2 ** 32 * choices.u16() + choices.u32()][what % 3];
  if ((what & 0x30) !== 0) guarded = false;
  if (memory.contains(at, 16)) descriptor(at, control >>> 0, length, address);
  rig.write(DMA_HIGH, 4, swap(what < 250 ? 0 : choices.u8()));
  rig.write(DMA_LOW, 4, swap(at));
  if (guarded) {
    memory.read(GUARD, guard);
    must(
      guard.every((byte) => byte === 0),
      "an operation wrote behind its buffer",
    );
  }
}

export const target: Target = {
  name: "fw-cfg",
  about: "firmware configuration by ports and DMA, descriptors that change while they are read",
  maxInput: 512,
  *seeds() {
    const dma = (control: number, key: number, length: number) =>
      new ChoicesWriter().u8(3, 1, control, key, length).u16(0);
    yield new ChoicesWriter().u8(0, 0, 1, 1, 1, 1, 1).done();
    for (const key of [0, 3, 4, 5, 6, 7]) yield dma(0, key, 64).done();
    yield new ChoicesWriter()
      .u8(0, 3, 3, 1, 1, 3, 16)
      .u16(0)
      .bytes(dma(0, 3, 200).done())
      .done();
    for (const skip of [0, 4]) {
      const ahead = new ChoicesWriter().u8(2, 0, skip, 3, 1, 0, 3, 16).u16(0);
      yield ahead.bytes(new Uint8Array(24)).done();
    }
  },
  run(input) {
    const choices = new Choices(input);
    rig.reset(choices);
    guarded = true;
    while (!choices.ended) {
      rig.begin();
      step(choices);
    }
    rig.ahead(0);
    rig.check();
    rig.machine.reset();
    rig.write(SELECTOR, 2, 0);
    const signature = Array.from("QEMU", () => String.fromCharCode(rig.read(DATA, 1))).join("");
    must(signature === "QEMU", `after a reset the signature reads as ${signature}`);
  },
};
