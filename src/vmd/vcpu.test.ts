import { beforeEach, describe, expect, test } from "bun:test";
import { manualClock, type ManualTime, type Timer } from "../vmm/clock.ts";
import { Capability, type Engine } from "../vmm/engine.ts";
import { ExitReason, exitName, RunPage } from "../vmm/exit.ts";
import { MachineImage } from "../vmm/image.ts";
import { MmioBus, PortBus } from "./bus.ts";
import type { Size } from "./device.ts";
import { type Hardware, Vcpu } from "./vcpu.ts";

const image = new MachineImage([{ base: 0, size: 0x3000, readonly: false }]);

type Exit = (run: RunPage) => number | void;

/** An engine whose guest is a list of exits. */
class ScriptedEngine {
  readonly run = new RunPage(image.memory.pointer(0, 0x3000), 0x3000);
  readonly capabilities: number;
  readonly log: string[] = [];
  readonly #time: ManualTime;
  exits: Exit[] = [];
  /** Called by wait. */
  waiting: (until: number) => void = (until) => {
    this.#time.time = until;
  };

  constructor(time: ManualTime, capabilities = 0) {
    this.#time = time;
    this.capabilities = capabilities;
  }

  can(capability: number): boolean {
    return (this.capabilities & capability) !== 0;
  }

  enter(): number {
    const exit = this.exits.shift();
    if (exit === undefined) throw new Error("the guest ran on");
    this.log.push(this.run.u8[0] !== 0 ? "enter, window" : "enter");
    return exit(this.run) ?? 0;
  }

  setDeadline(at: number): void {
    this.log.push(`deadline ${at}`);
  }

  interrupt(vector: number): void {
    this.log.push(`interrupt ${vector}`);
    this.run.u8[12] = 0;
  }

  warp(ns: number): void {
    this.#time.time += ns;
  }

  wait(until: number): void {
    this.log.push(`wait ${until}`);
    this.waiting(until);
  }
}

const io =
  (direction: "in" | "out", port: number, size: Size, data: number[]): Exit =>
  (run) => {
    run.u32[2] = ExitReason.IO;
    run.u8[12] = 0;
    run.u8[32] = direction === "out" ? 1 : 0;
    run.u8[33] = size;
    run.u16[17] = port;
    run.u32[9] = data.length;
    run.u32[10] = 0x1003; // no item is aligned
    data.forEach((value, i) => {
      for (let byte = 0; byte < size; byte++) {
        run.u8[0x1003 + i * size + byte] = (value >>> (8 * byte)) & 0xff;
      }
    });
  };

const plain =
  (reason: number, { ready = false, enabled = false } = {}): Exit =>
  (run) => {
    run.u32[2] = reason;
    run.u8[12] = ready ? 1 : 0;
    run.u8[13] = enabled ? 1 : 0;
  };

const halt = (enabled: boolean): Exit => plain(ExitReason.HLT, { ready: enabled, enabled });
const shutdown = plain(ExitReason.SHUTDOWN);

let time: ManualTime;
let engine: ScriptedEngine;
let hardware: Hardware & { requests: number[]; idled: number };
let vcpu: Vcpu;
let timer: Timer;

function build(capabilities = 0, virtualTime = false): void {
  image.memory.fill(0, 0x3000, 0);
  const made = manualClock();
  time = made.time;
  engine = new ScriptedEngine(time, capabilities);
  const requests: number[] = [];
  hardware = {
    requests,
    idled: 0,
    ports: new PortBus(),
    mmio: new MmioBus(),
    clock: made.clock,
    event: undefined,
    interrupts: {
      get pending() {
        return requests.length > 0;
      },
      acknowledge: () => requests.shift() as number,
    },
    idle() {
      this.idled++;
    },
  };
  timer = made.clock.timer(() => requests.push(0x20));
  vcpu = new Vcpu(engine as unknown as Engine, hardware, virtualTime);
}

beforeEach(() => build());

