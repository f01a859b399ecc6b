import { RunPage, ExitReason } from "../../src/vmm/exit.ts";
import type { Engine } from "../../src/vmm/engine.ts";
import { MachineImage } from "../../src/vmm/image.ts";
import type { Size } from "../../src/vmd/device.ts";
import { type Stop, Vcpu } from "../../src/vmd/vcpu.ts";
import { Choices, ChoicesWriter } from "../own/choices.ts";
import { must, type Target } from "../own/target.ts";
import { Rig } from "./rig.ts";

const PAGES = 0x3000;
/** Data of string instructions; two pages lie behind the run page's head. */
const DATA = 0x1000;
/** No BAR goes below 0x1000. */
const PORT = 0x800;
const MMIO = 0xd0000000;
const MMIO_SIZE = 0x1000;
const ITEMS_MAX = 64;

const rig = new Rig();
const page = new MachineImage([{ base: 0, size: PAGES, readonly: false }]);
const run = new RunPage(page.memory.pointer(0, PAGES), PAGES);

/** What reached the port and the registers that only this target has. */
let seen: (readonly [what: string, size: number, value: number])[] = [];
let counter = 0;
const answer = (size: number) => ++counter % 2 ** (8 * size);
rig.machine.ports.add(
  PORT,
  8,
  {
    read: (_, size) => {
      const value = answer(size);
      seen.push(["in", size, value]);
      return value;
    },
    write: (_, size, value) => void seen.push(["out", size, value]),
  },
  4,
);
rig.machine.mmio.add(MMIO, MMIO_SIZE, {
  read: (_, data, size) => {
    data.fill(++counter & 0xff, 0, size);
    seen.push(["load", size, counter & 0xff]);
  },
  write: (_, data, size) => void seen.push(["store", size, data[0]]),
});

const PORTS = [PORT, PORT, PORT + 4, 0x3f8, 0x402, 0x20, 0x40, 0x71, 0xcf8, 0xcfc, 0x2014, 0x80];
const ADDRESSES = [MMIO, MMIO + 8, MMIO + MMIO_SIZE - 4, 0xfee00000, 0xfec00000, 0xa0000];
const SIZES: readonly Size[] = [1, 2, 4];

function value(at: number, size: number): number {
  if (size === 1) return run.u8[at];
  return size === 2 ? run.view.getUint16(at, true) : run.view.getUint32(at, true);
}

/** An exit of the input's, and afterwards what must have come of it. */
function exit(choices: Choices): () => void {
  const what = choices.u8();
  run.u8[12] = (what >> 6) & 1;
  run.u8[13] = what >> 7;
  seen = [];
  switch (what & 7) {
    case 0:
    case 1:
    case 2:
      return io(choices, (what >> 3) & 1);
    case 3:
    case 4:
      return mmio(choices, (what >> 3) & 1);
    case 5: {
      run.u32[2] = (what & 8) === 0 ? ExitReason.RDMSR : ExitReason.WRMSR;
      run.u32[11] = choices.of([0x17, 0x8b, 0xfe, 0xc0010015, 0x10, 0xffffffff]);
      return () => {};
    }
    default: {
      const { HLT, INTR, IRQ_WINDOW_OPEN, SHUTDOWN, INTERNAL_ERROR, FAIL_ENTRY, DEBUG } =
        ExitReason;
      run.u32[2] = choices.of([
        ...[HLT, INTR, INTR, IRQ_WINDOW_OPEN, SHUTDOWN, INTERNAL_ERROR, FAIL_ENTRY, DEBUG],
        ...[ExitReason.UNKNOWN, 1000],
      ]);
      run.u32[8] = choices.u8();
      return () => {};
    }
  }
}

function io(choices: Choices, direction: number): () => void {
  const size = choices.of(SIZES);
  const count = 1 + choices.below(ITEMS_MAX);
  const port = choices.of(PORTS);
  // Where the items lie has no alignment.
  const at = DATA + choices.u8();
  run.u32[2] = ExitReason.IO;
  run.u8[32] = direction;
  run.u8[33] = size;
  run.u16[17] = port;
  run.u32[9] = count;
  run.u32[10] = at;
  const bytes = choices.take(size * count);
  run.u8.fill(0x5a, DATA, PAGES);
  run.u8.set(bytes, at);
  const before = run.u8.slice(DATA, PAGES);
  return () => {
    const end = at + size * count;
    const after = run.u8.slice(DATA, PAGES);
    const first = direction === 1 ? end : at;
    const changed = after.findIndex((byte, i) => {
      return byte !== before[i] && !(i + DATA >= first && i + DATA < end);
    });
    must(changed < 0, `a string instruction changed byte ${changed} beside its items`);
    if (port !== PORT && port !== PORT + 4) return;
    must(
      seen.length === count,
      `${count} items of a string instruction made ${seen.length} accesses`,
    );
    for (const [index, [, width, item]] of seen.entries()) {
      const said = value(at + index * size, size);
      must(
        width === size && item === said,
        `item ${index}: ${item} of ${width} bytes, not ${said}`,
      );
    }
  };
}

