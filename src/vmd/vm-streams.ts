/**
 * A VM's streams, in its process: what its console, its debug port and its virtio console print goes to
 * whoever looks, and what is typed there to the guest.
 */
import { ConsoleHub } from "./console-hub.ts";
import type { LifeHost, VmLife } from "./vm-life.ts";
import type { StreamName } from "./vm-messages.ts";

/** Input that may wait for the guest, in bytes; then who types it has to. */
const INPUT_LIMIT = 2 ** 16;
/** Bytes that one reading of a stream's socket brings at most. */
const VIRTIO_INPUT = 4096;

/** What streams need of their process. */
export interface StreamsHost {
  /** Set when something came that can't wait: no reader is waited for then. */
  readonly attention: Int32Array;
  /** The guest's run is recorded: how fast a reader is must make no difference to it. */
  readonly recorded: boolean;
  /** Has descriptors wake the process; native/vmm.h. */
  watch(descriptor: number, events: number): void;
  /** The guest's life, while there is one. */
  life(): VmLife | undefined;
  /** What is typed goes to the guest: told to recorders. */
  typed(stream: "console" | "virtio", bytes: Uint8Array): void;
  /** Sleeps until something comes, for a moment at most. */
  sleep(): void;
}

export class VmStreams {
  readonly #host: StreamsHost;
  readonly #console: ConsoleHub;
  readonly #debug: ConsoleHub;
  readonly #virtio: ConsoleHub;
  /** Bytes that were typed and wait for the guest. */
  #typed = 0;

  constructor(host: StreamsHost) {
    this.#host = host;
    const watch = (descriptor: number, events: number) => host.watch(descriptor, events);
    this.#console = new ConsoleHub(watch);
    this.#debug = new ConsoleHub(watch);
    this.#virtio = new ConsoleHub(watch);
  }

  hub(stream: StreamName): ConsoleHub {
    if (stream === "virtio") return this.#virtio;
    return stream === "console" ? this.#console : this.#debug;
  }

  /** A life begins: nothing waits for it. */
  begin(): void {
    this.#typed = 0;
  }

  /** What of a machine's host is its streams. */
  get ports(): Pick<LifeHost, "output" | "outputBlocked" | "inputTaken" | "debug"> {
    return {
      output: (bytes) => this.#print(this.#console, bytes),
      outputBlocked: () => !this.#host.recorded && this.#console.blocked,
      inputTaken: (bytes) => this.#taken(bytes),
      // It has no way to make the guest wait, so its vCPU does.
      debug: (bytes) => {
        this.#debug.push(bytes);
        this.#waitForReader(this.#debug);
      },
    };
  }

  /** The virtio console's other end. */
  get virtioPort(): { output(bytes: Uint8Array): void; blocked(): boolean } {
    return {
      output: (bytes) => this.#print(this.#virtio, bytes),
      blocked: () => !this.#host.recorded && this.#virtio.blocked,
    };
  }

  /** Gives watchers what they have room for. */
  flush(): void {
    this.#debug.flush();
    this.#console.flush();
    this.#virtio.flush();
  }

  /** Takes what was typed; where the guest has room for it. */
  read(): void {
    this.#debug.read(() => true);
    this.#readVirtio();
    if (this.#typed < INPUT_LIMIT) this.#console.read((bytes) => this.#input(bytes));
  }

  /** Whether somebody who is to lose nothing hasn't got all. */
  get pending(): boolean {
    return this.#console.pending || this.#debug.pending || this.#virtio.pending;
  }

  /** Bytes that were printed, and who looks at the console. */
  get statistics(): { printed: number; watchers: number } {
    const printed = this.#console.printed + this.#debug.printed + this.#virtio.printed;
    return { printed, watchers: this.#console.watchers };
  }

  #print(hub: ConsoleHub, bytes: Uint8Array): void {
    hub.push(bytes);
    if (this.#host.recorded) this.#waitForReader(hub);
  }

  #waitForReader(hub: ConsoleHub): void {
    const { attention } = this.#host;
    while (hub.blocked && Atomics.load(attention, 0) === 0) {
      this.#host.sleep();
      hub.flush();
    }
  }

  /** What is typed at the virtio console; without one it goes nowhere. */
  #readVirtio(): void {
    const console = this.#host.life()?.machine.virtioConsole;
    this.#virtio.read((bytes) => {
      if (console === undefined) return true;
      this.#host.typed("virtio", bytes);
      console.input(bytes);
      // No more than it surely takes: the rest stays in the socket.
      return console.room >= VIRTIO_INPUT;
    });
  }

  #input(bytes: Uint8Array): boolean {
    const life = this.#host.life();
    if (life === undefined) return true;
    this.#typed += bytes.length;
    this.#host.typed("console", bytes);
    life.machine.console.input(bytes);
    return this.#typed < INPUT_LIMIT;
  }

  // There is room again for what was left in the sockets: nobody else will say so.
  #taken(bytes: number): void {
    const before = this.#typed;
    this.#typed -= bytes;
    if (before < INPUT_LIMIT || this.#typed >= INPUT_LIMIT) return;
    Atomics.store(this.#host.attention, 0, 1);
    if (!this.#host.recorded) this.#host.life()?.engine.kick();
  }
}
