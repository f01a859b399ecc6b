import { describe, expect, test } from "bun:test";
import { ManualTime } from "../vmm/clock.ts";
import { MachineImage } from "../vmm/image.ts";
import { ClassicMachine, type MachineOptions, memoryRanges } from "./machine.ts";

const MIB = 2 ** 20;
const MEMORY = 8 * MIB;

interface Built extends Disposable {
  image: MachineImage;
  time: ManualTime;
  machine: ClassicMachine;
  output: () => string;
  debug: () => string;
}

function build(options: Partial<MachineOptions> = {}): Built {
  const memory = options.memory ?? MEMORY;
  const image = new MachineImage(memoryRanges(memory, undefined));
  const time = new ManualTime();
  const output: Uint8Array[] = [];
  const debug: Uint8Array[] = [];
  const machine = new ClassicMachine(image, time, {
    memory,
    epoch: Date.UTC(2021, 1, 3, 4, 5, 6),
    debugExit: false,
    output: (bytes) => output.push(bytes),
    debug: (bytes) => debug.push(bytes),
    ...options,
  });
  time.clock = machine.clock;
  machine.reset();
  return {
    image,
    time,
    machine,
    output: () => Buffer.concat(output).toString("latin1"),
    debug: () => Buffer.concat(debug).toString("latin1"),
    [Symbol.dispose]: () => image[Symbol.dispose](),
  };
}

function cmos({ machine }: Built, index: number): number {
  machine.ports.write(0x70, 1, index);
  return machine.ports.read(0x71, 1);
}

describe("memory", () => {
  test("lies below the PCI hole and from 4 GiB on, with a gap for video memory", () => {
    for (const memory of [MEMORY, 6 * 2 ** 30]) {
      const ranges = memoryRanges(memory, undefined);
      const has = (address: number) =>
        ranges.some(({ base, size }) => address >= base && address < base + size);
      expect([0, 0x9ffff, 0xf0000, 0x100000, MEMORY - 1].map(has)).not.toContain(false);
      expect([0xa0000, 0xbffff, 0xf8000000, 0xfee00000, 0xffffffff].map(has)).not.toContain(true);
      expect([has(2 ** 32), has(MEMORY)]).toEqual([memory > 2 ** 32, memory > 2 ** 32]);
      expect(ranges.every(({ readonly }) => !readonly)).toBe(true);
      const end = Math.max(...ranges.map(({ base, size }) => base + size));
      expect(end).toBeGreaterThanOrEqual(memory);
    }
  });

  test("firmware is a range for reading", () => {
    const rom = { base: 2 ** 32 - 0x20000, size: 0x20000 };
    expect(memoryRanges(MEMORY, rom).at(-1)).toEqual({ ...rom, readonly: true });
  });

  test("the NVRAM and the memory map tell the same", () => {
    using one = build({ memory: 64 * MIB });
    const above16 = cmos(one, 0x34) | (cmos(one, 0x35) << 8);
    expect(above16 * 65536).toBe(48 * MIB);
    const ends = one.machine.e820.filter((e) => e.type === 1).map((e) => e.base + e.size);
    expect(Math.max(...ends)).toBe(64 * MIB);
  });
});

describe("ports", () => {
  test.each([
    0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71,
    0x92, 0xcf9, 0x3f8, 0x3ff, 0x402, 0xe9, 0x510, 0x511, 0x514, 0x51b, 0xcf8, 0xcfc, 0xcff,
  ])("0x%x is there", (port) => {
    using one = build();
    expect(one.machine.ports.has(port)).toBe(true);
  });

  test.each([0x2f8, 0x1f0, 0x80, 0xf4, 0x3f7, 0x400])("0x%x is nobody's", (port) => {
    using one = build();
    expect(one.machine.ports.has(port)).toBe(false);
    expect(one.machine.ports.read(port, 4)).toBe(0xffffffff);
  });

  test("0xf4 ends the machine when that is wanted", () => {
    using one = build({ debugExit: true });
    one.machine.ports.write(0xf4, 4, 3);
    expect(one.machine.event).toEqual({ kind: "exit", code: 7 });
  });

  test("a reset is an event, of which the first counts", () => {
    using one = build();
    one.machine.ports.write(0xcf9, 1, 6);
    one.machine.ports.write(0x64, 1, 0xfe);
    expect(one.machine.event).toEqual({ kind: "reset", by: "port 0xcf9" });
    one.machine.reset();
    expect(one.machine.event).toBeUndefined();
  });

  test("a local APIC reads as zeroes, the rest of the hole as ones", () => {
    using one = build();
    const data = new Uint8Array(8).fill(0x55);
    one.machine.mmio.read(0xfee00030, data, 4);
    expect([...data.subarray(0, 4)]).toEqual([0, 0, 0, 0]);
    one.machine.mmio.read(0xfec00000, data, 8);
    expect([...data]).toEqual(Array(8).fill(0xff));
  });
});