function mmio(choices: Choices, write: number): () => void {
  const length = [1, 2, 4, 8][choices.below(4)];
  const address = choices.of(ADDRESSES) + (choices.u8() & 7);
  run.u32[2] = ExitReason.MMIO;
  run.u32[8] = address;
  run.u32[9] = choices.u8() === 255 ? choices.u32() : 0;
  run.u32[12] = length;
  run.u8[52] = write;
  run.u8.fill(0x5a, RunPage.MMIO_DATA, RunPage.MMIO_DATA + 8);
  const high = run.u32[9];
  return () => {
    const inside = high === 0 && address >= MMIO && address + length <= MMIO + MMIO_SIZE;
    if (!inside) {
      must(seen.length === 0, "an access beside a device's registers reached it");
      return;
    }
    must(
      seen.length === 1 && seen[0][1] === length,
      `an access of ${length} bytes was ${seen.length}`,
    );
    const rest = run.u8.slice(RunPage.MMIO_DATA + length, RunPage.MMIO_DATA + 8);
    must(
      rest.every((byte) => byte === 0x5a),
      "more was read than asked for",
    );
  };
}

/** An engine whose guest is the input. */
class InputEngine {
  readonly run = run;
  readonly #choices: Choices;
  readonly #attention: Int32Array;
  #check = () => {};
  #warps = 0;

  constructor(choices: Choices, attention: Int32Array) {
    this.#choices = choices;
    this.#attention = attention;
  }

  can(): boolean {
    return true;
  }

  check(): void {
    this.#check();
    this.#check = () => {};
  }

  enter(): number {
    this.check();
    rig.begin();
    if (this.#choices.ended) {
      this.#attention[0] = 1;
      run.u32[2] = ExitReason.INTR;
    } else this.#check = exit(this.#choices);
    return 0;
  }

  now(): number {
    return rig.time.time;
  }

  setDeadline(): void {}

  interrupt(vector: number): void {
    must(vector >= 0 && vector < 256, `interrupt ${vector}`);
  }

  warp(ns: number): void {
    rig.time.time += ns;
    // It may sleep for ever, its timers going off in vain: until somebody wants something.
    if (++this.#warps % 64 === 0) this.#attention[0] = 1;
  }

  /** A guest that sleeps is woken by its next timer, or by somebody. */
  wait(until: number): void {
    if (Number.isFinite(until)) rig.time.time = Math.max(until, rig.time.time);
    else this.#attention[0] = 1;
  }
}

export const target: Target = {
  name: "exits",
  about: "the vCPU loop: string I/O, MMIO, MSRs, halts and every other exit",
  maxInput: 512,
  *seeds() {
    for (const direction of [0, 8]) {
      for (const size of [0, 1, 2]) {
        yield new ChoicesWriter()
          .u8(direction, size, 5, 0, 3, ...new Uint8Array(24).fill(7))
          .done();
        yield new ChoicesWriter().u8(3 + direction, size, 0, 0, 0).done();
      }
    }
    yield new ChoicesWriter().u8(5, 0, 13, 1, 0xc6, 0, 0, 0x46, 1, 0).done();
    yield new ChoicesWriter().u8(7, 4, 0, 0, 0, 9, 3, 0).done();
  },
  run(input) {
    const choices = new Choices(input);
    rig.reset(choices);
    counter = 0;
    run.u8.fill(0, 0, DATA);
    const attention = new Int32Array(1);
    const engine = new InputEngine(choices, attention);
    const vcpu = new Vcpu(engine as unknown as Engine, rig.machine, true);
    vcpu.attention = attention;
    for (let stops = 0; stops < 64; stops++) {
      const stop: Stop = vcpu.run();
      engine.check();
      if (choices.ended && stop.kind === "attention") break;
      must(stop.kind !== "crash" || stop.why.length > 0, "an end without a reason");
      attention[0] = 0;
      vcpu.halted = false;
    }
    rig.check();
  },
};
