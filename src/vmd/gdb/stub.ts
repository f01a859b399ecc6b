/**
 * A GDB stub: answers packets of the Remote Serial Protocol about a target (GDB manual, appendix
 * E). One thread, all-stop. It knows no socket and no engine.
 */
import { type Breakpoint, BreakKind } from "../../vmm/engine.ts";
import { Monitor } from "./monitor.ts";
import {
  encodePacket,
  escape,
  PACKET_MAX,
  PacketReader,
  type Received,
  unescape,
} from "./packet.ts";
import {
  allRegistersHex,
  registerHex,
  setAllRegistersHex,
  setRegisterHex,
  targetDescription,
} from "./registers.ts";
import type { DebugTarget, Outcome, StopReason } from "./target.ts";

/** EFAULT, EINVAL, ENOSPC, as two hexadecimal digits. */
const FAULT = "E0e";
const INVALID = "E16";
const FULL = "E1c";
const SIGINT = "02";
const SIGTRAP = "05";

const SUPPORTED = [
  `PacketSize=${PACKET_MAX.toString(16)}`,
  ...["qXfer:features:read+", "QStartNoAckMode+", "vContSupported+", "swbreak+", "hwbreak+"],
].join(";");
const REVERSE = "ReverseStep+;ReverseContinue+";

/** By the number behind Z and z. */
const KINDS = [
  BreakKind.EXECUTE,
  BreakKind.EXECUTE,
  BreakKind.WRITE,
  BreakKind.READ,
  BreakKind.ACCESS,
];
const WATCH_NAMES = new Map<number, string>([
  [BreakKind.WRITE, "watch"],
  [BreakKind.READ, "rwatch"],
  [BreakKind.ACCESS, "awatch"],
]);

/** A breakpoint as it was asked for: Z0 and Z1 are the same to a target. */
interface Inserted extends Breakpoint {
  readonly type: number;
}

export class GdbStub {
  readonly #target: DebugTarget;
  readonly #write: (bytes: Uint8Array) => void;
  readonly #reader = new PacketReader();
  readonly #monitor: Monitor;
  #breakpoints: Inserted[] = [];
  #acknowledging = true;
  #running: boolean;
  /** The client knows what swbreak and hwbreak mean. */
  #knowsBreaks = false;
  #last: Uint8Array | undefined;
  #stopReply = `T${SIGTRAP}thread:01;`;
  #physical = false;
  #description: string | undefined;
  /** It said that it goes, or ended the target. */
  gone = false;

  /** @param write given what is for the client. */
  constructor(target: DebugTarget, running: boolean, write: (bytes: Uint8Array) => void) {
    this.#target = target;
    this.#running = running;
    this.#write = write;
    this.#monitor = new Monitor(target);
  }

  get running(): boolean {
    return this.#running;
  }

