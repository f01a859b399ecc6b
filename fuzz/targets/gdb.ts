import { CPU_LAYOUT, encodeCpu } from "../../src/vmm/cpu-codec.ts";
import { resetState } from "../../src/vmm/cpu.ts";
import { type Breakpoint, BreakKind } from "../../src/vmm/engine.ts";
import { GuestMemory } from "../../src/vmm/memory.ts";
import { readMemory, writeMemory } from "../../src/vmd/gdb/guest-memory.ts";
import { encodePacket, PACKET_MAX } from "../../src/vmd/gdb/packet.ts";
import { allRegistersHex, setAllRegistersHex } from "../../src/vmd/gdb/registers.ts";
import { GdbStub } from "../../src/vmd/gdb/stub.ts";
import type { DebugTarget, Outcome, StopReason } from "../../src/vmd/gdb/target.ts";
import type { VmLife } from "../../src/vmd/vm-life.ts";
import { Choices, ChoicesWriter } from "../own/choices.ts";
import { must, type Target } from "../own/target.ts";

const RAM = 2 ** 16;
const EXECUTED_MAX = 64;
const WATCHED_MAX = 4;
/** What is said in a run at most. */
const PACKETS_MAX = 200;
const CR0_PG = 1 << 31;
const encoder = new TextEncoder();

const cpu = new DataView(new ArrayBuffer(CPU_LAYOUT.size));
const memory = GuestMemory.standalone(RAM);
/** All that guest-memory.ts asks of a VM. */
const life = { engine: { saveCpu: () => {} }, image: { memory, cpu } } as unknown as VmLife;

/** Registers, memory and breakpoints, and whether it is let run: as a target promises. */
class Model implements DebugTarget {
  running = false;
  killed = false;
  resets = 0;
  breakpoints: readonly Breakpoint[] = [];
  /** Whether there is a way back, as in a recording. */
  readonly resumeBack: ((step: boolean) => void) | undefined;
  readonly #stubborn: boolean;

  constructor(back: boolean, stubborn: boolean) {
    this.#stubborn = stubborn;
    if (back) this.resumeBack = (step) => this.resume(step);
  }

  #still(): void {
    must(!this.running, "a target that runs is asked for something");
  }

  readRegisters(): DataView {
    this.#still();
    return cpu;
  }

  writeRegisters(): void {
    this.#still();
    if (this.#stubborn) throw new RangeError("a recorded run is what it was");
  }

  readMemory(address: bigint, length: number, physical: boolean): Uint8Array {
    this.#still();
    must(length >= 0 && length <= PACKET_MAX, `${length} bytes are read for one packet`);
    return readMemory(life, address, length, physical);
  }

  writeMemory(address: bigint, bytes: Uint8Array, physical: boolean): boolean {
    this.#still();
    if (!writeMemory(life, address, bytes, physical)) return false;
    const again = readMemory(life, address, bytes.length, physical);
    // A page table may have been what was written.
    const paged = !physical && (cpu.getUint32(CPU_LAYOUT.sregs + 224, true) & CR0_PG) !== 0;
    must(paged || Buffer.compare(again, bytes) === 0, "what was written reads otherwise");
    return true;
  }

  setBreakpoints(breakpoints: readonly Breakpoint[]): Outcome {
    this.#still();
    const executed = breakpoints.filter(({ kind }) => kind === BreakKind.EXECUTE);
    const keys = new Set(breakpoints.map((one) => `${one.kind} ${one.address} ${one.length}`));
    must(keys.size === breakpoints.length, "a breakpoint is set twice");
    must(
      executed.every(({ length }) => length === 1),
      "a breakpoint of more than a byte",
    );
    must(
      breakpoints.findIndex(({ kind }) => kind === BreakKind.EXECUTE) < 0 ||
        breakpoints.slice(-executed.length).every(({ kind }) => kind === BreakKind.EXECUTE),
      "watchpoints don't come first",
    );
    if (executed.length > EXECUTED_MAX || keys.size - executed.length > WATCHED_MAX) return "full";
    for (const { address, length } of breakpoints) {
      if (![1, 2, 4, 8].includes(length) || address % BigInt(length) !== 0n) return "invalid";
    }
    this.breakpoints = breakpoints;
    return "done";
  }

  resume(step: boolean): void {
    must(typeof step === "boolean", "it resumes neither for a step nor for more");
    this.#still();
    this.running = true;
  }

  reset(): void {
    this.#still();
    this.resets++;
  }

  kill(): void {
    this.killed = true;
  }

  describe(): string {
    return "rax 0";
  }
}

