/**
 * The Motorola MC146818 real-time clock with 128 bytes of battery-backed RAM, as on a PC.
 *
 *   0x70  index; bit 7 masks NMI      0x71  data
 *
 *   0–9        seconds, its alarm, minutes, alarm, hours, alarm, weekday, day, month, year
 *   0x0a–0x0d  registers A–D          0x32  century: part of the calendar on a PC
 *   the rest   NVRAM, of which `configure` fills in what firmware looks for
 *
 * Source: MC146818A data sheet (ADI-856). IRQ 8.
 *
 * The calendar's bytes are what the guest reads and writes, valid for one second of the divider
 * chain; an access in a later second moves them on first. So a guest may store any bytes, in any
 * order, and change the data mode without converting them, as on the chip. Out-of-range values are
 * carried over (31 April becomes 1 May) at the next update that changes the day.
 *
 * The chain follows UTC; resetting the divider shifts its phase. The timer is armed only while an
 * interrupt is enabled and not yet pending.
 */
import type { Clock, Timer } from "../../vmm/clock.ts";
import { declareRegisters, f64, u8, type Registers } from "../../vmm/registers.ts";
import type { InterruptLine, PortDevice, Resettable, Size } from "../device.ts";
import { dayOfWeek, daysBefore, monthOf, yearOf } from "./calendar.ts";

const SECOND = 1e9;
const DAY = 86_400;
/** UIP is set this long before an update, ns. */
const UPDATE_NOTICE = 244_000;
/** From the release of the divider to the first update, ns. */
const DIVIDER_RELEASE = 500_000_000;
/** Ticks a second that the periodic interrupt divides. */
const CRYSTAL = 32_768;

// Indices
const SECONDS = 0x00;
const SECONDS_ALARM = 0x01;
const MINUTES = 0x02;
const MINUTES_ALARM = 0x03;
const HOURS = 0x04;
const HOURS_ALARM = 0x05;
const WEEKDAY = 0x06;
const DAY_OF_MONTH = 0x07;
const MONTH = 0x08;
const YEAR = 0x09;
const A = 0x0a;
const B = 0x0b;
const C = 0x0c;
const D = 0x0d;
const CENTURY = 0x32;
// Register A
const UIP = 0x80;
// Register B
const SET = 0x80;
const PIE = 0x40;
const AIE = 0x20;
const UIE = 0x10;
const SQWE = 0x08;
const BINARY = 0x04;
const HOURS_24 = 0x02;
// Register C: the flags lie where register B has their enables.
const IRQF = 0x80;
const PF = PIE;
const AF = AIE;
const UF = UIE;
// Register D
const VALID_RAM = 0x80;
// Hour and alarm bytes
const PM = 0x80;
const DONT_CARE = 0xc0;

const declaration = {
  index: u8(0),
  ram: u8.array(128),
  /** PF, AF and UF of register C. */
  flags: u8(0),
  /** The second of the chain that the calendar's bytes hold for. */
  second: f64(0),
  /** What the chain is ahead of UTC, ns, less than a second. */
  phase: f64(0),
  /** Periods of the periodic interrupt already seen. */
  periods: f64(0),
  /** The battery was never out since the machine was made. */
  powered: u8(0),
};

export const Mc146818Registers = declareRegisters("mc146818", declaration);

/** A device that firmware boots from. */
export type BootDevice = "floppy" | "disk" | "cdrom" | "network";

/** What NVRAM tells firmware of the machine. */
export interface NvramOptions {
  /** End of the RAM below 4 GiB, bytes. */
  readonly low: number;
  /** RAM above 4 GiB, bytes. */
  readonly high: number;
  readonly cpus: number;
  /** Conventional memory, bytes; default 640 KiB. */
  readonly base?: number;
  /** First choice first, at most three; default: disk, cdrom, network. */
  readonly boot?: readonly BootDevice[];
}

const BOOT_CODE: Record<BootDevice, number> = { floppy: 1, disk: 2, cdrom: 3, network: 4 };

