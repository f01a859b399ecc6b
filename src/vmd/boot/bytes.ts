/**
 * A checked reader over the bytes of a file, and the one error that loading a file can end in.
 *
 * Whatever a kernel file says about itself is read through here, so a wrong number becomes a
 * sentence that names the file and the field.
 */

/** A kernel, initrd or option that can't be used; `message` is one sentence for the user. */
export class BootError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "BootError";
  }
}

/** An address or a field's value: "0x1f0". */
export function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

/** A size for a sentence: "14 MiB", "1.4 MiB", "512 KiB", "300 bytes". */
export function size(bytes: number): string {
  for (const [unit, name] of [
    [2 ** 30, "GiB"],
    [2 ** 20, "MiB"],
    [2 ** 10, "KiB"],
  ] as const) {
    if (bytes >= unit) {
      const value = bytes / unit;
      return `${value < 10 && value % 1 !== 0 ? value.toFixed(1) : Math.round(value)} ${name}`;
    }
  }
  return `${bytes} byte${bytes === 1 ? "" : "s"}`;
}

/** `value` rounded up to a multiple of `alignment`. Exact below 2^53, for any alignment. */
export function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}

/** `value` rounded down to a multiple of `alignment`. */
export function alignDown(value: number, alignment: number): number {
  return Math.floor(value / alignment) * alignment;
}

/**
 * A file. Every accessor takes the field's name for the sentence; values are little-endian.
 * All of them throw BootError when the field doesn't lie in the file.
 */
export class Bytes {
  readonly #view: DataView;

  constructor(
    /** File name, as the user knows it. */
    readonly name: string,
    readonly data: Uint8Array,
    /** What `data` is, for "beyond the end of ...". */
    readonly whole = "the file",
  ) {
    this.#view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  }

  get size(): number {
    return this.data.length;
  }

  /** The error for this file: "name: sentence". */
  error(sentence: string): BootError {
    return new BootError(`${this.name}: ${sentence}`);
  }

  /** Throws unless [offset, offset+length) lies in the file. */
  check(offset: number, length: number, field: string): void {
    if (!(offset >= 0 && length >= 0 && offset + length <= this.size)) {
      const what = offset >= this.size ? `${hex(offset)} lies` : `${range(offset, length)} reaches`;
      throw this.error(`${field}: ${what} beyond the end of ${this.whole} (${size(this.size)})`);
    }
  }

  u8(offset: number, field: string): number {
    this.check(offset, 1, field);
    return this.data[offset];
  }

  u16(offset: number, field: string): number {
    this.check(offset, 2, field);
    return this.#view.getUint16(offset, true);
  }

  u32(offset: number, field: string): number {
    this.check(offset, 4, field);
    return this.#view.getUint32(offset, true);
  }

  /** All 64 bits, for addresses that a kernel links high. */
  u64(offset: number, field: string): bigint {
    this.check(offset, 8, field);
    return this.#view.getBigUint64(offset, true);
  }

  /** 64 bits that must be a size or an offset: at most 2^53 - 1. */
  u53(offset: number, field: string): number {
    const value = this.u64(offset, field);
    if (value > Number.MAX_SAFE_INTEGER) throw this.error(`${field}: ${hex(value)} is too large`);
    return Number(value);
  }

  /** A view of the file, not a copy. */
  slice(offset: number, length: number, field: string): Uint8Array {
    this.check(offset, length, field);
    return this.data.subarray(offset, offset + length);
  }

  /** Bytes up to a NUL, `limit` bytes or the end of the file, as ASCII. */
  text(offset: number, limit: number, field: string): string {
    this.check(offset, 0, field);
    let text = "";
    for (let at = offset; at < Math.min(offset + limit, this.size); at++) {
      const byte = this.data[at];
      if (byte === 0) break;
      text += byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : "?";
    }
    return text;
  }
}

function range(offset: number, length: number): string {
  return `${hex(offset)} + ${hex(length)}`;
}