/** Runs a guest of these exits and then a triple fault. */
function run(...exits: Exit[]) {
  engine.exits = [...exits, shutdown];
  const stop = vcpu.run();
  engine.exits = [];
  return stop;
}

const RESET = { kind: "reset", by: "triple fault" } as const;

describe("ports", () => {
  const seen: string[] = [];
  let next = 0;
  beforeEach(() => {
    seen.length = 0;
    next = 0x11223344;
    hardware.ports.add(
      0x300,
      8,
      {
        read: (port, size) => {
          seen.push(`in ${port.toString(16)}/${size}`);
          return next++;
        },
        write: (port, size, value) => {
          seen.push(`out ${port.toString(16)}/${size} ${value.toString(16)}`);
        },
      },
      4,
    );
  });

  test("a write reaches its device", () => {
    expect(run(io("out", 0x300, 4, [0xdeadbeef]), io("out", 0x302, 1, [0xff]))).toEqual(RESET);
    expect(seen).toEqual(["out 300/4 deadbeef", "out 302/1 ff"]);
    expect(vcpu.exits).toBe(3);
  });

  test("a read's answer is in the run page", () => {
    run(io("in", 0x300, 4, [0]));
    expect(engine.run.view.getUint32(0x1003, true)).toBe(0x11223344);
    run(io("in", 0x300, 2, [0]));
    expect(engine.run.view.getUint16(0x1003, true)).toBe(0x3345);
  });

  test("a string instruction is item after item", () => {
    run(io("out", 0x300, 2, [1, 0x8002, 3]), io("in", 0x304, 4, [0, 0]));
    expect(seen).toEqual(["out 300/2 1", "out 300/2 8002", "out 300/2 3", "in 304/4", "in 304/4"]);
    expect(engine.run.view.getUint32(0x1003, true)).toBe(0x11223344);
    expect(engine.run.view.getUint32(0x1007, true)).toBe(0x11223345);
  });

  test("nobody there: all ones", () => {
    run(io("in", 0x999, 2, [0]));
    expect(engine.run.view.getUint16(0x1003, true)).toBe(0xffff);
  });
});

test("MMIO reaches its device, of 8 bytes too", () => {
  const seen: unknown[] = [];
  hardware.mmio.add(0x90000000, 0x1000, {
    read: (address, data, size) => {
      seen.push(["read", address, size]);
      data.fill(0xab, 0, size);
    },
    write: (address, data, size) => seen.push(["write", address, [...data.subarray(0, size)]]),
  });
  const mmio =
    (write: boolean, address: number, bytes: number[]): Exit =>
    (page) => {
      page.u32[2] = ExitReason.MMIO;
      page.u32[8] = address;
      page.u32[9] = 0;
      page.u32[12] = bytes.length;
      page.u8[52] = write ? 1 : 0;
      page.u8.set(bytes, RunPage.MMIO_DATA);
    };
  run(mmio(true, 0x90000010, [1, 2, 3, 4, 5, 6, 7, 8]), mmio(false, 0x90000020, [0, 0]));
  expect(seen).toEqual([
    ["write", 0x90000010, [1, 2, 3, 4, 5, 6, 7, 8]],
    ["read", 0x90000020, 2],
  ]);
  expect([...engine.run.u8.subarray(40, 43)]).toEqual([0xab, 0xab, 3]);
});

test("MSRs by policy", () => {
  const answers: [boolean, bigint][] = [];
  const msr =
    (reason: number, index: number): Exit =>
    (page) => {
      page.u32[2] = reason;
      page.u32[11] = index;
      page.msrData = 0x55n;
    };
  const look: Exit = (page) => {
    answers.push([page.u8[32] !== 0, page.msrData]);
    plain(ExitReason.INTR)(page);
  };
  const { RDMSR, WRMSR } = ExitReason;
  run(msr(RDMSR, 0x8b), look, msr(RDMSR, 0x12345), look, msr(WRMSR, 0x12345), look);
  expect(answers[0]).toEqual([false, 0n]);
  expect(answers[1][0]).toBe(true);
  expect(answers[2][0]).toBe(false);
});