export class Mc146818 implements PortDevice, Resettable {
  readonly #r: Registers<typeof declaration>;
  readonly #clock: Clock;
  readonly #irq: InterruptLine;
  readonly #timer: Timer;

  constructor(registers: Registers<typeof declaration>, clock: Clock, irq: InterruptLine) {
    this.#r = registers;
    this.#clock = clock;
    this.#irq = irq;
    this.#timer = clock.timer(() => {
      this.#advance();
      this.#update();
    });
  }

  /** The RESET# pin leaves time and RAM alone; at the first reset the battery is put in. */
  reset(): void {
    const r = this.#r;
    if (r.powered === 0) this.#putInBattery();
    this.#advance();
    r.ram[B] &= ~(PIE | AIE | UIE | SQWE);
    r.flags = 0;
    r.index = 0;
    this.#update();
  }

  /** The clock's epoch was moved, by whole seconds: the calendar moves with it, as do alarms. */
  moved(): void {
    this.#advance();
    this.#update();
  }

  /** Fills in the NVRAM bytes that SeaBIOS and its like size the machine by. */
  configure(options: NvramOptions): void {
    const r = this.#r;
    const units = (bytes: number, size: number, most: number): number =>
      Math.max(0, Math.min(most, Math.floor(bytes / size)));
    const store = (index: number, value: number, bytes: number): void => {
      for (let i = 0; i < bytes; i++) r.ram[index + i] = Math.floor(value / 2 ** (8 * i));
    };
    const extended = units(options.low - 0x100000, 1024, 0xffff);
    store(0x15, units(options.base ?? 640 * 1024, 1024, 640), 2);
    store(0x17, extended, 2);
    store(0x30, extended, 2);
    store(0x34, units(options.low - 0x1000000, 0x10000, 0xffff), 2);
    store(0x5b, units(options.high, 0x10000, 0xffffff), 3);
    store(0x5f, options.cpus - 1, 1);
    const [first, second, third] = options.boot ?? ["disk", "cdrom", "network"];
    const code = (device: BootDevice | undefined): number => (device ? BOOT_CODE[device] : 0);
    store(0x3d, code(first) | (code(second) << 4), 1);
    store(0x38, code(third) << 4, 1);
    store(0x14, 0x02, 1); // equipment: an FPU
    let sum = 0;
    for (let i = 0x10; i <= 0x2d; i++) sum += r.ram[i];
    r.ram[0x2e] = sum >> 8;
    r.ram[0x2f] = sum;
  }

  read(port: number, _size: Size): number {
    const r = this.#r;
    if ((port & 1) === 0) return r.index;
    const index = r.index & 0x7f;
    this.#advance();
    switch (index) {
      case A:
        return r.ram[A] | (this.#updating ? UIP : 0);
      case C: {
        const flags = r.flags | (this.#requesting ? IRQF : 0);
        r.flags = 0;
        this.#update();
        return flags;
      }
      case D:
        return VALID_RAM;
      default:
        return r.ram[index];
    }
  }

  write(port: number, _size: Size, value: number): void {
    const r = this.#r;
    const byte = value & 0xff;
    if ((port & 1) === 0) {
      r.index = byte;
      return;
    }
    const index = r.index & 0x7f;
    this.#advance();
    switch (index) {
      case A:
        this.#writeA(byte);
        break;
      case B: {
        const released = (r.ram[B] & ~byte & SET) !== 0;
        r.ram[B] = (byte & SET) !== 0 ? byte & ~UIE : byte;
        if (released) r.second = this.#chainSecond;
        break;
      }
      case C:
      case D:
        break;
      default:
        r.ram[index] = byte;
    }
    if (index < C) this.#update();
  }

  #putInBattery(): void {
    const r = this.#r;
    r.resetAll();
    r.powered = 1;
    r.ram[A] = 0x26; // 32.768 kHz, 1024 Hz
    r.ram[B] = HOURS_24;
    r.second = this.#chainSecond;
    const days = Math.floor(r.second / DAY);
    this.#storeTime(r.second - days * DAY);
    this.#storeDate(days);
    r.ram[WEEKDAY] = dayOfWeek(days);
  }

  #writeA(value: number): void {
    const r = this.#r;
    const stopped = !this.#divides;
    r.ram[A] = value & ~UIP;
    if (stopped && this.#divides) {
      r.phase = 0;
      const phase = (DIVIDER_RELEASE - this.#chain) % SECOND;
      r.phase = phase < 0 ? phase + SECOND : phase;
      r.second = this.#chainSecond;
    }
    r.periods = this.#periodsNow();
  }

  /** Whether the divider chain runs: DV is a crystal's, not a reset or test code. */
  get #divides(): boolean {
    return (this.#r.ram[A] & 0x70) <= 0x20;
  }

  get #running(): boolean {
    return this.#divides && (this.#r.ram[B] & SET) === 0;
  }

  /** Position of the chain, ns from the whole second in which guest time 0 lies. */
  get #chain(): number {
    return (this.#clock.epoch % SECOND) + this.#clock.now + this.#r.phase;
  }

  /** Position of the chain in whole seconds since 1970. */
  get #chainSecond(): number {
    return Math.floor(this.#clock.epoch / SECOND) + Math.floor(this.#chain / SECOND);
  }

  /** To the next second of the chain, ns. */
  get #toUpdate(): number {
    return SECOND - (this.#chain % SECOND);
  }

  get #updating(): boolean {
    return this.#running && this.#toUpdate <= UPDATE_NOTICE;
  }

  get #requesting(): boolean {
    return (this.#r.flags & this.#r.ram[B] & (PIE | AIE | UIE)) !== 0;
  }

  /** Ticks of the crystal in a period; 0 for none. Rates 1 and 2 are those of 8 and 9. */
  get #period(): number {
    const rate = this.#r.ram[A] & 0x0f;
    if (rate === 0 || !this.#divides) return 0;
    return rate < 3 ? 1 << (rate + 6) : 1 << (rate - 1);
  }

  #periodsNow(): number {
    const period = this.#period;
    if (period === 0) return 0;
    const chain = this.#chain;
    const seconds = Math.floor(chain / SECOND);
    const ticks = Math.floor(((chain - seconds * SECOND) * CRYSTAL) / SECOND);
    return Math.floor((seconds * CRYSTAL + ticks) / period);
  }

  /** Guest time of the next period, ns. */
  #nextPeriod(): number {
    const ticks = (this.#periodsNow() + 1) * this.#period;
    const seconds = Math.floor(ticks / CRYSTAL);
    const rest = Math.ceil(((ticks - seconds * CRYSTAL) * SECOND) / CRYSTAL);
    return this.#clock.now + (seconds * SECOND + rest - this.#chain);
  }

  /** Moves calendar and flags to the current guest time. */
  #advance(): void {
    const r = this.#r;
    const periods = this.#periodsNow();
    if (periods !== r.periods) {
      r.periods = periods;
      r.flags |= PF;
    }
    if (!this.#running) return;
    const second = this.#chainSecond;
    if (second === r.second) return;
    const elapsed = second - r.second;
    r.second = second;
    const time = this.#time();
    if (elapsed > 0) {
      r.flags |= UF;
      if (this.#toAlarm(time) <= elapsed) r.flags |= AF;
    }
    const days = Math.floor((time + elapsed) / DAY);
    this.#storeTime(time + elapsed - days * DAY);
    if (days === 0) return;
    this.#storeDate(this.#date() + days);
    const weekday = (this.#decode(r.ram[WEEKDAY]) - 1 + days) % 7;
    r.ram[WEEKDAY] = this.#encode((weekday < 0 ? weekday + 7 : weekday) + 1);
  }

  /** The interrupt line and the timer, after any change. */
  #update(): void {
    const requesting = this.#requesting;
    this.#irq.set(requesting);
    const enabled = this.#r.ram[B] & (PIE | AIE | UIE);
    if (requesting || enabled === 0) {
      this.#timer.disarm();
      return;
    }
    let due = Infinity;
    if ((enabled & PIE) !== 0 && this.#period !== 0) due = this.#nextPeriod();
    if (this.#running) {
      const update = this.#clock.now + this.#toUpdate;
      if ((enabled & UIE) !== 0) due = Math.min(due, update);
      if ((enabled & AIE) !== 0) {
        due = Math.min(due, update + (this.#toAlarm(this.#time()) - 1) * SECOND);
      }
    }
    this.#timer.arm(due);
  }

  /** Seconds from second-of-day `time` to the next alarm, 1 to 86400; Infinity if never. */
  #toAlarm(time: number): number {
    const second = this.#alarm(SECONDS_ALARM, 60);
    const minute = this.#alarm(MINUTES_ALARM, 60);
    const hour = this.#alarm(HOURS_ALARM, 24);
    if (second === Infinity || minute === Infinity || hour === Infinity) return Infinity;
    // Skips what can't match: at most 24 hours, 60 minutes and one step to the second.
    let ahead = 1;
    while (ahead <= DAY) {
      const t = (time + ahead) % DAY;
      if (hour >= 0 && Math.floor(t / 3600) !== hour) ahead += 3600 - (t % 3600);
      else if (minute >= 0 && Math.floor(t / 60) % 60 !== minute) ahead += 60 - (t % 60);
      else if (second >= 0 && t % 60 !== second) ahead += (second - (t % 60) + 60) % 60;
      else return ahead;
    }
    return Infinity;
  }

  /** An alarm byte's value; -1 for "don't care", Infinity for what no time will equal. */
  #alarm(index: number, limit: number): number {
    const byte = this.#r.ram[index];
    if (byte >= DONT_CARE) return -1;
    const hours = index === HOURS_ALARM;
    const value = hours ? this.#decodeHours(byte) : this.#decode(byte);
    const same = (hours ? this.#encodeHours(value) : this.#encode(value)) === byte;
    return same && value < limit ? value : Infinity;
  }

  /** The calendar's second of the day; more than a day if the guest stored nonsense. */
  #time(): number {
    const ram = this.#r.ram;
    const hours = this.#decodeHours(ram[HOURS]);
    return hours * 3600 + this.#decode(ram[MINUTES]) * 60 + this.#decode(ram[SECONDS]);
  }

  #storeTime(time: number): void {
    const ram = this.#r.ram;
    ram[SECONDS] = this.#encode(time % 60);
    ram[MINUTES] = this.#encode(Math.floor(time / 60) % 60);
    ram[HOURS] = this.#encodeHours(Math.floor(time / 3600));
  }

  /** The calendar's date, days since 1970. */
  #date(): number {
    const ram = this.#r.ram;
    const year = this.#decode(ram[CENTURY]) * 100 + this.#decode(ram[YEAR]);
    const month = this.#decode(ram[MONTH]) - 1;
    return daysBefore(year, month) + this.#decode(ram[DAY_OF_MONTH]) - 1;
  }

  #storeDate(days: number): void {
    const ram = this.#r.ram;
    const year = yearOf(days);
    const month = monthOf(days, year);
    ram[DAY_OF_MONTH] = this.#encode(days - daysBefore(year, month) + 1);
    ram[MONTH] = this.#encode(month + 1);
    ram[YEAR] = this.#encode(((year % 100) + 100) % 100);
    ram[CENTURY] = this.#encode(((Math.floor(year / 100) % 100) + 100) % 100);
  }

  #decode(byte: number): number {
    return (this.#r.ram[B] & BINARY) !== 0 ? byte : (byte >> 4) * 10 + (byte & 15);
  }

  #encode(value: number): number {
    if ((this.#r.ram[B] & BINARY) !== 0) return value;
    return (Math.floor(value / 10) << 4) | (value % 10);
  }

  #decodeHours(byte: number): number {
    if ((this.#r.ram[B] & HOURS_24) !== 0) return this.#decode(byte);
    return (this.#decode(byte & ~PM) % 12) + ((byte & PM) !== 0 ? 12 : 0);
  }

  #encodeHours(hours: number): number {
    if ((this.#r.ram[B] & HOURS_24) !== 0) return this.#encode(hours);
    return this.#encode(hours % 12 || 12) | (hours >= 12 ? PM : 0);
  }
}
