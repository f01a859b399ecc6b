/**
 * A serial port: National Semiconductor's 16550A, the successor of the 8250 that gives it its
 * name, with FIFOs of 16 bytes. COM1 is at 0x3f8–0x3ff on IRQ 4.
 *
 *   +0  RBR/THR  receive and transmit; divisor latch, low, with DLAB
 *   +1  IER      interrupt enable; divisor latch, high, with DLAB
 *   +2  IIR/FCR  interrupt identification / FIFO control
 *   +3  LCR      line control          +4  MCR  modem control
 *   +5  LSR      line status           +6  MSR  modem status       +7  SCR  scratch
 *
 * Source: NS16550AF data sheet (TL/C/8652), § 8. As on a PC, OUT2 gates the interrupt line.
 *
 * Bytes take no time: what the guest writes goes to the backend at once, and what a backend
 * refuses waits in the transmit FIFO. Received bytes are never lost: a full FIFO refuses them.
 * Only loopback, where the guest talks to itself, can overrun.
 */
import type { Clock, Timer } from "../../vmm/clock.ts";
import { declareRegisters, f64, u8, type Registers } from "../../vmm/registers.ts";
import type { InterruptLine, PortDevice, Resettable, SerialBackend, Size } from "../device.ts";

const FIFO = 16;
/** Bits a second with divisor 1: a 1.8432 MHz crystal over 16. */
const BAUD_BASE = 115_200;
/** Bytes at which "data available" is raised, by FCR bits 7–6. */
const TRIGGER = new Uint8Array([1, 4, 8, 14]);

// IER
const ERBFI = 0x01;
const ETBEI = 0x02;
const ELSI = 0x04;
const EDSSI = 0x08;
// IIR, highest priority first
const IIR_LINE_STATUS = 0x06;
const IIR_DATA = 0x04;
const IIR_TIMEOUT = 0x0c;
const IIR_TRANSMIT = 0x02;
const IIR_MODEM = 0x00;
const IIR_NONE = 0x01;
const IIR_FIFOS = 0xc0;
// FCR
const FIFO_ENABLE = 0x01;
const CLEAR_RECEIVE = 0x02;
const CLEAR_TRANSMIT = 0x04;
// LCR
const SET_BREAK = 0x40;
const DLAB = 0x80;
// MCR
const OUT2 = 0x08;
const LOOP = 0x10;
// LSR
const DR = 0x01;
const OE = 0x02;
const BI = 0x10;
const ERRORS = 0x1e;
const THRE = 0x20;
const TEMT = 0x40;
const FIFO_ERROR = 0x80;
// MSR
const TERI = 0x04;
const CTS = 0x10;
const DSR = 0x20;
const RI = 0x40;
const DCD = 0x80;

const declaration = {
  ier: u8(0),
  fcr: u8(0),
  lcr: u8(0),
  mcr: u8(0),
  /** Error bits (OE, PE, FE, BI) that a read of LSR will show and clear. */
  errors: u8(0),
  /** MSR's low half: what changed since it was read. */
  deltas: u8(0),
  /** MSR's high half as the wires have it, seen outside loopback. */
  modem: u8(CTS | DSR | DCD),
  scr: u8(0),
  dll: u8(1),
  dlm: u8(0),
  /** "Transmit holding register empty" is to be reported. */
  transmitted: u8(0),
  /** The receive FIFO held bytes for four character times without traffic. */
  timeout: u8(0),
  /** A byte was refused since the FIFO last had room. */
  refused: u8(0),
  received: u8.array(FIFO),
  /** LSR error bits that came with each received byte. */
  flaws: u8.array(FIFO),
  receiveHead: u8(0),
  receiveCount: u8(0),
  sending: u8.array(FIFO),
  sendHead: u8(0),
  sendCount: u8(0),
  /** When the receive FIFO was last written or read, ns. */
  traffic: f64(0),
};

export const Ns8250Registers = declareRegisters("ns8250", declaration);

export class Ns8250 implements PortDevice, Resettable {
  readonly #r: Registers<typeof declaration>;
  readonly #clock: Clock;
  readonly #irq: InterruptLine;
  readonly #backend: SerialBackend;
  readonly #wanted: (() => void) | undefined;
  readonly #timer: Timer;

  /** `wanted` is called when there is room again after `receive` refused a byte. */
  constructor(
    registers: Registers<typeof declaration>,
    clock: Clock,
    irq: InterruptLine,
    backend: SerialBackend,
    wanted?: () => void,
  ) {
    this.#r = registers;
    this.#clock = clock;
    this.#irq = irq;
    this.#backend = backend;
    this.#wanted = wanted;
    this.#timer = clock.timer(() => this.#timedOut());
  }

  reset(): void {
    this.#r.resetAll();
    this.#timer.disarm();
    this.#irq.set(false);
  }

