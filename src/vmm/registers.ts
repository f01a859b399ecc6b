/**
 * Register declarations: a chip names its registers once (type, count, reset value), and the
 * typed accessors, the place in the machine image, the snapshot fingerprint and the fuzzers' view
 * all follow from that declaration.
 *
 * ```ts
 * const Layout = declareRegisters("rtc", { index: u8(0), nvram: u8.array(128), base: f64(0) });
 * const r = Layout.bind(buffer, offset); // r.index is a number, r.nvram a Uint8Array
 * ```
 */

export type RegisterType = "u8" | "u16" | "u32" | "f64";

/** One declared register, or an array of `count` of them. */
export interface Register<T extends number | RegisterArray = number | RegisterArray> {
  readonly type: RegisterType;
  /** Elements; 0 for a scalar. */
  readonly count: number;
  /** Value (of every element) after reset. */
  readonly reset: number;
  /** Carries the accessor's type only. */
  readonly phantom?: T;
}

export type RegisterArray = Uint8Array | Uint16Array | Uint32Array | Float64Array;

interface Constructor<A extends RegisterArray> {
  (reset?: number): Register<number>;
  array(count: number, reset?: number): Register<A>;
}

function constructor<A extends RegisterArray>(type: RegisterType): Constructor<A> {
  const scalar = (reset = 0): Register<number> => ({ type, count: 0, reset });
  scalar.array = (count: number, reset = 0): Register<A> => ({ type, count, reset });
  return scalar;
}

/** 8-bit register(s); a stored value is cut to 8 bits. */
export const u8 = constructor<Uint8Array>("u8");
/** 16-bit register(s). */
export const u16 = constructor<Uint16Array>("u16");
/** 32-bit register(s), unsigned. */
export const u32 = constructor<Uint32Array>("u32");
/** A double: guest times in nanoseconds, counters beyond 32 bits. */
export const f64 = constructor<Float64Array>("f64");

export type Declaration = Record<string, Register>;

/** The accessors of a declaration: numbers for scalars, typed arrays for arrays. */
export type Registers<D extends Declaration> = {
  -readonly [K in keyof D]: D[K] extends Register<infer T> ? T : never;
} & {
  /** Every register to its reset value. */
  resetAll(): void;
};

/** Where one register lies in its block. */
export interface Field {
  readonly name: string;
  readonly type: RegisterType;
  readonly count: number;
  readonly reset: number;
  /** Byte offset in the block, naturally aligned. */
  readonly offset: number;
}

const WIDTH: Record<RegisterType, number> = { u8: 1, u16: 2, u32: 4, f64: 8 };
const ARRAY = { u8: Uint8Array, u16: Uint16Array, u32: Uint32Array, f64: Float64Array } as const;

/** A declared register block. */
export class RegisterLayout<D extends Declaration = Declaration> {
  readonly name: string;
  readonly fields: readonly Field[];
  /** Bytes, a multiple of 8. */
  readonly size: number;
  /** Text that changes whenever the layout does: what a snapshot is checked against. */
  readonly fingerprint: string;
  #accessors: (new (buffer: ArrayBuffer, offset: number) => Registers<D>) | undefined;

  constructor(name: string, declaration: D) {
    this.name = name;
    let end = 0;
    this.fields = Object.entries(declaration).map(([field, { type, count, reset }]) => {
      const width = WIDTH[type];
      const offset = Math.ceil(end / width) * width;
      end = offset + width * Math.max(1, count);
      return { name: field, type, count, reset, offset };
    });
    this.size = Math.ceil(end / 8) * 8;
    this.fingerprint = `${name}{${this.fields
      .map((f) => `${f.name}:${f.type}${f.count > 0 ? `[${f.count}]` : ""}@${f.offset}`)
      .join(",")}}`;
  }

  /**
   * The registers at `offset` (a multiple of 8) of a buffer. Does not reset them: what lies there
   * may be a restored snapshot.
   */
  bind(buffer: ArrayBuffer, offset = 0): Registers<D> {
    if (offset % 8 !== 0 || offset + this.size > buffer.byteLength) {
      throw new RangeError(`registers of ${this.name}: offset ${offset} is outside its buffer`);
    }
    this.#accessors ??= accessors<D>(this.fields);
    return new this.#accessors(buffer, offset);
  }

  /** Registers in memory of their own, reset: for tests. */
  standalone(): Registers<D> {
    const registers = this.bind(new ArrayBuffer(this.size));
    registers.resetAll();
    return registers;
  }
}

/** Declares a register block. */
export function declareRegisters<D extends Declaration>(
  name: string,
  declaration: D,
): RegisterLayout<D> {
  return new RegisterLayout(name, declaration);
}

// One class per layout, so that every access is a fixed index into a typed array.
function accessors<D extends Declaration>(fields: readonly Field[]) {
  class Accessors {
    constructor(buffer: ArrayBuffer, offset: number) {
      for (const field of fields) {
        const view = new ARRAY[field.type](buffer, offset + field.offset, Math.max(1, field.count));
        // A scalar's view stays behind an accessor of its name; an array's is the property.
        Object.defineProperty(this, field.count > 0 ? field.name : `_${field.name}`, {
          value: view,
        });
      }
    }

    resetAll(): void {
      const self = this as unknown as Record<string, RegisterArray>;
      for (const field of fields) {
        self[field.count > 0 ? field.name : `_${field.name}`].fill(field.reset);
      }
    }
  }
  for (const field of fields) {
    if (field.count > 0) continue;
    const view = `_${field.name}`;
    Object.defineProperty(Accessors.prototype, field.name, {
      get: new Function(`return this.${view}[0]`) as () => number,
      set: new Function("value", `this.${view}[0] = value`) as (value: number) => void,
    });
  }
  return Accessors as unknown as new (buffer: ArrayBuffer, offset: number) => Registers<D>;
}
