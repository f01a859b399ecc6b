/**
 * Runs our own small guests: assembles one, gives it the classic machine and a few test devices,
 * and tells what it printed, how it ended and which exits it made.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { CR0, type CpuState, flat, resetState } from "../../src/vmm/cpu.ts";
import { Capability, Engine, type EngineName } from "../../src/vmm/engine.ts";
import { ExitReason, IO_OUT, RunPage } from "../../src/vmm/exit.ts";
import { MachineImage } from "../../src/vmm/image.ts";
import type { MmioDevice, PortDevice, Size } from "../../src/vmd/device.ts";
import { ClassicMachine, memoryRanges } from "../../src/vmd/machine.ts";
import { type ExitObserver, type Stop, Vcpu } from "../../src/vmd/vcpu.ts";

const folder = import.meta.dir;
const cache = process.env.VMD_SMALL_GUESTS ?? join(folder, "../../.cache/small");
const HEADERS = ["common.h", "common64.h"];
const ENTRY = 0x100000;
const MEMORY = 16 * 2 ** 20;
/** A ROM guest's size and place: its last 16 bytes hold the reset vector. */
const ROM = { base: 2 ** 32 - 0x10000, size: 0x10000 };

const SCRATCH_PORT = 0x300;
const BYTE_PORT = 0x310;
const COUNT_PORT = 0x320;
const HOST_PORT = 0x330;
const SCRATCH_MMIO = 0xd0000000;

/** One of our guests: golden/small/NAME.S. */
export interface SmallGuest {
  readonly name: string;
  /** "flat": 32-bit protected mode at 1 MiB; "rom": real mode at the reset vector. */
  readonly entry: "flat" | "rom";
  /** Runs on a KVM that only emulates instructions, and not all of them. */
  readonly emulated: boolean;
  /** False when engines may differ in how they split what the guest does into exits. */
  readonly sameExits: boolean;
  /** Doesn't run in the lab (lab/), whose processor is an emulator, too. */
  readonly notInLab: boolean;
  /** How it ends; "exit" with no failed checks unless given. */
  readonly ending?: string;
}

const guest = (name: string, options: Partial<SmallGuest> = {}): SmallGuest => ({
  name,
  entry: "flat",
  emulated: false,
  sameExits: true,
  notInLab: false,
  ...options,
});

export const SMALL_GUESTS: readonly SmallGuest[] = [
  guest("exits", { emulated: true }),
  guest("cpuid"),
  guest("mmio-split", { emulated: true, sameExits: false }),
  guest("string-io", { emulated: true }),
  guest("interrupts"),
  guest("vmmci"),
  guest("faults"),
  // The lab delivers the page fault once more, behind the task switch.
  guest("double-fault", { notInLab: true }),
  guest("triple-fault", { emulated: true, ending: "reset by triple fault" }),
  guest("self-modifying", { emulated: true }),
  guest("fpu"),
  guest("ring3"),
  guest("paging"),
  guest("aliases"),
  guest("long-mode", { emulated: true }),
  guest("syscall"),
  guest("real-mode", { entry: "rom", emulated: true }),
];

/** A guest that doesn't assemble. */
export class AssemblyError extends Error {
  override name = "AssemblyError";
}

/** File name of the assembled guest: its content decides. */
function fileName({ name, entry }: SmallGuest): string {
  const key = new Bun.CryptoHasher("sha256").update(entry);
  for (const file of [...HEADERS, `${name}.S`]) key.update(readFileSync(join(folder, file)));
  return `${name}-${key.digest("hex").slice(0, 16)}.bin`;
}

/** The guest's bytes, assembled by gcc and ld if that wasn't done before. */
export function assemble(guest: SmallGuest): Uint8Array {
  const path = join(cache, fileName(guest));
  if (existsSync(path)) return readFileSync(path);
  mkdirSync(cache, { recursive: true });
  const work = `${path}.${process.pid}`;
  const object = `${work}.o`;
  const [text, entry] =
    guest.entry === "flat" ? [ENTRY, "_start"] : [ROM.base % 2 ** 32, "reset_vector"];
  try {
    tool(["gcc", "-m64", "-c", "-I", folder, "-o", object, join(folder, `${guest.name}.S`)]);
    const link = "ld -m elf_x86_64 --oformat binary -nostdlib --no-warn-rwx-segments";
    const place = ["-Ttext", `0x${text.toString(16)}`, "-e", entry, "-o", work];
    tool([...link.split(" "), ...place, object]);
    renameSync(work, path);
  } finally {
    rmSync(object, { force: true });
  }
  return readFileSync(path);
}

function tool(command: string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(command, { stderr: "pipe" });
  if (exitCode !== 0) throw new AssemblyError(stderr.toString().split("\n").slice(0, 8).join("\n"));
}

