/** Processes for VMs that are started before anybody wants them: starting one is most of a VM's start. */
import { closeSync } from "node:fs";
import { libraryPath } from "../vmm/native.ts";
import { programPath } from "../vmm/root.ts";
import { Channel } from "./channel.ts";
import { environment } from "./environment.ts";
import type { Confinement } from "./vm-messages.ts";

/** A VM process that waits for its start message, and the other end of its channel. */
export class WarmProcess {
  readonly channel: Channel;
  readonly process: Bun.Subprocess;

  /**
   * @param confine absent: it gets no namespaces of its own.
   * @param waits it has time to load what it may need.
   * @throws an errno error when there is no process to be had
   */
  constructor(confine: Confinement | undefined, { waits = false } = {}) {
    const [ours, theirs] = Channel.pair();
    this.channel = new Channel(ours);
    const program = [process.execPath, programPath("vmd/vm-process.ts")];
    const command = confine === undefined ? program : [libraryPath("vmd-launch"), ...program];
    try {
      this.process = Bun.spawn(command, {
        stdio: ["ignore", "ignore", "inherit", theirs],
        env: { ...environment(), ...(waits ? { VMD_WAITS: "yes" } : {}) },
      });
    } finally {
      closeSync(theirs);
    }
  }

  /** Nobody wants it. */
  discard(): void {
    this.channel[Symbol.dispose]();
    this.process.kill("SIGKILL");
  }
}

/** So long a process that nobody took stays, ms. */
const SPELL = 60_000;

/** Some processes that wait. They are replaced as they are taken, and go when nobody takes any. */
export class WarmPool implements Disposable {
  readonly #confine: Confinement | undefined;
  readonly #waiting: WarmProcess[] = [];
  #wanted = 0;
  #timer: Timer | undefined;

  constructor(confine: Confinement | undefined) {
    this.#confine = confine;
  }

  /** Has so many wait, from soon on and for a while. */
  want(count: number): void {
    this.#wanted = count;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#shrink(), SPELL);
    this.#timer.unref();
    this.#fill();
  }

  /** One that has waited, if there is one that is alive; else a new one. @throws an errno error */
  take(): WarmProcess {
    for (;;) {
      const one = this.#waiting.shift();
      if (one === undefined) return new WarmProcess(this.#confine);
      if (one.process.exitCode === null && one.process.signalCode === null) {
        setTimeout(() => this.#fill(), 0);
        return one;
      }
      one.discard();
    }
  }

  #fill(): void {
    while (this.#waiting.length < this.#wanted) {
      try {
        this.#waiting.push(new WarmProcess(this.#confine, { waits: true }));
      } catch {
        return;
      }
    }
  }

  #shrink(): void {
    this.#wanted = 0;
    for (const one of this.#waiting.splice(0)) one.discard();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#shrink();
  }
}
