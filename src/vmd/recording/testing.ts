/** For tests: a neighbour on an interface, which answers ARP and pings when it is asked to look. */
import { closeSync } from "node:fs";
import { processLibrary, ptr } from "../../vmm/native.ts";
import { checksum, put16 } from "../net/ipv4.ts";

const HEADER = 12;
const MAC = [0x02, 0, 0, 0, 0, 1];
const ARP = 0x0806;
const IPV4 = 0x0800;

export class Neighbour implements Disposable {
  /** The VM's end. */
  readonly descriptor: number;
  /** Pings answered. */
  answered = 0;
  readonly #own: number;
  readonly #frame = new Uint8Array(70_000);
  readonly #timer: Timer;

  /** Looks each `interval` ms. */
  constructor(interval = 7) {
    const fds = new Int32Array(2);
    processLibrary().vmm_socketpair(0, ptr(fds));
    [this.descriptor, this.#own] = fds;
    this.#timer = setInterval(() => this.#look(), interval);
  }

  #look(): void {
    for (;;) {
      const { vmm_read, vmm_write } = processLibrary();
      const length = Number(vmm_read(this.#own, ptr(this.#frame), this.#frame.length));
      if (length <= 0) return;
      const answer = this.#answer(this.#frame.slice(0, length));
      if (answer !== undefined) vmm_write(this.#own, ptr(answer), answer.length);
    }
  }

  #answer(packet: Uint8Array): Uint8Array | undefined {
    const frame = packet.subarray(HEADER);
    if (frame.length < 34) return undefined;
    packet.fill(0, 0, HEADER);
    const type = (frame[12] << 8) | frame[13];
    const guest = frame.slice(6, 12);
    if (type === ARP && frame[21] === 1) {
      const [sender, target] = [frame.slice(28, 32), frame.slice(38, 42)];
      frame[21] = 2;
      frame.set(MAC, 22);
      frame.set(target, 28);
      frame.set(guest, 32);
      frame.set(sender, 38);
    } else if (type === IPV4 && frame[23] === 1 && frame[34] === 8) {
      this.answered++;
      const [from, to] = [frame.slice(26, 30), frame.slice(30, 34)];
      frame.set(to, 26);
      frame.set(from, 30);
      frame[34] = 0;
      put16(frame, 36, 0);
      put16(frame, 36, checksum(frame, 34, frame.length));
    } else return undefined;
    frame.set(guest, 0);
    frame.set(MAC, 6);
    return packet;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    closeSync(this.#own);
  }
}
