/** Processes for VMs that are started before anybody wants them: starting one is most of a VM's start. */
import { closeSync, readdirSync } from "node:fs";
import type { EngineName } from "../vmm/engine-library.ts";
import { check, daemonLibrary, libraryPath } from "../vmm/native.ts";
import { programPath } from "../vmm/root.ts";
import { Channel } from "./channel.ts";
import { environment } from "./environment.ts";
import type { Confinement, PrepareMessage } from "./vm-messages.ts";
import { parseFromVm } from "./vm-schema.ts";

export interface WarmOptions {
  /** It has time to rehearse, on this engine; it then takes none from others. */
  readonly waits?: EngineName;
  /** ... and will be told to `prepare`. */
  readonly machine?: boolean;
}

/** A VM process that waits for its start message, and the other end of its channel. */
export class WarmProcess {
  readonly channel: Channel;
  readonly process: Bun.Subprocess;
  #prepared = 0;
  #order = 0;
  #ready = false;
  /** It has ended, or says what it shouldn't. */
  #gone = false;
  #idle = false;

  /**
   * @param confine absent: it gets no namespaces of its own.
   * @throws an errno error when there is no process to be had
   */
  constructor(confine: Confinement | undefined, { waits, machine = false }: WarmOptions = {}) {
    const [ours, theirs] = Channel.pair();
    this.channel = new Channel(ours);
    const program = [process.execPath, programPath("vmd/vm-process.ts")];
    const waiting: Record<string, string> =
      waits === undefined ? {} : { VMD_WAITS: waits, ...(machine ? { VMD_MACHINE: "yes" } : {}) };
    const command = confine === undefined ? program : [libraryPath("vmd-launch"), ...program];
    try {
      this.process = Bun.spawn(command, {
        stdio: ["ignore", "ignore", "inherit", theirs],
        env: { ...environment(), ...waiting },
      });
    } finally {
      closeSync(theirs);
    }
    // Only where it can be taken back.
    this.#idle =
      waits !== undefined &&
      process.geteuid!() === 0 &&
      daemonLibrary().vmm_idle(this.process.pid, 1) === 0;
  }

  /** Snapshots of the VM that it will get, which are in its machine already. */
  get prepared(): number {
    return this.#prepared;
  }

  /** Order of what changed since them, which is there, too; 0: nothing is. See Wanted. */
  get order(): number {
    return this.#order;
  }

  /** Has it make a machine while it waits. @throws NativeError */
  prepare({ message, files, order = 0 }: Prepared): void {
    const own: number[] = [];
    try {
      for (const file of files) {
        own.push(check("a snapshot", daemonLibrary().vmm_duplicate(file)));
      }
    } catch (error) {
      for (const descriptor of own) closeSync(descriptor);
      throw error;
    }
    this.channel.send(message, own);
    this.#prepared = files.length - (message.changed ? 1 : 0);
    this.#order = order;
  }