/** What the stub said: whole packets with their right checksums, and acknowledgements. */
class Client {
  readonly bytes: number[] = [];
  packets = 0;
  #state: "outside" | "data" | "first" | "second" = "outside";
  #sum = 0;
  #length = 0;
  #escaped = false;

  take(bytes: Uint8Array): void {
    for (const byte of bytes) {
      this.bytes.push(byte);
      this.#next(byte);
    }
    must(this.#state === "outside", "half a packet is written");
  }

  #next(byte: number): void {
    const character = String.fromCharCode(byte);
    switch (this.#state) {
      case "outside":
        must("+-$".includes(character), `${byte} outside of packets`);
        if (character !== "$") return;
        this.#state = "data";
        this.#sum = 0;
        this.#length = 0;
        this.#escaped = false;
        return;
      case "data":
        if (character === "#") {
          must(!this.#escaped, "an escape before a packet's end");
          this.#state = "first";
          return;
        }
        must(this.#escaped || character !== "$", "a raw $ within a packet");
        // GDB would repeat the character before it.
        must(this.#escaped || character !== "*", "a raw * within a packet");
        this.#escaped = !this.#escaped && character === "}";
        this.#sum = (this.#sum + byte) & 255;
        must(++this.#length <= PACKET_MAX, "a packet that is longer than was told");
        return;
      case "first":
        must(character === (this.#sum >> 4).toString(16), "a wrong checksum");
        this.#state = "second";
        return;
      case "second":
        must(character === (this.#sum & 15).toString(16), "a wrong checksum");
        this.#state = "outside";
        this.packets++;
    }
  }
}

/** Commands, with numbers in place of N, and hexadecimal bytes of H, and any bytes of B. */
const COMMANDS = [
  ...["?", "Hg0", "g", "GH", "pN", "PN=H", "mN,N", "MN,N:H", "XN,N:B", "c", "s", "cN", "sN"],
  ...["C05", "S05;N", "bs", "bc", "Z0,N,1", "Z1,N,1", "Z2,N,4", "Z3,N,8", "Z4,N,N", "z0,N,1"],
  ...["z2,N,4", "Z0,N,1;X1,B", "D", "k", "vCont?", "vCont;c", "vCont;s:1;c", "vKill;1", "v"],
  ...["qSupported:swbreak+;hwbreak+", "qSupported", "QStartNoAckMode", "qAttached", "qC"],
  ...["qfThreadInfo", "qsThreadInfo", "qXfer:features:read:target.xml:N,N", "qXfer:B"],
  ...["qqemu.PhyMemMode", "Qqemu.PhyMemMode:1", "Qqemu.PhyMemMode:0", "qRcmd,H", "!", "T1", "B"],
  ...["qRcmd,7068797320", "qRcmd,696e666f20726567697374657273", "qRcmd,7265736574", "G", "P24=H"],
] as const;
const NUMBERS = [
  ...["0", "1", "8", "ff8", "1000", "fff0", "ffff", "10000", "ffffffff", "7fffffffffff"],
  ...["800000000000", "ffff800000000000", "fffffffffffffff8", "ffffffffffffffff", "4000", "1ffc"],
] as const;

function command(choices: Choices): string {
  const text = (bytes: Uint8Array) => Buffer.from(bytes).toString("latin1");
  return choices.of(COMMANDS).replaceAll(/[NHB]/g, (what) => {
    if (what === "B") return text(choices.take(choices.u8()));
    if (what === "H") {
      const bytes = choices.u8();
      // All registers as they are, with one byte changed.
      if (bytes === 255) return changedRegisters(choices);
      return Buffer.from(choices.take(bytes)).toString("hex");
    }
    const which = choices.u8();
    return NUMBERS[which] ?? choices.take(which & 7).toHex();
  });
}

function changedRegisters(choices: Choices): string {
  const hex = allRegistersHex(cpu);
  const place = (choices.u16() * 2) % hex.length;
  return `${hex.slice(0, place)}${choices.take(1).toHex() || "00"}${hex.slice(place + 2)}`;
}

const STOPS = ["interrupt", "step", "breakpoint", "watchpoint", "begin", "end"] as const;

function stop(target: Model, choices: Choices): StopReason {
  const kind = choices.of(STOPS);
  const list = target.breakpoints.filter(
    (one) => (one.kind === BreakKind.EXECUTE) === (kind === "breakpoint"),
  );
  const breakpoint = list[choices.u8() % Math.max(1, list.length)] as Breakpoint | undefined;
  switch (kind) {
    case "begin":
    case "end":
      return { kind: "history", at: kind };
    case "interrupt":
      return { kind };
    case "breakpoint":
    case "watchpoint":
      return breakpoint === undefined ? { kind: "step" } : { kind, breakpoint };
    default:
      return { kind: "step" };
  }
}

const How = { RAW: 1, PIECES: 2, BACK: 4, STUBBORN: 8, RUNNING: 16, PAGED: 32 } as const;

class Session {
  readonly client = new Client();
  readonly target: Model;
  readonly stub: GdbStub;
  /** Ctrl-C has stopped it. */
  interrupted = false;
  readonly #pieces: boolean;
  #asked = 0;

  constructor(how: number) {
    this.#pieces = (how & How.PIECES) !== 0;
    this.target = new Model((how & How.BACK) !== 0, (how & How.STUBBORN) !== 0);
    const running = (how & How.RUNNING) !== 0;
    this.target.running = running;
    this.stub = new GdbStub(this.target, running, (bytes) => this.client.take(bytes));
  }

  say(bytes: Uint8Array): void {
    // A packet ends with #; outside of packets each minus asks for the last reply again.
    this.#asked += bytes.filter((byte) => byte === 0x23 || byte === 0x2d).length;
    const step = this.#pieces ? 1 : Math.max(1, bytes.length);
    for (let from = 0; from < bytes.length; from += step) {
      if (this.stub.gone) return;
      const wanted = this.stub.received(bytes.subarray(from, from + step));
      if (wanted) {
        this.interrupted = true;
        this.stopped({ kind: "interrupt" });
      }
      must(this.stub.gone || this.stub.running === this.target.running, "who of them runs?");
    }
  }

  stopped(reason: StopReason): void {
    if (!this.target.running) return;
    this.target.running = false;
    this.#asked++;
    this.stub.stopped(reason);
    must(!this.stub.running, "it stands still and runs");
  }

  end(): void {
    must(this.client.packets <= this.#asked, `${this.client.packets} replies to ${this.#asked}`);
    // Whatever it said, the next client finds a target that stands still, without breakpoints.
    this.target.running = false;
    this.stub.release();
    must(this.target.breakpoints.length === 0, "breakpoints of a client that is gone");
    const before = Buffer.from(new Uint8Array(cpu.buffer));
    must(setAllRegistersHex(cpu, allRegistersHex(cpu)), "registers that can't be written back");
    must(
      before.equals(Buffer.from(cpu.buffer)),
      "registers that change when they are written back",
    );
  }
}

/** A page table at 0x1000 that maps the first 2 MiB, 64-bit; what it holds, packets may change. */
function begin(how: number): void {
  new Uint8Array(cpu.buffer).fill(0);
  encodeCpu(cpu, resetState());
  for (const bytes of memory.bytes(0, RAM)) bytes.fill(0);
  if ((how & How.PAGED) === 0) return;
  const write = (at: number, value: number) =>
    cpu.setBigUint64(CPU_LAYOUT.sregs + at, BigInt(value), true);
  write(224, 0x80000011);
  write(240, 0x1000);
  write(248, 0x20);
  write(264, 0x500);
  memory.write32(0x1000, 0x2003);
  memory.write32(0x2000, 0x3003);
  memory.write32(0x3000, 0x83);
}

const ASK = 0;
const RAW = 6;
const packet = (text: string) => encodePacket(text);

function speak(session: Session, choices: Choices): void {
  switch (choices.below(8)) {
    case RAW:
      session.say(choices.take(choices.u8()).slice());
      return;
    case 7: {
      const bytes = packet(command(choices));
      bytes[choices.u8() % bytes.length] = choices.u8();
      session.say(bytes);
      return;
    }
    case 5:
      session.stopped(stop(session.target, choices));
      return;
    case 4:
      session.say(Uint8Array.of([3, 43, 45, 36][choices.below(4)]));
      return;
    default:
      session.say(packet(command(choices)));
  }
}

const ask = (index: number, ...more: number[]) => [ASK, index, ...more];
const named = (text: string) => (COMMANDS as readonly string[]).indexOf(text);

export const target: Target = {
  name: "gdb",
  about: "a debugger's packets: whole replies, a target asked only while it stands still",
  maxInput: 4096,
  steps: 4_000_000,
  dictionary: ["$", "#", "}", "*", "+", "-", "$g#67", "$?#3f", "$s#73", "vCont;", ...COMMANDS].map(
    (word) => encoder.encode(word),
  ),
  *seeds() {
    const all = COMMANDS.flatMap((text, index) =>
      ["c", "s", "D", "k", "b", "v", "C", "S"].includes(text[0]) ? [] : ask(index, 4, 3, 1, 2, 3),
    );
    yield Uint8Array.from([0, ...all]);
    yield Uint8Array.from([How.PIECES | How.PAGED, ...all]);
    yield Uint8Array.from([How.BACK | How.STUBBORN, ...all]);
    for (const text of COMMANDS) {
      const one = ask(named(text), 4, 3, 1, 2, 3);
      yield Uint8Array.from([How.PAGED, ...one, 5, 1, 0, ...one, 4, 0, ...ask(named("g"))]);
    }
    const breaks = [...ask(named("Z0,N,1"), 4), ...ask(named("Z2,N,4"), 4), ...ask(named("c"))];
    yield Uint8Array.from([How.BACK, ...breaks, 5, 2, 0, ...ask(named("bc")), 5, 3, 0]);
    yield Uint8Array.from([How.BACK, ...ask(named("bs")), 5, 4, 0, ...ask(named("bc")), 5, 5, 0]);
    yield new ChoicesWriter()
      .u8(How.RUNNING, 4, 0)
      .u8(...ask(named("GH"), 255, 9, 0, 7))
      .done();
    const plain = ["qSupported:swbreak+", "QStartNoAckMode", "?", "g", "m0,10", "X10,2:}]a", "k"];
    yield Uint8Array.from([How.RAW, ...plain.flatMap((text) => [...packet(text)])]);
  },
  run(input) {
    const choices = new Choices(input);
    const how = choices.u8();
    begin(how);
    const session = new Session(how);
    if ((how & How.RAW) !== 0) {
      const rest = choices.rest();
      session.say(rest);
    }
    for (let i = 0; i < PACKETS_MAX && !choices.ended && !session.stub.gone; i++) {
      speak(session, choices);
    }
    session.end();
    if ((how & How.RAW) === 0) return;
    begin(how);
    const other = new Session(how ^ How.PIECES);
    other.say(input.subarray(1));
    // Cut in other places it says the same; but Ctrl-C stops behind its piece.
    const byBytes = (how & How.PIECES) !== 0 ? session : other;
    if (byBytes.interrupted) return;
    must(
      Buffer.from(other.client.bytes).equals(Buffer.from(session.client.bytes)),
      "in other pieces it is answered otherwise",
    );
  },
};