describe("serial ports", () => {
  test("COM1 goes to the console, debug ports to the log", () => {
    using one = build();
    for (const byte of Buffer.from("hi\n")) one.machine.ports.write(0x3f8, 1, byte);
    for (const byte of Buffer.from("bios")) one.machine.ports.write(0x402, 1, byte);
    expect([one.output(), one.debug()]).toEqual(["hi\n", ""]);
    one.machine.flush();
    expect(one.debug()).toBe("bios");
    expect([one.machine.ports.read(0x402, 1), one.machine.ports.read(0xe9, 1)]).toEqual([
      0xe9, 0xe9,
    ]);
  });

  test("input waits for the UART and is read in order", () => {
    using one = build();
    one.machine.console.input(Buffer.from("abc"));
    one.machine.idle();
    const got: number[] = [];
    for (let i = 0; i < 3; i++) {
      expect(one.machine.ports.read(0x3fd, 1) & 1).toBe(1);
      got.push(one.machine.ports.read(0x3f8, 1));
    }
    expect(Buffer.from(got).toString()).toBe("abc");
    expect(one.machine.ports.read(0x3fd, 1) & 1).toBe(0);
  });

  test("a UART's interrupt is IRQ 4", () => {
    using one = build();
    const { ports, interrupts } = one.machine;
    for (const [port, value] of [
      [0x20, 0x11],
      [0x21, 0x30],
      [0x21, 4],
      [0x21, 1],
      [0x21, 0xef],
      [0x3fc, 8],
      [0x3f9, 2],
    ]) {
      ports.write(port, 1, value);
    }
    expect(interrupts.pending).toBe(true);
    expect(interrupts.acknowledge()).toBe(0x34);
  });
});

describe("time", () => {
  test("the clock starts at the epoch and goes with guest time", () => {
    using one = build();
    const read = () => [9, 8, 7, 4, 2, 0].map((index) => cmos(one, index).toString(16));
    expect(read()).toEqual(["21", "2", "3", "4", "5", "6"]);
    one.time.time = 50e9;
    one.machine.clock.expire();
    expect(read()).toEqual(["21", "2", "3", "4", "5", "56"]);
  });

  test("a jump of the host's clock moves the RTC, and tells the guest to look", () => {
    let host = Date.UTC(2021, 1, 3, 4, 5, 6);
    using one = build({ hostTime: () => host });
    const { ports, vmmci, clock } = one.machine;
    const pass = () => {
      one.time.time += 1e9;
      host += 1000;
      clock.expire();
    };
    host += 60_000;
    pass();
    expect([cmos(one, 2), cmos(one, 0)]).toEqual([0x05, 0x07]);
    ports.write(0x1004, 4, 7);
    ports.write(0x1012, 1, 7);
    pass();
    expect([cmos(one, 2), cmos(one, 0)]).toEqual([0x06, 0x08]);
    expect([ports.read(0x1014, 4), ports.read(0x1013, 1)]).toEqual([3, 2]);
    ports.write(0x1014, 4, 3);
    pass();
    expect(ports.read(0x1014, 4)).toBe(0);
    one.machine.syncTime();
    expect(ports.read(0x1014, 4)).toBe(3);
    ports.write(0x1012, 1, 0);
    expect(vmmci.syncsRtc).toBe(false);
    host += 60_000;
    pass();
    expect([cmos(one, 2), cmos(one, 0)]).toEqual([0x06, 0x10]);
  });

  test("without a host's clock, vmmci tells the guest's, and asks nothing", () => {
    using one = build();
    const { ports } = one.machine;
    ports.write(0x1004, 4, 7);
    ports.write(0x1012, 1, 7);
    one.time.time = 12.5e9;
    expect(ports.read(0x1018, 4)).toBe(Date.UTC(2021, 1, 3, 4, 5, 18) / 1000);
    expect(ports.read(0x1020, 4)).toBe(500_000);
    one.machine.syncTime();
    expect(ports.read(0x1014, 4)).toBe(0);
  });

  test("the timer's interrupt is IRQ 0", () => {
    using one = build();
    const { ports, interrupts, clock } = one.machine;
    ports.write(0x43, 1, 0x30);
    for (const [port, value] of [
      [0x20, 0x11],
      [0x21, 0x20],
      [0x21, 4],
      [0x21, 1],
      [0x21, 0xfe],
      [0x40, 0xa9],
      [0x40, 0x04],
    ]) {
      ports.write(port, 1, value);
    }
    expect(interrupts.pending).toBe(false);
    expect(clock.deadline).toBeGreaterThan(0.9e6);
    expect(clock.deadline).toBeLessThan(1.1e6);
    one.time.time = clock.deadline;
    clock.expire();
    expect(interrupts.pending).toBe(true);
    expect(interrupts.acknowledge()).toBe(0x20);
  });
});

