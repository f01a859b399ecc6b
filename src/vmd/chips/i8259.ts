/**
 * The pair of Intel 8259A interrupt controllers of a PC/AT, as the PIIX family integrates them.
 *
 *   0x20/0x21    master, IRQ 0–7; its input 2 is the slave's output
 *   0xa0/0xa1    slave, IRQ 8–15
 *   0x4d0/0x4d1  ELCR: edge (0) or level (1) for every input
 *
 * Sources: Intel 8259A data sheet (231468), 82371AB (PIIX4) data sheet §§ 4.2.4 and 8.6.
 *
 * Three points where the sheets leave room:
 * - An edge stays latched when its line drops before the acknowledge; a level doesn't.
 * - LTIM in ICW1 is ignored, as in PIIX: ELCR says which inputs are level-triggered.
 * - The slave's output drops during its acknowledge, so what it still has to report is a new edge.
 */
import { declareRegisters, u32, u8, type Registers } from "../../vmm/registers.ts";
import type { InterruptLine, PortDevice, Resettable, Size } from "../device.ts";

const MASTER = 0;
const SLAVE = 1;
/** The master's input that the slave's output is wired to, as a mask. */
const CASCADE = 0x04;
/** ELCR bits that exist: the timer, keyboard, cascade, clock and FPU inputs are edges for ever. */
const LEVEL_CAPABLE_MASTER = 0xf8;
const LEVEL_CAPABLE_SLAVE = 0xde;

/** What a chip's next command-port-plus-one write is. */
const READY = 0;
const UNINITIALISED = 1;
const WANTS_ICW2 = 2;
const WANTS_ICW3 = 3;
const WANTS_ICW4 = 4;

// ICW1, ICW4
const ICW1 = 0x10;
const IC4 = 0x01;
const SNGL = 0x02;
const AEOI = 0x02;
const SFNM = 0x10;

// What bit a read of the command port answers from, and the modes of OCW2 and OCW3.
const READ_ISR = 0x01;
const POLL = 0x02;
const SPECIAL_MASK = 0x04;
const ROTATE_IN_AEOI = 0x08;

const declaration = {
  /** Level of the inputs, one bit each: [master, slave]. */
  lines: u8.array(2),
  /** Edges seen and not yet acknowledged. */
  latch: u8.array(2),
  isr: u8.array(2),
  imr: u8.array(2),
  elcr: u8.array(2),
  /** ICW2: vector of input 0. */
  base: u8.array(2),
  icw1: u8.array(2),
  icw4: u8.array(2),
  /** Place in the initialisation sequence. */
  stage: u8.array(2, UNINITIALISED),
  /** The input of lowest priority. */
  lowest: u8.array(2, 7),
  mode: u8.array(2),
  /** The INT pins. */
  output: u8.array(2),
  /** For every IRQ, which of the sources that share its line assert it. */
  sources: u32.array(16),
};

export const I8259Registers = declareRegisters("i8259", declaration);

export class I8259 implements PortDevice, Resettable {
  readonly #r: Registers<typeof declaration>;
  /** Sources handed out per IRQ. */
  readonly #wired = new Uint8Array(16);

  constructor(registers: Registers<typeof declaration>) {
    this.#r = registers;
  }

  reset(): void {
    this.#r.resetAll();
  }

