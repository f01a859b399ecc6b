/**
 * How the fields of 9P messages lie in bytes: little-endian, one behind the other.
 *
 * Texts are bytes, not UTF-8: a JavaScript string here has one character a byte (latin1).
 */
import { Errno, refuse } from "./errno.ts";

/** A file's identity on its server. */
export interface Qid {
  type: number;
  version: number;
  path: bigint;
}

/** What the fields of a message are, and what they are in JavaScript. */
export interface FieldTypes {
  u8: number;
  u16: number;
  u32: number;
  u64: bigint;
  text: string;
  /** nwname[2], then so many texts. */
  texts: string[];
  /** count[4], then so many bytes: a view of the message. */
  data: Uint8Array;
  qid: Qid;
  /** nwqid[2], then so many. */
  qids: Qid[];
}
export type Field = keyof FieldTypes;
export type Shape = { readonly [name: string]: Field };
export type Values<S extends Shape> = { -readonly [name in keyof S]: FieldTypes[S[name]] };

/** MAXWELEM: names in a walk. */
export const WALK_MAX = 16;
export const QID_SIZE = 13;

/** Takes fields from a message. What is too short ends the request. */
export class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #text: Buffer;
  #at: number;

  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#at = at;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  #take(length: number): number {
    if (length > this.left) refuse(Errno.EPROTO);
    const at = this.#at;
    this.#at += length;
    return at;
  }

  read(field: Field): FieldTypes[Field] {
    switch (field) {
      case "u8":
        return this.#view.getUint8(this.#take(1));
      case "u16":
        return this.#view.getUint16(this.#take(2), true);
      case "u32":
        return this.#view.getUint32(this.#take(4), true);
      case "u64":
        return this.#view.getBigUint64(this.#take(8), true);
      case "text":
        return this.#string();
      case "texts":
        return this.#list(() => this.#string());
      case "data": {
        const length = this.#view.getUint32(this.#take(4), true);
        const at = this.#take(length);
        return this.#bytes.subarray(at, at + length);
      }
      case "qid":
        return this.#qid();
      case "qids":
        return this.#list(() => this.#qid());
    }
  }

  #string(): string {
    const length = this.#view.getUint16(this.#take(2), true);
    const at = this.#take(length);
    return this.#text.toString("latin1", at, at + length);
  }

  #qid(): Qid {
    const at = this.#take(QID_SIZE);
    return {
      type: this.#view.getUint8(at),
      version: this.#view.getUint32(at + 1, true),
      path: this.#view.getBigUint64(at + 5, true),
    };
  }

  #list<T>(one: () => T): T[] {
    const count = this.#view.getUint16(this.#take(2), true);
    if (count > WALK_MAX) refuse(Errno.EPROTO);
    return Array.from({ length: count }, one);
  }
}

/** Puts fields into a buffer. What has no room ends the request. */
export class Writer {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #text: Buffer;
  at: number;

  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = at;
  }

  #room(length: number): number {
    const { at } = this;
    if (at + length > this.#bytes.length) refuse(Errno.EMSGSIZE);
    this.at += length;
    return at;
  }

  write<F extends Field>(field: F, value: FieldTypes[F]): void;
  write(field: Field, value: FieldTypes[Field]): void {
    switch (field) {
      case "u8":
        this.#view.setUint8(this.#room(1), value as number);
        return;
      case "u16":
        this.#view.setUint16(this.#room(2), value as number, true);
        return;
      case "u32":
        this.#view.setUint32(this.#room(4), value as number, true);
        return;
      case "u64":
        this.#view.setBigUint64(this.#room(8), value as bigint, true);
        return;
      case "text":
        this.#string(value as string);
        return;
      case "texts":
        this.write("u16", (value as string[]).length);
        for (const text of value as string[]) this.#string(text);
        return;
      case "data": {
        const data = value as Uint8Array;
        this.write("u32", data.length);
        this.#bytes.set(data, this.#room(data.length));
        return;
      }
      case "qid":
        this.#qid(value as Qid);
        return;
      case "qids":
        this.write("u16", (value as Qid[]).length);
        for (const qid of value as Qid[]) this.#qid(qid);
    }
  }

  #string(value: string): void {
    this.write("u16", value.length);
    this.#text.write(value, this.#room(value.length), "latin1");
  }

  #qid({ type, version, path }: Qid): void {
    this.write("u8", type);
    this.write("u32", version);
    this.write("u64", path);
  }
}