  /** Whether it has nothing left to do; not to be asked any more once it has a VM. */
  get ready(): boolean {
    if (this.#ready) return true;
    const received = this.channel.receive();
    if (received === "none") return false;
    if (received === "end") {
      this.#gone = true;
      return false;
    }
    // A guest may have run there: it is believed no more than a VM's process.
    for (const descriptor of received.descriptors) closeSync(descriptor);
    this.#ready = received.descriptors.length === 0 && parseFromVm(received.text)?.kind === "ready";
    this.#gone = !this.#ready;
    return this.#ready;
  }

  /** Whether it may be of use. */
  get alive(): boolean {
    return !this.#gone && this.process.exitCode === null && this.process.signalCode === null;
  }

  /** It has a VM now, and runs as others do. */
  wanted(): void {
    if (!this.#idle) return;
    this.#idle = false;
    // The thread that is told what to run; the others have time until it was.
    daemonLibrary().vmm_idle(this.process.pid, 0);
    setImmediate(() => this.#threadsWanted());
  }

  #threadsWanted(): void {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    let threads: string[];
    try {
      threads = readdirSync(`/proc/${this.process.pid}/task`);
    } catch {
      // It has just ended: whoever gets it is told.
      return;
    }
    for (const thread of threads) daemonLibrary().vmm_idle(Number(thread), 0);
  }

  /** Nobody wants it. */
  discard(): void {
    this.channel[Symbol.dispose]();
    this.process.kill("SIGKILL");
  }
}

/** A machine that processes have while they wait; see preparation.ts. */
export interface Prepared {
  /** The same for whoever goes on from the same, and for nobody else. */
  readonly key: string;
  readonly message: PrepareMessage;
  /** Its snapshots' files, as its message describes them; duplicated for each process, and closed with the last. */
  readonly files: readonly number[];
  /** Of what changed, where the message says that there is that; from 1 on. */
  readonly order?: number;
}

/** A machine that somebody would best go on with. */
export interface Wanted {
  /** See Prepared. */
  readonly key: string;
  /**
   * What changed up to then will be given besides: no process that has later ones will do, whose pages
   * may be others than those. Default: none that has any.
   */
  readonly order?: number;
}

/** So long a process that nobody took stays, ms. */
const SPELL = 60_000;
/** After the last that was taken, ms. */
const MOMENT = 100;
/** So many machines processes wait for at most, the last ones. */
const LINES = 4;

/** Processes that wait for the same. */
interface Line {
  readonly engine: EngineName;
  prepared: Prepared | undefined;
  readonly waiting: WarmProcess[];
  wanted: number;
  spell?: Timer;
}

/**
 * Some processes that wait. They are replaced when none has been taken for a moment, so that what
 * was started has the processors to itself; and they go when nobody takes any for a while.
 */
export class WarmPool implements Disposable {
  readonly #make: (options?: WarmOptions) => WarmProcess;
  #closed = false;
  /** By the keys of their machines; "": without one. */
  readonly #lines = new Map<string, Line>();
  #refill: Timer | undefined;
  #look: Timer | undefined;

  /** @param make starts a process */
  constructor(
    confine: Confinement | undefined,
    make = (options?: WarmOptions) => new WarmProcess(confine, options),
  ) {
    this.#make = make;
  }

  /**
   * Has so many wait for VMs on an engine, from soon on and for a while.
   * @param prepared taken over
   */
  want(count: number, engine: EngineName, prepared?: Prepared): void {
    if (this.#closed) {
      closeAll(prepared);
      return;
    }
    const key = prepared?.key ?? "";
    let line = this.#lines.get(key);
    if (line === undefined || line.engine !== engine) {
      this.drop(key);
      line = { engine, prepared, waiting: [], wanted: count };
    } else {
      // The next ones have what is later.
      closeAll(line.prepared);
      line.prepared = prepared;
      clearTimeout(line.spell);
      this.#lines.delete(key);
      line.wanted = count;
    }
    this.#lines.set(key, line);
    line.spell = setTimeout(() => this.drop(key), SPELL);
    line.spell.unref();
    for (const old of [...this.#lines.keys()].slice(0, -LINES)) this.drop(old);
    this.#fillSoon();
  }

  /** Nobody will go on from that any more. */
  drop(key: string): void {
    const line = this.#lines.get(key);
    if (line === undefined) return;
    this.#lines.delete(key);
    clearTimeout(line.spell);
    for (const one of line.waiting) one.discard();
    closeAll(line.prepared);
  }

  /**
   * One that has waited, if there is one that is ready; else a new one.
   * @throws an errno error
   */
  take({ key, order: latest = 0 }: Wanted = { key: "" }): WarmProcess {
    if (this.#lines.size > 0) this.#fillSoon();
    for (const line of [this.#lines.get(key), this.#lines.get("")]) {
      if (line === undefined) continue;
      const one = line.waiting.find(({ order, ready, alive }) => order <= latest && ready && alive);
      for (const gone of line.waiting.filter(({ alive }) => !alive)) gone.discard();
      const left = line.waiting.filter((other) => other !== one && other.alive);
      line.waiting.splice(0, Infinity, ...left);
      if (one === undefined) continue;
      one.wanted();
      return one;
    }
    // One that isn't ready yet has more to do than one that is new.
    return this.#make();
  }

  #fillSoon(): void {
    clearTimeout(this.#refill);
    this.#refill = setTimeout(() => this.#fill(), MOMENT);
    this.#refill.unref();
  }

  #fill(): void {
    for (const { engine, prepared, waiting, wanted } of this.#lines.values()) {
      while (waiting.length < wanted) {
        let one: WarmProcess | undefined;
        try {
          one = this.#make({ waits: engine, machine: prepared !== undefined });
          if (prepared !== undefined) one.prepare(prepared);
          waiting.push(one);
        } catch {
          one?.discard();
          return;
        }
      }
    }
    this.#lookSoon();
  }

  // Who wants one needn't read what those have to say first.
  #lookSoon(): void {
    clearTimeout(this.#look);
    this.#look = setTimeout(() => {
      const all = [...this.#lines.values()].flatMap(({ waiting }) => waiting);
      if (all.some((one) => !one.ready && one.alive)) this.#lookSoon();
    }, MOMENT);
    this.#look.unref();
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    clearTimeout(this.#refill);
    clearTimeout(this.#look);
    for (const key of [...this.#lines.keys()]) this.drop(key);
  }
}

function closeAll(prepared: Prepared | undefined): void {
  for (const file of prepared?.files ?? []) closeSync(file);
}
