/** Makes case N of seed S: always the same one. */
import { type Case, FPU_SIZE, STATE, STATE_SIZE } from "./case.ts";
import { DEEP, type Encoding, SYSTEM } from "./encodings.ts";
import { inLab } from "./lab.ts";
import { bitness, DATA, type Mode, MODES } from "./layout.ts";
import { Random } from "./random.ts";
import { address, bytes, randomState, set64 } from "./states.ts";

/** Instructions of a sequence, at most. */
export const LONGEST_SEQUENCE = 8;
/** Deep cases come one after the other: it takes longer to set their state. */
const STRETCH = 64;
const STRETCHES_PER_DEEP = 8;
/** The most that one instruction takes. */
const LONGEST_INSTRUCTION = 15;
const RCX = 16;

// Each encoding as often as its weight says.
const weighted = (list: readonly Encoding[]) =>
  list.flatMap((encoding) => Array.from({ length: encoding.weight }, () => encoding));
const ANY = weighted(SYSTEM);
const ANY_DEEP = weighted(DEEP);

const EFER = 0xc0000080;
/** In the lab without EFER: with LME and without paging the lab's processor stands still. */
const MSRS = [
  0x10,
  0x1b,
  0x174,
  0x175,
  0x176,
  0x1a0,
  0x277,
  EFER,
  0xc0000081,
  0xc0000082,
  0xc0000083,
  0xc0000084,
  0xc0000100,
  0xc0000101,
  0xc0000102,
  0xc0000103,
  0x12345,
].filter((index) => !inLab || index !== EFER);

/**
 * In the lab the processor is QEMU 7.2's, which ends with "tcg fatal error" when it meets a LOCK before
 * BTS, BTR or BTC of a register.
 */
function endsQemu({ opcode: [first, second] }: Encoding): boolean {
  return inLab && first === 0x0f && [0xab, 0xb3, 0xba, 0xbb].includes(second);
}

/** And the lab's Linux ends where a guest moves some values to DR7. */
function endsHost({ opcode: [first, second] }: Encoding): boolean {
  return inLab && first === 0x0f && second === 0x23;
}