  /** Bytes that `receive` takes now. */
  get room(): number {
    const r = this.#r;
    if ((r.mcr & LOOP) !== 0) return 0;
    return this.#depth - r.receiveCount;
  }

  /** A byte from the wire; false when there is no room: the caller keeps it. */
  receive(byte: number): boolean {
    if (this.room <= 0) {
      this.#r.refused = 1;
      return false;
    }
    this.#push(byte, 0);
    this.#update();
    return true;
  }

  /** A break on the wire; false when there is no room for the zero that stands for it. */
  receiveBreak(): boolean {
    if (this.room <= 0) return false;
    this.#push(0, BI);
    this.#update();
    return true;
  }

  /** The backend can take bytes again: sends what waits. */
  drain(): void {
    const r = this.#r;
    if (r.sendCount === 0) return;
    this.#send();
    this.#update();
  }

  /** The modem's wires: DCD 0x80, RI 0x40, DSR 0x20, CTS 0x10. All but RI are up after reset. */
  setModem(wires: number): void {
    const before = this.#modem;
    this.#r.modem = wires & 0xf0;
    this.#modemChanged(before);
    this.#update();
  }

  read(port: number, _size: Size): number {
    const r = this.#r;
    switch (port & 7) {
      case 0:
        return (r.lcr & DLAB) !== 0 ? r.dll : this.#readData();
      case 1:
        return (r.lcr & DLAB) !== 0 ? r.dlm : r.ier;
      case 2:
        return this.#readIir();
      case 3:
        return r.lcr;
      case 4:
        return r.mcr;
      case 5:
        return this.#readLsr();
      case 6:
        return this.#readMsr();
      default:
        return r.scr;
    }
  }

  write(port: number, _size: Size, value: number): void {
    const r = this.#r;
    const byte = value & 0xff;
    switch (port & 7) {
      case 0:
        if ((r.lcr & DLAB) !== 0) r.dll = byte;
        else this.#writeData(byte);
        break;
      case 1:
        if ((r.lcr & DLAB) !== 0) r.dlm = byte;
        else this.#writeIer(byte);
        break;
      case 2:
        this.#writeFcr(byte);
        break;
      case 3:
        if ((byte & ~r.lcr & SET_BREAK) !== 0 && (r.mcr & LOOP) !== 0) this.#push(0, BI);
        r.lcr = byte;
        break;
      case 4: {
        const before = this.#modem;
        r.mcr = byte & 0x1f;
        this.#modemChanged(before);
        this.#offerRoom();
        break;
      }
      case 7:
        r.scr = byte;
        break;
    }
    this.#update();
  }

  get #fifos(): boolean {
    return (this.#r.fcr & FIFO_ENABLE) !== 0;
  }