/** All guests assembled, by file name: for a host without an assembler (VMD_SMALL_GUESTS). */
export function assembleAll(): Record<string, Uint8Array> {
  return Object.fromEntries(SMALL_GUESTS.map((guest) => [fileName(guest), assemble(guest)]));
}

/** What a run gave. */
export interface SmallResult {
  /** What the guest wrote to COM1. */
  console: string;
  /** "exit 0" when all its checks passed; else how it ended, in words. */
  ending: string;
  /** Its exits; see TraceText. */
  trace: string[];
}

export interface SmallOptions {
  /** Guest time it may take, ms. Default 10 s. */
  deadline?: number;
  /** Exits it may make. Default 200,000. */
  exits?: number;
  /** Virtual time, where the engine has it. Default true. */
  virtualTime?: boolean;
}

/** Runs a guest to its end, or to its deadline. */
export function runSmall(
  guest: SmallGuest,
  engineName: EngineName,
  { deadline = 10_000, exits = 200_000, virtualTime = true }: SmallOptions = {},
): SmallResult {
  const bytes = assemble(guest);
  const rom = guest.entry === "rom";
  using image = new MachineImage(memoryRanges(MEMORY, rom ? ROM : undefined));
  using engine = openEngine(engineName, image, virtualTime);
  const output: Uint8Array[] = [];
  const host = new HostPort((command) => machine.vmmci.request(command));
  const machine = new ClassicMachine(image, engine.engine, {
    memory: MEMORY,
    epoch: Date.UTC(2020, 0, 1),
    debugExit: true,
    output: (chunk) => output.push(chunk),
    debug: () => {},
    acknowledged: (command) => host.hear(command),
    shuttingDown: () => host.hear(HostPort.SHUTTING_DOWN),
  });
  machine.reset();
  addTestDevices(machine);
  machine.ports.add(HOST_PORT, 1, host);
  if (rom) image.memory.placeRom(ROM.base, bytes);
  else image.memory.write(ENTRY, bytes);
  engine.engine.setCpu(rom ? resetState() : flatState());

  const vcpu = new Vcpu(engine.engine, machine, engine.virtual);
  const trace = new TraceText();
  vcpu.observer = trace;
  const stop = () => {
    Atomics.store(vcpu.attention, 0, 1);
    engine.engine.kick();
  };
  const timer = machine.clock.timer(stop);
  timer.arm(machine.clock.now + deadline * 1e6);
  trace.limit(exits, stop);
  const ending = describe(vcpu.run());
  machine.flush();
  return { console: Buffer.concat(output).toString("latin1"), ending, trace: trace.lines() };
}

function openEngine(name: EngineName, image: MachineImage, wanted: boolean) {
  let engine = Engine.open(name, image);
  const virtual = wanted && engine.can(Capability.VIRTUAL_TIME);
  if (virtual) {
    engine[Symbol.dispose]();
    engine = Engine.open(name, image, { virtual });
  }
  return { engine, virtual, [Symbol.dispose]: () => engine[Symbol.dispose]() };
}

function describe(stop: Stop): string {
  switch (stop.kind) {
    case "exit":
      return stop.code === 1 ? "exit 0" : `exit: ${stop.code >> 1} failed checks`;
    case "reset":
      return `reset by ${stop.by}`;
    case "crash":
      return `crash: ${stop.why}`;
    case "attention":
      return "not ended by itself";
    default:
      return stop.kind;
  }
}

/** Flat 32-bit protected mode at 1 MiB; the guest loads its own GDT at once. */
function flatState(): CpuState {
  const data = flat(0x10, "data");
  return {
    ...resetState(),
    cs: flat(0x8, "code32"),
    ds: data,
    es: data,
    fs: data,
    gs: data,
    ss: data,
    rip: ENTRY,
    rsp: 0x90000,
    cr0: CR0.PE | CR0.ET,
  };
}

function addTestDevices(machine: ClassicMachine): void {
  machine.ports.add(SCRATCH_PORT, 16, new ScratchPorts(), 4);
  machine.ports.add(BYTE_PORT, 16, new ScratchPorts(), 1);
  machine.ports.add(COUNT_PORT, 1, new CountPort(), 4);
  machine.mmio.add(SCRATCH_MMIO, 0x2000, new ScratchMemory());
}

/** Ports that keep what they are given. */
class ScratchPorts implements PortDevice {
  readonly #view = new DataView(new ArrayBuffer(16 + 3));

  read(port: number, size: Size): number {
    const at = port & 15;
    if (size === 1) return this.#view.getUint8(at);
    return size === 2 ? this.#view.getUint16(at, true) : this.#view.getUint32(at, true);
  }

  write(port: number, size: Size, value: number): void {
    const at = port & 15;
    if (size === 1) this.#view.setUint8(at, value);
    else if (size === 2) this.#view.setUint16(at, value, true);
    else this.#view.setUint32(at, value, true);
  }
}