  /**
   * Something came.
   * @returns whether the target is to stop, after which `stopped` is to be called.
   */
  received(bytes: Uint8Array): boolean {
    let interrupted = false;
    this.#reader.read(bytes, (one) => {
      if (this.#take(one)) interrupted = true;
    });
    return interrupted && this.#running;
  }

  /** The target ran, and stands still now. */
  stopped(reason: StopReason): void {
    if (!this.#running) return;
    this.#running = false;
    this.#stopReply = this.#describeStop(reason);
    this.#send(this.#stopReply);
  }

  /** The target is gone. @param code what it ended with. */
  exited(code: number): void {
    if (this.#running) this.#send(`W${(code & 255).toString(16).padStart(2, "0")}`);
    this.gone = true;
  }

  #take(one: Received): boolean {
    if (this.gone) return false;
    switch (one.kind) {
      case "interrupt":
        // Of one that stands still it asks nothing, whatever follows in the same piece.
        return this.#running;
      case "again":
        if (this.#acknowledging && this.#last !== undefined) this.#write(this.#last);
        return false;
      case "bad":
        if (this.#acknowledging) this.#write(Buffer.from("-"));
        return false;
      case "packet":
        if (this.#acknowledging) this.#write(Buffer.from("+"));
        // Of a target that runs, nothing can be had until it stops.
        if (this.#running) return false;
        this.#answer(one.data);
        return false;
    }
  }

  #send(data: string): void {
    this.#last = encodePacket(data);
    this.#write(this.#last);
  }

  #answer(data: string): void {
    const reply = this.#command(data);
    if (reply !== undefined) this.#send(reply);
  }

  /** @returns the reply; undefined when it comes later, or never. */
  #command(data: string): string | undefined {
    const rest = data.slice(1);
    switch (data[0]) {
      case "?":
        return this.#stopReply;
      case "H":
      case "T":
        return "OK";
      case "g":
        return allRegistersHex(this.#target.readRegisters());
      case "G":
        return this.#registers((cpu) => setAllRegistersHex(cpu, rest));
      case "p": {
        const index = hexNumber(rest);
        const hex = index && registerHex(this.#target.readRegisters(), Number(index.value));
        return hex ?? INVALID;
      }
      case "P": {
        const [index, value = ""] = rest.split("=", 2);
        const number = hexNumber(index);
        if (number === undefined) return INVALID;
        return this.#registers((cpu) => setRegisterHex(cpu, Number(number.value), value));
      }
      case "m":
        return this.#read(rest);
      case "M":
        return this.#writeMemory(rest, (text) =>
          /^([0-9a-f]{2})*$/i.test(text) ? Buffer.from(text, "hex") : undefined,
        );
      case "X":
        return this.#writeMemory(rest, (text) => Buffer.from(unescape(text), "latin1"));
      case "Z":
      case "z":
        return this.#breakpoint(rest, data[0] === "Z");
      case "c":
      case "s":
        return this.#resume(data[0] === "s", rest);
      case "C":
      case "S":
        // The signal would be the guest's, which knows none.
        return this.#resume(data[0] === "S", rest.slice(2).replace(/^;/, ""));
      case "b":
        return this.#resumeBack(rest);
      case "D":
        this.#leave();
        return "OK";
      case "k":
        this.#kill();
        return undefined;
      case "v":
        return this.#verbose(data);
      case "q":
      case "Q":
        return this.#query(data);
      default:
        return "";
    }
  }

  #verbose(data: string): string | undefined {
    if (data === "vCont?") return "vCont;c;C;s;S";
    const action = /^vCont;([csCS])/.exec(data)?.[1];
    if (action !== undefined) return this.#resume(action.toLowerCase() === "s", "");
    if (data.startsWith("vKill")) {
      this.#kill();
      return "OK";
    }
    // vMustReplyEmpty, and what isn't known.
    return "";
  }

  #query(data: string): string {
    const [name] = data.split(/[:,]/, 1);
    switch (name) {
      case "qSupported":
        this.#knowsBreaks = /[:;]swbreak\+/.test(data);
        return this.#target.resumeBack === undefined ? SUPPORTED : `${SUPPORTED};${REVERSE}`;
      case "QStartNoAckMode":
        this.#acknowledging = false;
        return "OK";
      case "qAttached":
        return "1";
      case "qC":
        return "QC01";
      case "qfThreadInfo":
        return "m01";
      case "qsThreadInfo":
        return "l";
      case "qXfer":
        return this.#transfer(data);
      case "qqemu.PhyMemMode":
        return this.#physical ? "1" : "0";
      case "Qqemu.PhyMemMode":
        if (!/:[01]$/.test(data)) return INVALID;
        this.#physical = data.endsWith("1");
        return "OK";
      case "qRcmd":
        return this.#monitored(data.slice("qRcmd,".length));
      default:
        return "";
    }
  }

  /** monitor: text in, text out, both in hexadecimal. */
  #monitored(hex: string): string {
    if (!/^([0-9a-f]{2})*$/i.test(hex)) return INVALID;
    const text = this.#monitor.command(Buffer.from(hex, "hex").toString(), {
      physical: (on) => (this.#physical = on ?? this.#physical),
    });
    const most = PACKET_MAX / 2 - 4;
    return text === "" ? "OK" : Buffer.from(text).subarray(0, most).toString("hex");
  }

  #transfer(data: string): string {
    const match = /^qXfer:features:read:([^:]*):([0-9a-f]{1,8}),([0-9a-f]{1,8})$/i.exec(data);
    if (match === null) return "";
    const [, annex, from, count] = match;
    if (annex !== "target.xml") return "E00";
    this.#description ??= targetDescription();
    const start = parseInt(from, 16);
    const end = start + Math.min(parseInt(count, 16), PACKET_MAX / 2);
    const more = end < this.#description.length ? "m" : "l";
    return more + escape(this.#description.slice(start, end));
  }

  #registers(change: (cpu: DataView) => boolean): string {
    const cpu = this.#target.readRegisters();
    if (!change(cpu)) return INVALID;
    try {
      this.#target.writeRegisters();
    } catch {
      // The processor can't have them so.
      return INVALID;
    }
    return "OK";
  }

  #read(text: string): string {
    const range = addressAndLength(text);
    if (range === undefined) return INVALID;
    const length = Math.min(range.length, PACKET_MAX / 2 - 4);
    const bytes = this.#target.readMemory(range.address, length, this.#physical);
    return bytes.length === 0 && length > 0 ? FAULT : Buffer.from(bytes).toString("hex");
  }

  #writeMemory(text: string, decode: (data: string) => Uint8Array | undefined): string {
    const colon = text.indexOf(":");
    const range = addressAndLength(text.slice(0, Math.max(0, colon)));
    const bytes = decode(text.slice(colon + 1));
    if (range === undefined || bytes === undefined || bytes.length !== range.length) return INVALID;
    return this.#target.writeMemory(range.address, bytes, this.#physical) ? "OK" : FAULT;
  }

  #breakpoint(text: string, insert: boolean): string {
    const match = /^([0-9]),([0-9a-f]{1,16}),([0-9a-f]{1,8})(;.*)?$/i.exec(text);
    if (match === null) return INVALID;
    const type = Number(match[1]);
    const kind = KINDS.at(type);
    if (kind === undefined) return "";
    const address = BigInt(`0x${match[2]}`);
    const length = kind === BreakKind.EXECUTE ? 1 : parseInt(match[3], 16);
    const is = (one: Inserted) =>
      one.type === type && one.address === address && one.length === length;
    const others = this.#breakpoints.filter((one) => !is(one));
    const wanted = insert ? [...others, { type, kind, address, length }] : others;
    const outcome = this.#set(wanted);
    return { done: "OK", unsupported: "", full: FULL, invalid: INVALID }[outcome];
  }

  #set(wanted: Inserted[]): Outcome {
    const unique = wanted.filter(
      (one, index) => wanted.findIndex((other) => isSame(one, other)) === index,
    );
    const watches = unique.filter(({ kind }) => kind !== BreakKind.EXECUTE);
    const others = unique.filter(({ kind }) => kind === BreakKind.EXECUTE);
    const outcome = this.#target.setBreakpoints([...watches, ...others]);
    if (outcome === "done") this.#breakpoints = wanted;
    return outcome;
  }

  #resume(step: boolean, address: string): string | undefined {
    if (address !== "") {
      const number = hexNumber(address);
      if (number === undefined) return INVALID;
      const wrong = this.#registers((cpu) => {
        cpu.setBigUint64(RIP, number.value, true);
        return true;
      });
      if (wrong !== "OK") return wrong;
    }
    this.#running = true;
    this.#target.resume(step);
    return undefined;
  }

  /** bs and bc. */
  #resumeBack(how: string): string | undefined {
    const target = this.#target;
    if (target.resumeBack === undefined || (how !== "s" && how !== "c")) return "";
    this.#running = true;
    target.resumeBack(how === "s");
    return undefined;
  }

  /** The client is gone, by its own word or not: the target is as if it had never been there. */
  release(): void {
    this.gone = true;
    if (this.#breakpoints.length > 0) this.#set([]);
  }

  #leave(): void {
    this.release();
    this.#running = true;
    this.#target.resume(false);
  }

  #kill(): void {
    this.gone = true;
    this.#target.kill();
  }

  #describeStop(reason: StopReason): string {
    const stop = (more = "") => `T${SIGTRAP}${more}thread:01;`;
    switch (reason.kind) {
      case "interrupt":
        return `T${SIGINT}thread:01;`;
      case "step":
        return stop();
      case "history":
        return stop(`replaylog:${reason.at};`);
      case "watchpoint": {
        const { kind, address } = reason.breakpoint;
        return stop(`${WATCH_NAMES.get(kind)}:${address.toString(16)};`);
      }
      case "breakpoint": {
        if (!this.#knowsBreaks) return stop();
        const asked = this.#breakpoints.find((one) => isSame(one, reason.breakpoint));
        return stop(asked?.type === 1 ? "hwbreak:;" : "swbreak:;");
      }
    }
  }
}

const RIP = 128;

function isSame(one: Breakpoint, other: Breakpoint): boolean {
  return one.address === other.address && one.kind === other.kind && one.length === other.length;
}

function hexNumber(text: string): { value: bigint } | undefined {
  return /^[0-9a-f]{1,16}$/i.test(text) ? { value: BigInt(`0x${text}`) } : undefined;
}

function addressAndLength(text: string): { address: bigint; length: number } | undefined {
  const match = /^([0-9a-f]{1,16}),([0-9a-f]{1,8})$/i.exec(text);
  if (match === null) return undefined;
  return { address: BigInt(`0x${match[1]}`), length: parseInt(match[2], 16) };
}
