/**
 * Packets of the GDB Remote Serial Protocol; GDB manual, appendix E.1, "Overview".
 *
 * `$data#xx`, acknowledged by `+` or asked for again by `-` until both ends agree to leave that away.
 * Data is bytes: here strings of characters 0 to 255.
 */

/** The longest packet that a client may send, bytes between `$` and `#`. Told as PacketSize. */
export const PACKET_MAX = 0x4000;

const DOLLAR = 0x24;
const HASH = 0x23;
const INTERRUPT = 0x03;
const MINUS = 0x2d;

/** What came: a packet's data, or something outside of packets. */
export type Received =
  | { kind: "packet"; data: string }
  /** Its checksum was wrong, or it was too long. */
  | { kind: "bad" }
  /** Ctrl-C: byte 0x03. */
  | { kind: "interrupt" }
  /** The other end did not get the last packet. */
  | { kind: "again" };

/** Sum of the bytes, modulo 256. */
function checksum(data: string): number {
  let sum = 0;
  for (let i = 0; i < data.length; i++) sum = (sum + data.charCodeAt(i)) & 255;
  return sum;
}

function hexDigit(byte: number): number {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  const letter = byte | 0x20;
  return letter >= 0x61 && letter <= 0x66 ? letter - 0x57 : -1;
}

/** `}` and the byte XOR 0x20 stand for a byte that means something. */
export function unescape(data: string): string {
  return data.replaceAll(/\}([\s\S]?)/g, (_, byte: string) =>
    byte === "" ? "" : String.fromCharCode(byte.charCodeAt(0) ^ 0x20),
  );
}

/** For data that may have any byte. Runs are not made, so `*` is escaped too. */
export function escape(data: string): string {
  return data.replaceAll(/[#$}*]/g, (byte) => `}${String.fromCharCode(byte.charCodeAt(0) ^ 0x20)}`);
}

/** A packet around data that is escaped already, where it needs that. */
export function encodePacket(data: string): Uint8Array {
  return Buffer.from(`$${data}#${checksum(data).toString(16).padStart(2, "0")}`, "latin1");
}

/** Takes a stream apart. Holds one packet at most; whatever comes, it never throws. */
export class PacketReader {
  #state: "outside" | "data" | "first" | "second" = "outside";
  readonly #data = Buffer.alloc(PACKET_MAX);
  #length = 0;
  #sum = 0;
  #digit = 0;
  #tooLong = false;

  /** @param take given each thing in order. */
  read(bytes: Uint8Array, take: (received: Received) => void): void {
    for (const byte of bytes) this.#next(byte, take);
  }

  #next(byte: number, take: (received: Received) => void): void {
    switch (this.#state) {
      case "outside":
        if (byte === DOLLAR) this.#begin();
        else if (byte === INTERRUPT) take({ kind: "interrupt" });
        else if (byte === MINUS) take({ kind: "again" });
        return;
      case "data":
        if (byte === HASH) this.#state = "first";
        // One that was cut off: a raw $ is never within data.
        else if (byte === DOLLAR) this.#begin();
        else this.#append(byte);
        return;
      case "first":
        this.#digit = hexDigit(byte);
        this.#state = "second";
        return;
      case "second": {
        this.#state = "outside";
        const low = hexDigit(byte);
        const right =
          this.#digit >= 0 && low >= 0 && this.#digit * 16 + low === this.#sum && !this.#tooLong;
        if (!right) take({ kind: "bad" });
        else take({ kind: "packet", data: this.#data.toString("latin1", 0, this.#length) });
      }
    }
  }

  #begin(): void {
    this.#state = "data";
    this.#length = 0;
    this.#sum = 0;
    this.#tooLong = false;
  }

  #append(byte: number): void {
    this.#sum = (this.#sum + byte) & 255;
    if (this.#length === PACKET_MAX) this.#tooLong = true;
    else this.#data[this.#length++] = byte;
  }
}
