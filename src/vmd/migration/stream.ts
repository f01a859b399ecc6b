/** The socket through which a VM's process sends or receives a machine; nothing here waits. */
import { closeSync } from "node:fs";
import { processLibrary, ptr } from "../../vmm/native.ts";
import { LineBuffer } from "./lines.ts";

const EAGAIN = -11;
const INTERRUPTED = -4;
const PIECE = 512;

export class MigrationStream {
  readonly descriptor: number;
  readonly #lines = new LineBuffer();
  readonly #piece = new Uint8Array(PIECE);
  readonly #queue: Uint8Array[] = [];
  /** The other end is gone, and all that it said was read. */
  ended = false;
  /** Nothing can be sent any more: `read` will find the end. */
  #broken = false;

  constructor(descriptor: number) {
    this.descriptor = descriptor;
  }

  /** Sends bytes, or keeps them until `flush`: they must not change before `empty`. */
  send(bytes: Uint8Array): void {
    if (!this.#broken) this.#queue.push(bytes);
  }

  /** Sends a line at once, or as soon as there is room. */
  say(line: string): void {
    this.send(new TextEncoder().encode(`${line}\n`));
    this.flush();
  }

  /** Whether nothing waits to be sent. */
  get empty(): boolean {
    return this.#queue.length === 0;
  }

  /** Sends what waits. @returns whether there is still room */
  flush(): boolean {
    while (this.#queue.length > 0) {
      const [bytes] = this.#queue;
      const sent = Number(
        processLibrary().vmm_send(this.descriptor, ptr(bytes), bytes.length, null, 0),
      );
      if (sent === EAGAIN) return false;
      if (sent === INTERRUPTED) continue;
      if (sent < 0) {
        this.#broken = true;
        this.#queue.length = 0;
        return false;
      }
      if (sent < bytes.length) this.#queue[0] = bytes.subarray(sent);
      else this.#queue.shift();
    }
    return true;
  }

  /** The lines that have come. */
  read(): string[] {
    const lines: string[] = [];
    while (!this.ended) {
      const piece = this.#piece;
      const length = Number(processLibrary().vmm_read(this.descriptor, ptr(piece), PIECE));
      if (length === EAGAIN) break;
      if (length === INTERRUPTED) continue;
      if (length <= 0) this.ended = true;
      else lines.push(...this.#lines.add(piece.subarray(0, length)));
    }
    return lines;
  }

  close(): void {
    closeSync(this.descriptor);
  }
}
