/** Who looks at a VM's exits: the recorder of its trace, or a counter while somebody asks for counts. */
import type { BootFile } from "./boot-files.ts";
import { type ExitCount, ExitCounter } from "./exit-counter.ts";
import { Recorder } from "./recorder.ts";
import type { VmLife } from "./vm-life.ts";
import type { StartMessage } from "./vm-messages.ts";

/** Places whose counts fit into a message. */
const COUNTS = 256;

export class ExitObservers {
  readonly #trace: BootFile | undefined;
  readonly #start: Pick<StartMessage, "options" | "files">;
  #life: VmLife | undefined;
  #recorder: Recorder | undefined;
  #counter: ExitCounter | undefined;

  /** @param trace an open file */
  constructor(trace: BootFile | undefined, start: Pick<StartMessage, "options" | "files">) {
    this.#trace = trace;
    this.#start = start;
  }

  /** A trace holds every life. */
  begin(life: VmLife): void {
    this.#life = life;
    if (this.#trace !== undefined) this.#record(this.#trace, life);
    life.vcpu.observer = this.#recorder ?? this.#counter;
  }

  /** The life is over. */
  end(): void {
    this.#life = undefined;
  }

  /** What is in the trace so far goes into its file. @returns why it is not whole */
  flush(): string | undefined {
    this.#recorder?.flush();
    return this.#recorder?.failure;
  }

  /** The guest is given what was typed on its console. */
  input(bytes: Uint8Array): void {
    if (this.#life !== undefined) this.#recorder?.input(bytes, this.#life.machine.clock.now);
  }

  /** The host asks the guest for something, by vmmci. */
  request(command: number): void {
    if (this.#life !== undefined) this.#recorder?.request(command, this.#life.machine.clock.now);
  }

  /**
   * An exit costs more while it is counted, so it is only while somebody looks: until `on` is false.
   * @returns the answer, if there is to be one
   */
  count(on: boolean): { counts?: ExitCount[] } | undefined {
    if (this.#recorder !== undefined) return on ? {} : undefined;
    this.#counter = on ? (this.#counter ?? new ExitCounter()) : undefined;
    if (this.#life !== undefined) this.#life.vcpu.observer = this.#counter;
    return this.#counter && { counts: this.#counter.counts.slice(0, COUNTS) };
  }

  #record(trace: BootFile, { machine, engine }: VmLife): void {
    if (this.#recorder !== undefined) {
      this.#recorder.reset(machine, engine);
      return;
    }
    const { options, files } = this.#start;
    const { disks, interfaces, shares, cdrom, vsock } = files;
    const more = disks.length + interfaces.length + shares.length;
    const backed =
      more > 0 || cdrom !== undefined || vsock !== undefined || options.devices !== undefined;
    this.#recorder = new Recorder(trace, machine, engine, options, backed);
  }
}