describe("the machine is its image", () => {
  // Touches every chip.
  function use({ machine, time }: Built): void {
    const { ports } = machine;
    const writes = [
      [0x20, 0x11],
      [0x21, 0x50],
      [0x21, 4],
      [0x21, 1],
      [0x21, 0xaa],
      [0x43, 0xb6],
      [0x42, 0x34],
      [0x42, 0x12],
      [0x61, 1],
      [0x70, 0x0e],
      [0x71, 0x77],
      [0x3fb, 0x83],
      [0x3f8, 0x0c],
      [0x3fb, 3],
      [0x3ff, 0x5a],
      [0x92, 2],
    ];
    for (const [port, value] of writes) ports.write(port, 1, value);
    ports.write(0xcf8, 4, 0x80000004);
    ports.write(0x510, 2, 0x19);
    time.time += 12345678;
    machine.clock.expire();
  }

  function look(one: Built): number[] {
    const { ports } = one.machine;
    ports.write(0x43, 1, 0x80);
    return [
      ...[0x21, 0xa1, 0x42, 0x42, 0x61, 0x3f9, 0x3fb, 0x3fd, 0x3ff, 0x92].map((port) =>
        ports.read(port, 1),
      ),
      cmos(one, 0x0e),
      ports.read(0xcf8, 4),
      ports.read(0xcfc, 4),
      ports.read(0x511, 1),
      one.machine.clock.now,
      one.machine.clock.deadline,
    ];
  }

  test("a copy of it goes on as the original does", () => {
    using one = build();
    using two = build();
    use(one);
    two.image.state.set(one.image.state);
    two.time.time = one.time.time;
    expect(look(two)).toEqual(look(one));
    use(one);
    use(two);
    expect(look(two)).toEqual(look(one));
    expect(Buffer.from(two.image.state).equals(one.image.state)).toBe(true);
  });

  test("making a machine on an image changes nothing in it; reset makes it as new", () => {
    using one = build();
    const fresh = one.image.state.slice();
    use(one);
    const used = one.image.state.slice();
    expect(Buffer.from(used).equals(fresh)).toBe(false);
    using two = build();
    two.image.state.set(used);
    expect(look(two)).toEqual(look(one));

    one.time.time = 0;
    one.machine.reset();
    using three = build();
    // Ports only: the NVRAM has a battery.
    expect(look(one).slice(0, 10)).toEqual(look(three).slice(0, 10));
  });

  test("whatever is read and written at its ports, nothing throws", () => {
    using one = build({ debugExit: true });
    const { ports, mmio } = one.machine;
    const data = new Uint8Array(8);
    let seed = 1;
    const random = (below: number) => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return Math.floor((seed / 2 ** 32) * below);
    };
    const known = Array.from({ length: 0x10000 }, (_, port) => port).filter((p) => ports.has(p));
    for (let i = 0; i < 100_000; i++) {
      const port = known[random(known.length)];
      const size = ([1, 2, 4] as const)[random(3)];
      if (random(2) === 0) ports.write(port, size, random(2 ** (8 * size)));
      else {
        const value = ports.read(port, size);
        if (!(value >= 0 && value < 2 ** (8 * size))) throw new Error(`${port}/${size}: ${value}`);
      }
      if (random(16) === 0) {
        one.time.time += random(1e6);
        one.machine.clock.expire();
      }
      if (random(64) === 0) one.machine.console.input(data.subarray(0, random(8)));
      if (random(32) === 0 && one.machine.interrupts.pending) one.machine.interrupts.acknowledge();
      if (random(32) === 0) one.machine.idle();
      mmio.read(0xfee00000 + random(0x2000), data, 4);
    }
  });
});
