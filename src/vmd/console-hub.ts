/**
 * What a guest prints, for whoever looks: the last 64 KiB of it, and a place in it for each
 * watcher. Who comes late sees what there is; who is slow loses the oldest; nobody holds the guest,
 * but for those who asked that nothing be lost.
 */
import { closeSync } from "node:fs";
import { processLibrary, ptr } from "../vmm/native.ts";

/** What is kept, bytes; a power of two. */
export const SCROLLBACK = 64 * 1024;
const EAGAIN = -11;
const EIO = -5;
const INPUT = 4096;

interface Watcher {
  readonly descriptor: number;
  /** Holds the guest rather than lose output. */
  readonly lossless: boolean;
  /** A terminal: nobody at its other end is no end. */
  readonly terminal: boolean;
  /** How much of the output it has, in bytes since the start. */
  at: number;
  /** Has no room for more now. */
  full: boolean;
}

/** What to wait for on a descriptor; native/vmm.h. */
export const Watch = { NOTHING: 0, INPUT: 1, ROOM: 2 } as const;

export interface WatcherOptions {
  lossless?: boolean;
  terminal?: boolean;
  /** Without what was printed before. */
  late?: boolean;
}

export class ConsoleHub {
  readonly #ring = new Uint8Array(SCROLLBACK);
  readonly #typed = new Uint8Array(INPUT);
  readonly #watchers: Watcher[] = [];
  readonly #watch: (descriptor: number, events: number) => void;
  #end = 0;

  /** @param watch told what is to wake the vCPU: descriptors, and bits of Watch. */
  constructor(watch: (descriptor: number, events: number) => void) {
    this.#watch = watch;
  }

  /** Bytes printed since the start. */
  get printed(): number {
    return this.#end;
  }

  get watchers(): number {
    return this.#watchers.length;
  }

  /** Takes a watcher's descriptor; closed here when its other end is gone. */
  add(descriptor: number, options: WatcherOptions = {}): void {
    const { lossless = false, terminal = false, late = false } = options;
    const at = late ? this.#end : Math.max(0, this.#end - SCROLLBACK);
    const watcher = { descriptor, lossless, terminal, at, full: false };
    this.#watchers.push(watcher);
    this.#watch(descriptor, Watch.INPUT);
    this.#serve(watcher);
  }

  /** The guest printed. @param bytes no more than SCROLLBACK. */
  push(bytes: Uint8Array): void {
    const at = this.#end % SCROLLBACK;
    const first = Math.min(bytes.length, SCROLLBACK - at);
    this.#ring.set(bytes.subarray(0, first), at);
    this.#ring.set(bytes.subarray(first), 0);
    this.#end += bytes.length;
    // Who is full says when there is room; trying each time would cost the guest a system call.
    for (let i = this.#watchers.length - 1; i >= 0; i--) {
      if (!this.#watchers[i].full) this.#serve(this.#watchers[i]);
    }
  }

  /** Whether the guest must wait: someone who is to lose nothing is half the scrollback behind. */
  get blocked(): boolean {
    for (const watcher of this.#watchers) {
      if (watcher.lossless && this.#end - watcher.at > SCROLLBACK / 2) return true;
    }
    return false;
  }

  /** Gives every watcher what it takes now. */
  flush(): void {
    for (let i = this.#watchers.length - 1; i >= 0; i--) this.#serve(this.#watchers[i]);
  }

  /** Whether somebody who is to lose nothing hasn't got everything. */
  get pending(): boolean {
    return this.#watchers.some((watcher) => watcher.lossless && watcher.at < this.#end);
  }

  /** Descriptors that something may come from. */
  get descriptors(): number[] {
    return this.#watchers.map(({ descriptor }) => descriptor);
  }

  /**
   * Reads what watchers typed.
   * @param take given a copy; false when that was enough for now.
   */
  read(take: (bytes: Uint8Array) => boolean): void {
    for (let i = this.#watchers.length - 1; i >= 0; i--) {
      const watcher = this.#watchers[i];
      for (;;) {
        const length = this.#receive(watcher);
        if (length === EAGAIN || (length <= 0 && watcher.terminal)) break;
        if (length <= 0) {
          this.#remove(watcher);
          break;
        }
        if (!take(this.#typed.slice(0, length))) return;
      }
    }
  }

  #receive(watcher: Watcher): number {
    const { vmm_read } = processLibrary();
    return Number(vmm_read(watcher.descriptor, ptr(this.#typed), INPUT));
  }

  #serve(watcher: Watcher): void {
    watcher.at = Math.max(watcher.at, this.#end - SCROLLBACK);
    while (watcher.at < this.#end) {
      const from = watcher.at % SCROLLBACK;
      const length = Math.min(this.#end - watcher.at, SCROLLBACK - from);
      const written = this.#write(watcher, from, length);
      if (written === EAGAIN || (written === EIO && watcher.terminal)) {
        this.#fill(watcher, true);
        return;
      }
      if (written < 0) {
        this.#remove(watcher);
        return;
      }
      watcher.at += written;
    }
    this.#fill(watcher, false);
  }

  // Room is waited for when there is none: else every reader's every read would wake the vCPU.
  #fill(watcher: Watcher, full: boolean): void {
    if (full === watcher.full) return;
    watcher.full = full;
    this.#watch(watcher.descriptor, full ? Watch.INPUT | Watch.ROOM : Watch.INPUT);
  }

  #write(watcher: Watcher, from: number, length: number): number {
    const { vmm_send, vmm_write } = processLibrary();
    const data = ptr(this.#ring, from);
    return Number(
      watcher.terminal
        ? vmm_write(watcher.descriptor, data, length)
        : vmm_send(watcher.descriptor, data, length, null, 0),
    );
  }

  #remove(watcher: Watcher): void {
    this.#watchers.splice(this.#watchers.indexOf(watcher), 1);
    this.#watch(watcher.descriptor, Watch.NOTHING);
    closeSync(watcher.descriptor);
  }
}