describe("stops", () => {
  test("a device's event, once", () => {
    hardware.ports.add(0xf4, 1, {
      read: () => 0,
      write: () => {
        hardware.event = { kind: "exit", code: 7 };
      },
    });
    expect(run(io("out", 0xf4, 1, [3]))).toEqual({ kind: "exit", code: 7 });
    expect(hardware.event).toBeUndefined();
    expect(run()).toEqual(RESET);
  });

  test("a halt for ever", () => {
    expect(run(halt(false))).toEqual({ kind: "halt" });
    expect(hardware.idled).toBeGreaterThan(0);
  });

  test("an engine that fails, and exits that can't be gone on from", () => {
    expect(run(() => -14)).toEqual({ kind: "crash", why: "the engine failed with errno 14" });
    expect(run(plain(ExitReason.UNKNOWN))).toMatchObject({ kind: "crash" });
    const internal: Exit = (page) => {
      page.u32[2] = ExitReason.INTERNAL_ERROR;
      page.u32[8] = 1;
    };
    expect(run(internal)).toMatchObject({ why: expect.stringMatching(/can't emulate/) });
  });

  test("attention, before the guest runs and at a kick", () => {
    Atomics.store(vcpu.attention, 0, 1);
    expect(run()).toEqual({ kind: "attention" });
    expect(engine.log).toEqual([]);
    Atomics.store(vcpu.attention, 0, 0);
    const kicked: Exit = (page) => {
      Atomics.store(vcpu.attention, 0, 1);
      plain(ExitReason.INTR)(page);
    };
    expect(run(kicked)).toEqual({ kind: "attention" });
    Atomics.store(vcpu.attention, 0, 0);
    expect(run()).toEqual(RESET);
  });

  test("attention while halted; the guest is still halted afterwards", () => {
    timer.arm(1000);
    engine.waiting = () => void Atomics.store(vcpu.attention, 0, 1);
    expect(run(halt(true))).toEqual({ kind: "attention" });
    expect(vcpu.halted).toBe(true);
    Atomics.store(vcpu.attention, 0, 0);
    engine.waiting = (until) => {
      time.time = until;
    };
    engine.log.length = 0;
    expect(run()).toEqual(RESET);
    expect(vcpu.halted).toBe(false);
    expect(engine.log.slice(0, 2)).toEqual(["wait 1000", "interrupt 32"]);
  });
});

describe("interrupts", () => {
  test("go in when the guest is ready", () => {
    hardware.requests.push(0x24);
    run(plain(ExitReason.INTR, { ready: true, enabled: true }));
    const entries = engine.log.filter((line) => !line.startsWith("deadline"));
    expect(entries).toEqual(["enter, window", "interrupt 36", "enter"]);
  });

  test("one at a time, with the window asked for while more wait", () => {
    hardware.requests.push(0x24, 0x28);
    const open = plain(ExitReason.IRQ_WINDOW_OPEN, { ready: true, enabled: true });
    run(open, open);
    const entries = engine.log.filter((line) => !line.startsWith("deadline"));
    expect(entries).toEqual([
      "enter, window",
      "interrupt 36",
      "enter, window",
      "interrupt 40",
      "enter",
    ]);
  });

  test("wait for their window", () => {
    hardware.requests.push(0x24);
    run(io("in", 0x999, 1, [0]), io("in", 0x999, 1, [0]));
    expect(engine.log).not.toContain("interrupt 36");
    expect(hardware.requests).toEqual([0x24]);
  });

  test("end a halt at once when one is there", () => {
    hardware.requests.push(0x24);
    run(halt(true));
    expect(engine.log).toContain("interrupt 36");
    expect(engine.log.some((line) => line.startsWith("wait"))).toBe(false);
  });
});

describe("time", () => {
  test("the engine is told of a deadline when it changes, and only then", () => {
    timer.arm(5000);
    run(io("in", 0x999, 1, [0]), io("in", 0x999, 1, [0]));
    expect(engine.log.filter((line) => line.startsWith("deadline"))).toEqual(["deadline 5000"]);
  });

  test("timers run at a kick that finds them due", () => {
    timer.arm(5000);
    const due: Exit = (page) => {
      time.time = 5000;
      plain(ExitReason.INTR, { ready: true, enabled: true })(page);
    };
    run(due);
    expect(engine.log).toContain("interrupt 32");
  });

  test("a halted guest waits for the next timer", () => {
    timer.arm(7000);
    run(halt(true));
    expect(engine.log).toContain("wait 7000");
    expect(engine.log).toContain("interrupt 32");
    expect(time.time).toBe(7000);
  });

  test("a wait that ends early goes on", () => {
    timer.arm(7000);
    let waits = 0;
    engine.waiting = (until) => {
      time.time = ++waits < 3 ? waits * 1000 : until;
    };
    run(halt(true));
    expect(waits).toBe(3);
    expect(engine.log).toContain("interrupt 32");
  });

  test("virtual: nothing is waited for", () => {
    build(Capability.VIRTUAL_TIME, true);
    timer.arm(1e12);
    run(halt(true));
    expect(engine.log.some((line) => line.startsWith("wait"))).toBe(false);
    expect(engine.log).toContain("interrupt 32");
    expect(time.time).toBeGreaterThanOrEqual(1e12);
  });

  test("virtual, with no timer: input is waited for", () => {
    build(Capability.VIRTUAL_TIME, true);
    engine.waiting = () => void hardware.requests.push(0x24);
    run(halt(true));
    expect(engine.log).toContain("wait Infinity");
  });

  test("virtual time isn't tried on an engine that lacks it", () => {
    build(0, true);
    timer.arm(7000);
    run(halt(true));
    expect(engine.log).toContain("wait 7000");
  });
});

test("an observer sees exits, answers, ticks and interrupts, in order", () => {
  const seen: string[] = [];
  hardware.ports.add(0x300, 1, {
    read: () => {
      seen.push("device");
      return 0x42;
    },
    write: () => {},
  });
  vcpu.observer = {
    exited: (page) => seen.push(`exited ${exitName(page.reason)}`),
    answered: (page, now) =>
      seen.push(`answered ${exitName(page.reason)} ${page.u8[0x1003]} at ${now}`),
    tick: (now) => seen.push(`tick at ${now}`),
    interrupt: (vector, now) => seen.push(`interrupt ${vector} at ${now}`),
  };
  timer.arm(50);
  const due: Exit = (page) => {
    time.time = 60;
    plain(ExitReason.INTR, { ready: true, enabled: true })(page);
  };
  run(io("in", 0x300, 1, [0]), due);
  expect(seen).toEqual([
    "exited IO",
    "device",
    "answered IO 66 at 0",
    "exited INTR",
    "tick at 60",
    "answered INTR 66 at 60",
    "interrupt 32 at 60",
    "exited SHUTDOWN",
    "answered SHUTDOWN 66 at 60",
  ]);
});

test("an observer that can see no more ends the run with its sentence", () => {
  let failure: string | undefined;
  vcpu.observer = {
    exited: () => {},
    answered: () => {
      if (vcpu.exits === 2) failure = "trace: no space left on device";
    },
    tick: () => {},
    interrupt: () => {},
    get failure() {
      return failure;
    },
  };
  engine.exits = [io("out", 0x80, 1, [1]), io("out", 0x80, 1, [2]), io("out", 0x80, 1, [3])];
  expect(vcpu.run()).toEqual({ kind: "crash", why: "trace: no space left on device" });
  expect(vcpu.exits).toBe(2);
});

test("a signal of the host's, in real time, ends no run of who has a gate", () => {
  let admitted = 0;
  const admit = () => {
    admitted++;
    return undefined;
  };
  vcpu.gate = { deadline: 1000, admit, sleep: (deadline) => deadline };
  Object.assign(engine, { now: () => time.time });
  expect(run(plain(ExitReason.INTR), plain(ExitReason.INTR))).toEqual(RESET);
  expect(admitted).toBe(2);
});
