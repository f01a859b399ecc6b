/** Options of BOOTP and DHCP messages: RFC 2132 §2, RFC 2131 §4.1. */

/** Options that are read or written here; the names are RFC 2132's. */
export const Option = {
  PAD: 0,
  SUBNET_MASK: 1,
  ROUTER: 3,
  DOMAIN_NAME_SERVER: 6,
  HOST_NAME: 12,
  REQUESTED_ADDRESS: 50,
  LEASE_TIME: 51,
  OVERLOAD: 52,
  MESSAGE_TYPE: 53,
  SERVER_IDENTIFIER: 54,
  MAXIMUM_SIZE: 57,
  CLIENT_IDENTIFIER: 61,
  END: 255,
} as const;

/** Bits of the overload option: which other fields hold options. */
const OVERLOAD_FILE = 1;
const OVERLOAD_SNAME = 2;

/** A field of a message: from, to. */
export type Range = readonly [from: number, to: number];

/**
 * Where an option's value is: the first one of its code, looked for in the options, then in the
 * fields that are overloaded with options. Never reads outside the given fields.
 */
export function findOption(
  bytes: Uint8Array,
  code: number,
  { options, file, sname }: { options: Range; file: Range; sname: Range },
): Range | undefined {
  const found = find(bytes, code, options);
  if (found !== undefined) return found;
  const overload = find(bytes, Option.OVERLOAD, options);
  if (overload === undefined || overload[1] - overload[0] !== 1) return undefined;
  const where = bytes[overload[0]];
  return (
    ((where & OVERLOAD_FILE) !== 0 ? find(bytes, code, file) : undefined) ??
    ((where & OVERLOAD_SNAME) !== 0 ? find(bytes, code, sname) : undefined)
  );
}

function find(bytes: Uint8Array, code: number, [from, to]: Range): Range | undefined {
  let at = from;
  while (at < to) {
    const here = bytes[at++];
    if (here === Option.PAD) continue;
    if (here === Option.END || at >= to) return undefined;
    const length = bytes[at++];
    // One that claims more than there is ends the list.
    if (at + length > to) return undefined;
    if (here === code) return [at, at + length];
    at += length;
  }
  return undefined;
}

/** Writes options behind each other. */
export class OptionWriter {
  readonly #bytes: Uint8Array;
  readonly #limit: number;
  #at: number;

  /** @param limit where the end option must be, at the latest. */
  constructor(bytes: Uint8Array, at: number, limit: number) {
    this.#bytes = bytes;
    this.#at = at;
    this.#limit = limit;
  }

  /** One that doesn't fit is left out. */
  add(code: number, value: Uint8Array | readonly number[]): this {
    if (value.length > 255 || this.#at + 2 + value.length >= this.#limit) return this;
    this.#bytes[this.#at] = code;
    this.#bytes[this.#at + 1] = value.length;
    this.#bytes.set(value, this.#at + 2);
    this.#at += 2 + value.length;
    return this;
  }

  /** An address, or another number of 32 bits. */
  add32(code: number, value: number): this {
    return this.add(code, [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255]);
  }

  /** @returns where the message ends. */
  end(): number {
    this.#bytes[this.#at++] = Option.END;
    return this.#at;
  }
}
