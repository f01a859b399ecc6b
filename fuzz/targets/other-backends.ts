/** A terminal, a balloon's pages and a share's server for targets: backends.ts. */
import type { GuestMemory } from "../../src/vmm/memory.ts";
import type { NinePBackend } from "../../src/vmd/virtio/9p.ts";
import type { BalloonBackend } from "../../src/vmd/virtio/balloon.ts";
import type { ConsoleBackend } from "../../src/vmd/virtio/console.ts";
import { must } from "../own/target.ts";
import type { FuzzBackend } from "./backends.ts";

export class FuzzTerminal implements ConsoleBackend, FuzzBackend {
  #blocked = false;

  reset(): void {
    this.#blocked = false;
  }

  mode(bits: number): void {
    this.#blocked = (bits & 1) !== 0;
  }

  settleAll(): void {
    this.#blocked = false;
  }

  output(bytes: Uint8Array): void {
    must(bytes.length > 0 && bytes.length <= 65_536, `output of ${bytes.length} bytes`);
    must(!this.#blocked, "output to a reader that takes none");
  }

  blocked(): boolean {
    return this.#blocked;
  }
}

export class FuzzBalloon implements BalloonBackend, FuzzBackend {
  readonly #memory: GuestMemory;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  reset(): void {}

  discard(address: number, length: number): void {
    must(address % 4096 === 0 && length > 0 && length % 4096 === 0, `${address}+${length}: pages`);
    must(this.#memory.contains(address, length), `0x${address.toString(16)}+${length} is no RAM`);
    this.#memory.fill(address, length, 0);
  }
}

/** Answers every request with as many bytes as the input says. */
export class FuzzShare implements NinePBackend, FuzzBackend {
  gone = false;
  readonly #pending: Uint8Array[] = [];
  #replies: Uint8Array[] = [];
  #size = 11;
  #atOnce = true;

  reset(): void {
    this.gone = false;
    this.#size = 11;
    this.#atOnce = true;
  }

  mode(bits: number): void {
    this.#atOnce = (bits & 1) === 0;
    this.#size = 7 + (bits >> 1);
  }

  finish(which: number): void {
    const { length } = this.#pending;
    if (length > 0) this.#replies.push(...this.#pending.splice(which % length, 1));
  }

  settleAll(): void {
    this.#replies.push(...this.#pending.splice(0));
  }

  /** A server answers everything, if to nobody, or is gone for good. */
  get owes(): boolean {
    return this.gone || this.#replies.length > 0;
  }

  /** It answers nothing any more. */
  leave(): void {
    this.gone = true;
    this.#pending.length = 0;
    this.#replies = [];
  }

  get ready(): boolean {
    return this.#pending.length < 16;
  }

  send(request: Uint8Array): void {
    must(request.length >= 7 && request.length <= 2 ** 20, `a request of ${request.length} bytes`);
    const said = new DataView(request.buffer, request.byteOffset).getUint32(0, true);
    must(said === request.length, `a request of ${request.length} bytes that says ${said}`);
    const reply = new Uint8Array(Math.max(11, this.#size));
    new DataView(reply.buffer).setUint32(0, reply.length, true);
    reply[4] = request[4] + 1;
    reply[5] = request[5];
    reply[6] = request[6];
    if (this.#atOnce) this.#replies.push(reply);
    else this.#pending.push(reply);
  }

  receive(take: (reply: Uint8Array) => void): boolean {
    const replies = this.#replies;
    this.#replies = [];
    for (const reply of replies) take(reply);
    return this.#replies.length > 0;
  }

  wait(): void {
    this.settleAll();
  }
}