  get #depth(): number {
    return this.#fifos ? FIFO : 1;
  }

  /** Bytes at which "data available" is reported. */
  get #trigger(): number {
    return this.#fifos ? TRIGGER[this.#r.fcr >> 6] : 1;
  }

  /** MSR's high half; in loopback the modem control outputs stand for the wires. */
  get #modem(): number {
    const r = this.#r;
    if ((r.mcr & LOOP) === 0) return r.modem;
    const mcr = r.mcr;
    return ((mcr & 0x01) << 5) | ((mcr & 0x02) << 3) | ((mcr & 0x0c) << 4);
  }

  #modemChanged(before: number): void {
    const now = this.#modem;
    let deltas = ((before ^ now) >> 4) & ~TERI;
    if ((before & ~now & RI) !== 0) deltas |= TERI;
    this.#r.deltas |= deltas;
  }

  #push(byte: number, flaw: number): void {
    const r = this.#r;
    r.traffic = this.#clock.now;
    if (r.receiveCount >= this.#depth) {
      // The shift register is overwritten, and without FIFOs so is the byte not yet read.
      r.errors |= OE;
      if (!this.#fifos) r.received[r.receiveHead] = byte;
      return;
    }
    const at = (r.receiveHead + r.receiveCount) % FIFO;
    r.received[at] = byte;
    r.flaws[at] = flaw;
    r.receiveCount++;
    if (r.receiveCount === 1) this.#revealFlaw();
  }

  /** The errors of a byte are shown once it is the next to be read. */
  #revealFlaw(): void {
    const r = this.#r;
    r.errors |= r.flaws[r.receiveHead];
    r.flaws[r.receiveHead] = 0;
  }

  #readData(): number {
    const r = this.#r;
    if (r.receiveCount === 0) return 0;
    const byte = r.received[r.receiveHead];
    r.timeout = 0;
    r.traffic = this.#clock.now;
    r.receiveHead = (r.receiveHead + 1) % FIFO;
    r.receiveCount--;
    if (r.receiveCount > 0) this.#revealFlaw();
    this.#update();
    this.#offerRoom();
    return byte;
  }

  #offerRoom(): void {
    if (this.#r.refused === 0 || this.room <= 0) return;
    this.#r.refused = 0;
    this.#wanted?.();
  }

  #writeData(byte: number): void {
    const r = this.#r;
    r.transmitted = 0;
    this.#update(); // the line drops even if the byte leaves at once: the next is a new edge
    if ((r.mcr & LOOP) !== 0) {
      this.#push(byte, 0);
      if (r.sendCount === 0) r.transmitted = 1;
      return;
    }
    if (r.sendCount < this.#depth) {
      r.sending[(r.sendHead + r.sendCount) % FIFO] = byte;
      r.sendCount++;
    } else if (!this.#fifos) {
      r.sending[r.sendHead] = byte;
    }
    this.#send();
  }

  #send(): void {
    const r = this.#r;
    while (r.sendCount > 0) {
      if (!this.#backend.transmit(r.sending[r.sendHead])) return;
      r.sendHead = (r.sendHead + 1) % FIFO;
      r.sendCount--;
    }
    r.transmitted = 1;
  }

  #writeIer(value: number): void {
    const r = this.#r;
    if ((value & ~r.ier & ETBEI) !== 0 && r.sendCount === 0) r.transmitted = 1;
    r.ier = value & 0x0f;
  }

  #writeFcr(value: number): void {
    const r = this.#r;
    const toggled = ((value ^ r.fcr) & FIFO_ENABLE) !== 0;
    if (toggled || (value & (FIFO_ENABLE | CLEAR_RECEIVE)) === (FIFO_ENABLE | CLEAR_RECEIVE)) {
      r.receiveCount = 0;
      r.timeout = 0;
    }
    if (toggled || (value & (FIFO_ENABLE | CLEAR_TRANSMIT)) === (FIFO_ENABLE | CLEAR_TRANSMIT)) {
      if (r.sendCount > 0) r.transmitted = 1;
      r.sendCount = 0;
    }
    // The other bits can be programmed only while bit 0 is set.
    r.fcr = (value & FIFO_ENABLE) !== 0 ? value & 0xc9 : 0;
    this.#offerRoom();
  }

  /** The IIR code of the most urgent enabled interrupt. */
  #cause(): number {
    const r = this.#r;
    if ((r.ier & ELSI) !== 0 && (r.errors & ERRORS) !== 0) return IIR_LINE_STATUS;
    if ((r.ier & ERBFI) !== 0) {
      if (r.receiveCount >= this.#trigger) return IIR_DATA;
      if (r.timeout !== 0) return IIR_TIMEOUT;
    }
    if ((r.ier & ETBEI) !== 0 && r.transmitted !== 0) return IIR_TRANSMIT;
    if ((r.ier & EDSSI) !== 0 && r.deltas !== 0) return IIR_MODEM;
    return IIR_NONE;
  }

  #readIir(): number {
    const cause = this.#cause();
    if (cause === IIR_TRANSMIT) {
      this.#r.transmitted = 0;
      this.#update();
    }
    return this.#fifos ? cause | IIR_FIFOS : cause;
  }

  #readLsr(): number {
    const r = this.#r;
    let lsr = r.errors;
    if (r.receiveCount > 0) lsr |= DR;
    if (r.sendCount === 0) lsr |= THRE | TEMT;
    if (this.#fifos && this.#flawed()) lsr |= FIFO_ERROR;
    if (r.errors !== 0) {
      r.errors = 0;
      this.#update();
    }
    return lsr;
  }

  #flawed(): boolean {
    const r = this.#r;
    if ((r.errors & (ERRORS & ~OE)) !== 0) return true;
    for (let i = 0; i < r.receiveCount; i++) {
      if (r.flaws[(r.receiveHead + i) % FIFO] !== 0) return true;
    }
    return false;
  }

  #readMsr(): number {
    const r = this.#r;
    const msr = this.#modem | r.deltas;
    if (r.deltas !== 0) {
      r.deltas = 0;
      this.#update();
    }
    return msr;
  }

  /** The interrupt line and the timer, after any change. */
  #update(): void {
    const r = this.#r;
    this.#irq.set((r.mcr & OUT2) !== 0 && this.#cause() !== IIR_NONE);
    const waits =
      (r.ier & ERBFI) !== 0 &&
      r.timeout === 0 &&
      r.receiveCount > 0 &&
      r.receiveCount < this.#trigger;
    if (waits) this.#timer.arm(r.traffic + this.#fourCharacters());
    else this.#timer.disarm();
  }

  /** Four character times at the programmed speed and format, ns. */
  #fourCharacters(): number {
    const r = this.#r;
    const divisor = r.dll | (r.dlm << 8) || 1;
    const bits = 7 + (r.lcr & 3) + ((r.lcr >> 2) & 1) + ((r.lcr >> 3) & 1);
    return Math.ceil((4 * bits * divisor * 1e9) / BAUD_BASE);
  }

  #timedOut(): void {
    this.#r.timeout = 1;
    this.#update();
  }
}