/** A port whose reads count up. */
class CountPort implements PortDevice {
  #count = 0;

  read(): number {
    return this.#count++;
  }

  write(_port: number, _size: Size, value: number): void {
    this.#count = value;
  }
}

/** The host's side of vmmci: a write gives the guest that command, a read tells what was heard. */
class HostPort implements PortDevice {
  static readonly SHUTTING_DOWN = 0x80;
  static readonly NOT_ASKED = 0x40;
  readonly #request: (command: number) => boolean;
  #heard = 0;

  constructor(request: (command: number) => boolean) {
    this.#request = request;
  }

  hear(what: number): void {
    this.#heard |= what;
  }

  /** What was heard since the last read: the command acknowledged, and flags. */
  read(): number {
    const heard = this.#heard;
    this.#heard = 0;
    return heard;
  }

  write(_port: number, _size: Size, command: number): void {
    if (!this.#request(command)) this.hear(HostPort.NOT_ASKED);
  }
}

/** MMIO that keeps what it is given. */
class ScratchMemory implements MmioDevice {
  readonly #bytes = new Uint8Array(0x2000);

  read(address: number, data: Uint8Array, size: number): void {
    for (let i = 0; i < size; i++) data[i] = this.#bytes[(address + i) & 0x1fff];
  }

  write(address: number, data: Uint8Array, size: number): void {
    for (let i = 0; i < size; i++) this.#bytes[(address + i) & 0x1fff] = data[i];
  }
}

/**
 * Exits as lines of text, the same whichever engine made them:
 *
 * ```
 * out 0x300/1 12            port, size, value in hexadecimal
 * in 0x320/2 -> 5
 * com1 "text\n"             data that went to COM1
 * mmio write 0xd0000000/4 78 56 34 12
 * mmio read 0xd0000000/1 -> 78
 * hlt, shutdown, irq 0x24
 * ```
 *
 * What is dropped or made equal, and why:
 * - INTR and IRQ_WINDOW_OPEN exits, and timer ticks: when a host interrupts is not the guest's doing.
 * - Times and instruction pointers: clocks differ; on IN and OUT, KVM's RIP may be behind the
 *   instruction already.
 * - The value of an IN from the clock's data port 0x71: it tells the time.
 * - MSR exits: which MSRs an engine keeps itself is its own affair; the guest sees the result.
 * - A string instruction that KVM hands over as one exit of several items is one line an item, as
 *   Unicorn has it.
 * - Data bytes for COM1 that follow one another are one line.
 */
export class TraceText implements ExitObserver {
  readonly #lines: string[] = [];
  #text = "";
  #left = Infinity;
  #stop: (() => void) | undefined;

  /** Calls `stop` after so many exits. */
  limit(exits: number, stop: () => void): void {
    this.#left = exits;
    this.#stop = stop;
  }

  lines(): string[] {
    this.#endText();
    return this.#lines;
  }

  exited(): void {}

  answered(run: RunPage): void {
    if (--this.#left === 0) this.#stop?.();
    switch (run.reason) {
      case ExitReason.IO:
        this.#io(run);
        break;
      case ExitReason.MMIO:
        this.#mmio(run);
        break;
      case ExitReason.HLT:
        this.#line("hlt");
        break;
      case ExitReason.SHUTDOWN:
        this.#line("shutdown");
        break;
    }
  }

  tick(): void {}

  interrupt(vector: number): void {
    this.#line(`irq 0x${vector.toString(16)}`);
  }

  #io(run: RunPage): void {
    const { ioPort, ioSize, ioCount, ioData } = run;
    const port = `0x${ioPort.toString(16)}/${ioSize}`;
    for (let i = 0; i < ioCount; i++) {
      const bytes = run.u8.subarray(ioData + i * ioSize, ioData + (i + 1) * ioSize);
      const value = bytes.reduceRight((sum, byte) => sum * 256 + byte, 0);
      if (run.ioDirection !== IO_OUT) {
        this.#line(`in ${port} -> ${ioPort === 0x71 ? "*" : value.toString(16)}`);
      } else if (ioPort === 0x3f8 && ioSize === 1) this.#text += String.fromCharCode(value);
      else this.#line(`out ${port} ${value.toString(16)}`);
    }
  }

  #mmio(run: RunPage): void {
    const data = run.u8.subarray(RunPage.MMIO_DATA, RunPage.MMIO_DATA + run.mmioLength);
    const bytes = [...data].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const place = `0x${run.mmioAddress.toString(16)}/${run.mmioLength}`;
    this.#line(run.mmioIsWrite ? `mmio write ${place} ${bytes}` : `mmio read ${place} -> ${bytes}`);
  }

  #line(line: string): void {
    this.#endText();
    this.#lines.push(line);
  }

  #endText(): void {
    if (this.#text !== "") this.#lines.push(`com1 ${JSON.stringify(this.#text)}`);
    this.#text = "";
  }
}