export class Generator {
  readonly #random = new Random();
  readonly #seed: number;
  readonly #code = new Uint8Array(LONGEST_SEQUENCE * 24);
  #length = 0;
  readonly #case: Case = {
    mode: "real",
    cpl: 0,
    deep: false,
    at: 0,
    code: new Uint8Array(),
    state: new Uint8Array(STATE_SIZE),
    fpu: new Uint8Array(FPU_SIZE),
    patches: [],
  };

  readonly #modes: readonly Mode[];

  /** @param modes of which a case has one: others make other cases. */
  constructor(seed: number, modes: readonly Mode[] = MODES) {
    this.#seed = seed >>> 0;
    this.#modes = modes;
  }

  /** @returns an object that the next call changes. */
  make(index: number): Case {
    const random = this.#random;
    const it = this.#case;
    random.seed(this.#seed, index);
    it.deep = Math.floor(index / STRETCH) % STRETCHES_PER_DEEP === STRETCHES_PER_DEEP - 1;
    it.mode = random.pick(this.#modes);
    it.cpl = it.mode !== "real" && random.chance(40) ? 3 : 0;
    randomState(random, it);
    this.#length = 0;
    if (it.deep && random.chance(25)) this.#append(bytes(random, 1 + random.below(24)));
    else {
      const count = 1 + Math.min(random.below(LONGEST_SEQUENCE), random.below(LONGEST_SEQUENCE));
      for (let i = 0; i < count; i++) this.#instruction(it);
    }
    it.code = this.#code.slice(0, this.#length);
    return it;
  }

  #append(more: Uint8Array): void {
    this.#code.set(more, this.#length);
    this.#length += more.length;
  }

  #byte(value: number): void {
    this.#code[this.#length++] = value;
  }

  #little(value: number, size: number): void {
    for (let i = 0; i < size; i++) this.#byte(value >>> (8 * i));
  }

  #instruction(it: Case): void {
    const random = this.#random;
    const { mode } = it;
    let encoding = random.pick(it.deep && random.chance(75) ? ANY_DEEP : ANY);
    const isRefused = (one: Encoding) =>
      endsHost(one) || (one.legacy && mode === "long" && !random.chance(3));
    while (isRefused(encoding)) encoding = random.pick(ANY);
    const start = this.#length;
    const sizes = this.#prefixes(encoding, mode);
    for (const byte of encoding.opcode) this.#byte(byte);
    if (encoding.modrm) this.#modrm(encoding, mode, sizes.address);
    this.#immediate(encoding, it, sizes);
    // Too many prefixes make a #GP; once is enough.
    if (this.#length - start > LONGEST_INSTRUCTION && !random.chance(5)) this.#length = start;
    this.#operands(encoding, it);
  }

  #prefixes(encoding: Encoding, mode: Mode): { operand: number; address: number; wide: boolean } {
    const random = this.#random;
    const bits = bitness(mode);
    let operand = bits === 16 ? 16 : 32;
    let addressSize: number = bits;
    if (encoding.mandatory === 0 && random.chance(15)) {
      this.#byte(0x66);
      operand = 48 - operand;
    }
    if (random.chance(7)) {
      this.#byte(0x67);
      addressSize = bits === 64 ? 32 : 48 - bits;
    }
    if (random.chance(7)) this.#byte(random.pick([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65]));
    if (random.chance(encoding.lockable ? 15 : 1) && !endsQemu(encoding)) this.#byte(0xf0);
    if (random.chance(encoding.string ? 60 : 1)) this.#byte(random.pick([0xf2, 0xf3]));
    if (encoding.mandatory !== 0) {
      this.#byte(encoding.mandatory);
      if (encoding.mandatory === 0x66) operand = 48 - operand;
    }
    let wide = false;
    if (bits === 64 && random.chance(60)) {
      const rex = 0x40 | random.below(16);
      wide = (rex & 8) !== 0;
      this.#byte(rex);
    }
    return { operand, address: addressSize, wide };
  }

  #modrm(encoding: Encoding, mode: Mode, addressSize: number): void {
    const random = this.#random;
    const reg = encoding.digit >= 0 ? encoding.digit : random.below(8);
    const inRegister =
      encoding.form === "r" || (encoding.form === "" && random.chance(45)) || random.chance(1);
    if (inRegister) {
      this.#byte(0xc0 | (reg << 3) | random.below(8));
      return;
    }
    if (addressSize === 16) this.#memory16(reg);
    else this.#memory(reg, mode);
  }

  #memory16(reg: number): void {
    const random = this.#random;
    if (random.chance(40)) {
      this.#byte((reg << 3) | 6);
      this.#little(address(random), 2);
      return;
    }
    const mod = random.below(3);
    const rm = random.below(8);
    this.#byte((mod << 6) | (reg << 3) | rm);
    if (mod === 0 && rm === 6) this.#little(address(random), 2);
    if (mod === 1) this.#byte(random.next());
    if (mod === 2) this.#little(random.chance(50) ? random.below(64) : random.next(), 2);
  }

  #memory(reg: number, mode: Mode): void {
    const random = this.#random;
    const kind = random.below(100);
    if (kind < 40) {
      // An address alone: in 64-bit mode that takes a SIB byte.
      if (mode === "long") {
        this.#byte((reg << 3) | 4);
        this.#byte(0x25);
      } else this.#byte((reg << 3) | 5);
      this.#little(address(random), 4);
      return;
    }
    if (kind < 45) {
      this.#byte((reg << 3) | 5);
      // Relative to RIP in 64-bit mode.
      this.#little(mode === "long" ? 0x1800 + random.below(0x2000) : address(random), 4);
      return;
    }
    const mod = random.below(3);
    const rm = random.below(8);
    this.#byte((mod << 6) | (reg << 3) | rm);
    let base = rm;
    if (rm === 4) {
      const sib = random.next() & 0xff;
      base = sib & 7;
      this.#byte(sib);
    }
    if (mod === 0 && base === 5) this.#little(address(random), 4);
    if (mod === 1) this.#byte(random.next());
    if (mod === 2) this.#little(random.chance(70) ? random.below(64) : random.next(), 4);
  }

  #immediate(
    { immediate, branch }: Encoding,
    it: Case,
    sizes: { operand: number; address: number; wide: boolean },
  ): void {
    const random = this.#random;
    const z = sizes.operand / 8;
    if (branch) {
      // To the next instruction, or behind the sequence.
      this.#little(random.chance(40) ? 0 : 80 + random.below(40), immediate === 1 ? 1 : z);
      return;
    }
    switch (immediate) {
      case 0:
        return;
      case "far":
        this.#little(it.at + random.below(64), z);
        this.#little(random.chance(70) ? random.pick([0x08, 0x20, 0x33, 0x4b, 0x70]) : 0xa0, 2);
        return;
      case "o":
        this.#little(address(random), Math.min(4, sizes.address / 8));
        if (sizes.address === 64) this.#little(0, 4);
        return;
      case "z":
        this.#little(random.chance(50) ? random.next() : random.below(256), z);
        return;
      case "v":
        this.#little(random.chance(50) ? address(random) : random.next(), sizes.wide ? 4 : z);
        if (sizes.wide) this.#little(random.chance(60) ? 0 : random.next(), 4);
        return;
      case 3:
        // ENTER: room, and a level that is mostly small.
        this.#little(random.below(64), 2);
        this.#byte(random.chance(80) ? random.below(4) : random.next());
        return;
      default:
        this.#little(random.chance(60) ? random.next() : random.below(64), immediate);
    }
  }

  /** Operands in registers that an instruction can do nothing without. */
  #operands(encoding: Encoding, it: Case): void {
    const random = this.#random;
    const view = new DataView(it.state.buffer, it.state.byteOffset, STATE.rip);
    if (encoding.string && random.chance(95)) {
      set64(view, RCX, random.below(24));
      set64(view, 32, DATA + 0x100 + random.below(0x1e00));
      set64(view, 40, DATA + 0x100 + random.below(0x1e00));
    }
    const [first, second] = encoding.opcode;
    const isPort = (first >= 0xec && first <= 0xef) || (first >= 0x6c && first <= 0x6f);
    if (isPort) set64(view, 24, random.chance(70) ? random.below(0x100) : random.below(0x10000));
    if (first === 0x0f && (second === 0x30 || second === 0x32)) {
      set64(view, RCX, random.pick(MSRS));
      const small = random.chance(50);
      set64(view, 0, small ? random.next() & 0xd01 : random.next());
      set64(view, 24, small ? 0 : random.next());
    }
    // Loops that end.
    if (first >= 0xe0 && first <= 0xe2) set64(view, RCX, random.below(16));
  }
}
