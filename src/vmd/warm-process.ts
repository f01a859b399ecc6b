/** Processes for VMs that are started before anybody wants them: starting one is most of a VM's start. */
import { closeSync } from "node:fs";
import type { EngineName } from "../vmm/engine-library.ts";
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
   * @param waits it has time to rehearse, on this engine.
   * @throws an errno error when there is no process to be had
   */
  constructor(confine: Confinement | undefined, { waits }: { waits?: EngineName } = {}) {
    const [ours, theirs] = Channel.pair();
    this.channel = new Channel(ours);
    const program = [process.execPath, programPath("vmd/vm-process.ts")];
    const command = confine === undefined ? program : [libraryPath("vmd-launch"), ...program];
    try {
      this.process = Bun.spawn(command, {
        stdio: ["ignore", "ignore", "inherit", theirs],
        env: { ...environment(), ...(waits === undefined ? {} : { VMD_WAITS: waits }) },
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
/** After the last that was taken, ms. */
const MOMENT = 100;

/**
 * Some processes that wait. They are replaced when none has been taken for a moment, so that what
 * was started has the processors to itself; and they go when nobody takes any for a while.
 */
export class WarmPool implements Disposable {
  readonly #confine: Confinement | undefined;
  readonly #waiting: WarmProcess[] = [];
  #wanted = 0;
  #engine: EngineName = "unicorn";
  #spell: Timer | undefined;
  #refill: Timer | undefined;

  constructor(confine: Confinement | undefined) {
    this.#confine = confine;
  }

  /** Has so many wait for VMs on an engine, from soon on and for a while. */
  want(count: number, engine: EngineName): void {
    this.#wanted = count;
    this.#engine = engine;
    clearTimeout(this.#spell);
    this.#spell = setTimeout(() => this.#shrink(), SPELL);
    this.#spell.unref();
    this.#fillSoon();
  }

  /** One that has waited, if there is one that is alive; else a new one. @throws an errno error */
  take(): WarmProcess {
    if (this.#wanted > 0) this.#fillSoon();
    for (;;) {
      const one = this.#waiting.shift();
      if (one === undefined) return new WarmProcess(this.#confine);
      if (one.process.exitCode === null && one.process.signalCode === null) return one;
      one.discard();
    }
  }

  #fillSoon(): void {
    clearTimeout(this.#refill);
    this.#refill = setTimeout(() => this.#fill(), MOMENT);
    this.#refill.unref();
  }

  #fill(): void {
    while (this.#waiting.length < this.#wanted) {
      try {
        this.#waiting.push(new WarmProcess(this.#confine, { waits: this.#engine }));
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
    clearTimeout(this.#spell);
    clearTimeout(this.#refill);
    this.#shrink();
  }
}