  /**
   * Connects one more source to an input, 0–15; the sources of one input are ORed. IRQ 2 of the
   * AT bus is wired to input 9. A machine connects its sources in a fixed order, and at most 32
   * to one input.
   */
  line(irq: number): InterruptLine {
    if (!Number.isInteger(irq) || irq < 0 || irq > 15) throw new RangeError(`no IRQ ${irq}`);
    const input = irq === 2 ? 9 : irq;
    const source = this.#wired[input]++;
    if (source === 32) throw new RangeError(`IRQ ${irq} has 32 sources already`);
    const bit = (1 << source) >>> 0;
    return { set: (level) => this.#drive(input, bit, level) };
  }

  /** The master's INT pin: whether the CPU is asked to acknowledge an interrupt. */
  get pending(): boolean {
    return this.#r.output[MASTER] !== 0;
  }

  /**
   * The interrupt acknowledge cycle. Returns the vector; that of input 7 when the request is
   * gone by now (a spurious interrupt, which leaves the ISR alone).
   */
  acknowledge(): number {
    const r = this.#r;
    const input = this.#request(MASTER);
    if (input < 0) return r.base[MASTER] | 7;
    this.#accept(MASTER, input);
    let vector = r.base[MASTER] | input;
    if (1 << input === CASCADE && (r.icw1[MASTER] & SNGL) === 0) {
      const slave = this.#request(SLAVE);
      vector = r.base[SLAVE] | (slave < 0 ? 7 : slave);
      if (slave >= 0) this.#accept(SLAVE, slave);
    }
    this.#update();
    return vector;
  }

  read(port: number, _size: Size): number {
    const r = this.#r;
    if (port >= 0x4d0) return r.elcr[port & 1];
    const chip = port >= 0xa0 ? SLAVE : MASTER;
    if ((r.mode[chip] & POLL) !== 0) return this.#poll(chip);
    if ((port & 1) !== 0) return r.imr[chip];
    return (r.mode[chip] & READ_ISR) !== 0 ? r.isr[chip] : this.#irr(chip);
  }

  write(port: number, _size: Size, value: number): void {
    const byte = value & 0xff;
    if (port >= 0x4d0) this.#writeElcr(port & 1, byte);
    else {
      const chip = port >= 0xa0 ? SLAVE : MASTER;
      if ((port & 1) !== 0) this.#writeData(chip, byte);
      else if ((byte & ICW1) !== 0) this.#initialise(chip, byte);
      else if ((byte & 0x08) !== 0) this.#writeOcw3(chip, byte);
      else this.#writeOcw2(chip, byte);
    }
    this.#update();
  }

  #drive(irq: number, source: number, level: boolean): void {
    const r = this.#r;
    const before = r.sources[irq];
    r.sources[irq] = level ? before | source : before & ~source;
    if ((before === 0) === (r.sources[irq] === 0)) return;
    const chip = irq >> 3;
    const bit = 1 << (irq & 7);
    if (before === 0) {
      r.lines[chip] |= bit;
      if ((r.elcr[chip] & bit) === 0) r.latch[chip] |= bit;
    } else {
      r.lines[chip] &= ~bit;
    }
    this.#update();
  }

