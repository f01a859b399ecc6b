/** One debugger's connection: bytes from it, and bytes for it that wait for room. */
import { closeSync } from "node:fs";
import { processLibrary, ptr } from "../../vmm/native.ts";
import { PACKET_MAX } from "./packet.ts";

const EAGAIN = -11;
/** So much may wait for a client that reads nothing; then it is gone. */
const OUTPUT_MAX = 8 * PACKET_MAX;
const INPUT = 4096;

export class Connection implements Disposable {
  /** A connected socket that doesn't block. */
  readonly descriptor: number;
  readonly #input = new Uint8Array(INPUT);
  readonly #waiting: Uint8Array[] = [];
  #waitingBytes = 0;

  constructor(descriptor: number) {
    this.descriptor = descriptor;
  }

  /** @returns what came, valid until the next call; "nothing" for now; "end": it is gone */
  read(): Uint8Array | "nothing" | "end" {
    const { vmm_read } = processLibrary();
    const length = Number(vmm_read(this.descriptor, ptr(this.#input), INPUT));
    if (length === EAGAIN) return "nothing";
    return length <= 0 ? "end" : this.#input.subarray(0, length);
  }

  write(bytes: Uint8Array): void {
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
  }

  /** Sends what waits. @returns "waits" for room; "full": it reads nothing of what it asked for */
  flush(): "done" | "waits" | "full" {
    const { vmm_send } = processLibrary();
    while (this.#waiting.length > 0) {
      const [bytes] = this.#waiting;
      const sent = Number(vmm_send(this.descriptor, ptr(bytes), bytes.length, null, 0));
      if (sent === EAGAIN) return this.#waitingBytes > OUTPUT_MAX ? "full" : "waits";
      if (sent < 0) {
        // Its end is found by reading.
        this.#waiting.length = 0;
        this.#waitingBytes = 0;
        return "done";
      }
      this.#waitingBytes -= sent;
      if (sent === bytes.length) this.#waiting.shift();
      else this.#waiting[0] = bytes.subarray(sent);
    }
    return "done";
  }

  [Symbol.dispose](): void {
    closeSync(this.descriptor);
  }
}