  /** Level inputs follow their line, edge inputs their latch. */
  #irr(chip: number): number {
    return this.#r.latch[chip] | (this.#r.lines[chip] & this.#r.elcr[chip]);
  }

  /** Rank of the set bit of highest priority, 0 the highest; 8 when none is set. */
  #rank(chip: number, bits: number): number {
    if (bits === 0) return 8;
    const rotated = ((bits << 8) | bits) >> (this.#r.lowest[chip] + 1);
    return 31 - Math.clz32(rotated & -rotated);
  }

  /** The input that a chip asks to be served; -1 when none may interrupt now. */
  #request(chip: number): number {
    const r = this.#r;
    if (r.stage[chip] !== READY) return -1;
    const rank = this.#rank(chip, this.#irr(chip) & ~r.imr[chip]);
    if (rank === 8) return -1;
    let served = r.isr[chip];
    if ((r.mode[chip] & SPECIAL_MASK) !== 0) served &= ~r.imr[chip];
    // Special fully nested: the slave may interrupt its own service for a higher input.
    const nests = chip === MASTER && (r.icw4[chip] & SFNM) !== 0;
    if (nests) served &= ~CASCADE;
    if (rank >= this.#rank(chip, served)) return -1;
    return (rank + r.lowest[chip] + 1) & 7;
  }

  /** INTA, or the read that stands for it in poll mode. */
  #accept(chip: number, input: number): void {
    const r = this.#r;
    const bit = 1 << input;
    r.latch[chip] &= ~bit;
    r.output[chip] = 0;
    if ((r.icw4[chip] & AEOI) === 0) r.isr[chip] |= bit;
    else if ((r.mode[chip] & ROTATE_IN_AEOI) !== 0) r.lowest[chip] = input;
  }

  #poll(chip: number): number {
    this.#r.mode[chip] &= ~POLL;
    const input = this.#request(chip);
    if (input < 0) return 0;
    this.#accept(chip, input);
    this.#update();
    return 0x80 | input;
  }

  #initialise(chip: number, icw1: number): void {
    const r = this.#r;
    r.icw1[chip] = icw1;
    if ((icw1 & IC4) === 0) r.icw4[chip] = 0;
    r.stage[chip] = WANTS_ICW2;
    // The edge sense circuit is reset: an input that is up must drop before it counts again.
    r.latch[chip] = 0;
    // The slave's pin is looked at afresh: one that stays up would never be an edge again.
    if (chip === MASTER) r.output[SLAVE] = 0;
    r.isr[chip] = 0;
    r.imr[chip] = 0;
    r.lowest[chip] = 7;
    r.mode[chip] = 0;
  }

  #writeData(chip: number, value: number): void {
    const r = this.#r;
    const last = (r.icw1[chip] & IC4) !== 0 ? WANTS_ICW4 : READY;
    switch (r.stage[chip]) {
      case WANTS_ICW2:
        r.base[chip] = value & 0xf8;
        r.stage[chip] = (r.icw1[chip] & SNGL) !== 0 ? last : WANTS_ICW3;
        break;
      case WANTS_ICW3: // the wiring of the pair is fixed
        r.stage[chip] = last;
        break;
      case WANTS_ICW4:
        r.icw4[chip] = value & (SFNM | AEOI);
        r.stage[chip] = READY;
        break;
      default:
        r.imr[chip] = value;
    }
  }

  /** End of interrupt and priority rotation: R, SL, EOI in bits 7–5, a level in bits 2–0. */
  #writeOcw2(chip: number, value: number): void {
    const r = this.#r;
    const level = value & 7;
    switch (value >> 5) {
      case 0: // rotate in AEOI, clear
        r.mode[chip] &= ~ROTATE_IN_AEOI;
        break;
      case 4: // rotate in AEOI, set
        r.mode[chip] |= ROTATE_IN_AEOI;
        break;
      case 1: // EOI
        this.#endHighest(chip);
        break;
      case 5: {
        const ended = this.#endHighest(chip);
        if (ended >= 0) r.lowest[chip] = ended;
        break;
      }
      case 3: // specific EOI
        r.isr[chip] &= ~(1 << level);
        break;
      case 7:
        r.isr[chip] &= ~(1 << level);
        r.lowest[chip] = level;
        break;
      case 6: // set priority
        r.lowest[chip] = level;
        break;
    }
  }

  /** Non-specific EOI; returns the input it ended, -1 when none was in service. */
  #endHighest(chip: number): number {
    const r = this.#r;
    let served = r.isr[chip];
    // In special mask mode an in-service bit that is masked takes no non-specific EOI.
    if ((r.mode[chip] & SPECIAL_MASK) !== 0) served &= ~r.imr[chip];
    const rank = this.#rank(chip, served);
    if (rank === 8) return -1;
    const input = (rank + r.lowest[chip] + 1) & 7;
    r.isr[chip] &= ~(1 << input);
    return input;
  }

  #writeOcw3(chip: number, value: number): void {
    const r = this.#r;
    let mode = r.mode[chip];
    if ((value & 0x04) !== 0) mode |= POLL;
    if ((value & 0x02) !== 0) mode = (mode & ~READ_ISR) | (value & 0x01);
    if ((value & 0x40) !== 0) {
      mode = (value & 0x20) !== 0 ? mode | SPECIAL_MASK : mode & ~SPECIAL_MASK;
    }
    r.mode[chip] = mode;
  }

  #writeElcr(chip: number, value: number): void {
    const r = this.#r;
    r.elcr[chip] = value & (chip === MASTER ? LEVEL_CAPABLE_MASTER : LEVEL_CAPABLE_SLAVE);
    r.latch[chip] &= ~r.elcr[chip];
  }

  /** The INT pins after a change, the slave's first. */
  #update(): void {
    const r = this.#r;
    const slave = this.#request(SLAVE) >= 0 ? 1 : 0;
    if (slave > r.output[SLAVE]) r.latch[MASTER] |= CASCADE;
    r.output[SLAVE] = slave;
    r.output[MASTER] = this.#request(MASTER) >= 0 ? 1 : 0;
  }
}
