/** A switch's process, as whoever started it sees it: where VMs get their ends of ports from. */
import { closeSync } from "node:fs";
import { libraryPath } from "../../vmm/native.ts";
import { programPath } from "../../vmm/root.ts";
import { Channel } from "../channel.ts";
import { connectDescriptor } from "../descriptor-socket.ts";
import { environment } from "../environment.ts";
import type { Confinement } from "../vm-messages.ts";
import { formatMac } from "./mac.ts";
import { type FromSwitch, parseFromSwitch, type ToSwitch } from "./switch-messages.ts";
import { type PortCounts, Switch } from "./switch.ts";

/** How long messages wait for a process that takes none, ms, before they are tried again. */
const RETRY = 20;

/** A switch that there isn't, or that won't have a port, in one sentence. */
export class SwitchError extends Error {
  override name = "SwitchError";
}

export interface SwitchHostOptions {
  /** As vm.conf names it: for messages. */
  name: string;
  /** Default: 1500. */
  mtu?: number;
  /** Absent: no sandbox. */
  confine?: Confinement;
}

/** A VM's port. */
export interface SwitchPort {
  readonly number: number;
  /** The VM's end, to be handed over and closed. */
  readonly descriptor: number;
}

export class SwitchHost {
  readonly name: string;
  readonly pid: number;
  /** Resolves when the process is gone. Never rejects. */
  readonly ended: Promise<void>;
  /** Told when a port's other end is gone. */
  onPortEnded: ((port: number) => void) | undefined;
  readonly #channel: Channel;
  readonly #process: Bun.Subprocess;
  readonly #questions: {
    takes: (message: FromSwitch) => boolean;
    resolve: (message: FromSwitch) => void;
    reject: (error: SwitchError) => void;
  }[] = [];
  readonly #running: Promise<FromSwitch>;
  #failure: string | undefined;
  #over = false;
  #next = 0;

  /** Starts it. @throws an errno error when there is no process to be had */
  constructor({ name, mtu, confine }: SwitchHostOptions) {
    this.name = name;
    const [ours, theirs] = Channel.pair();
    this.#channel = new Channel(ours);
    const program = [process.execPath, programPath("vmd/net/switch-process.ts")];
    const command = confine === undefined ? program : [libraryPath("vmd-launch"), ...program];
    this.#process = Bun.spawn(command, {
      stdio: ["ignore", "ignore", "inherit", theirs],
      env: environment(),
    });
    closeSync(theirs);
    this.pid = this.#process.pid;
    this.ended = this.#process.exited.then(() => this.#exited());
    void connectDescriptor(ours, {
      data: (_, data) => this.#receive(data.toString()),
      close: () => {},
    });
    this.#running = this.#ask({ kind: "start", mtu, confine }, ({ kind }) => kind === "running");
    this.#running.catch(() => {});
  }

  /** Resolves when it forwards, with what of its sandbox isn't there. @throws SwitchError */
  async running(): Promise<string> {
    const message = await this.#running;
    return message.kind === "running" ? message.unconfined : "";
  }

  /** Adds a port. @param locked the one address that it may send from. @throws SwitchError */
  async addPort(locked?: Uint8Array): Promise<SwitchPort> {
    const [ours, theirs] = Switch.pair();
    const port = this.#next++;
    const lladdr = locked === undefined ? undefined : formatMac(locked);
    try {
      const answer = await this.#ask(
        { kind: "add", port, lladdr },
        (message) =>
          (message.kind === "added" || message.kind === "refused") && message.port === port,
        [ours],
      );
      if (answer.kind === "refused") throw this.#refusal(answer.code, lladdr);
    } catch (error) {
      closeSync(theirs);
      throw error;
    }
    return { number: port, descriptor: theirs };
  }

  #refusal(code: string, lladdr: string | undefined): SwitchError {
    if (code === "EEXIST") return new SwitchError(`switch ${this.name}: ${lladdr} is another VM's`);
    if (code === "ENOSPC") return new SwitchError(`switch ${this.name} has no free port`);
    return new SwitchError(`switch ${this.name}: a port: ${code}`);
  }

  /** Unplugs a port; its VM sees the end of its socket. */
  removePort(port: number): void {
    this.#tell({ kind: "remove", port });
  }

  /** @throws SwitchError when it isn't running */
  async statistics(): Promise<(PortCounts & { port: number })[]> {
    const answer = await this.#ask({ kind: "statistics" }, ({ kind }) => kind === "statistics");
    return answer.kind === "statistics" ? answer.ports : [];
  }

  /** Ends it: all of its ports' sockets end. */
  stop(): void {
    this.#process.kill("SIGKILL");
  }

  async #ask(
    message: ToSwitch,
    takes: (message: FromSwitch) => boolean,
    descriptors: readonly number[] = [],
  ): Promise<FromSwitch> {
    const { promise, resolve, reject } = Promise.withResolvers<FromSwitch>();
    if (this.#over) reject(new SwitchError(`switch ${this.name} is not running`));
    else this.#questions.push({ takes, resolve, reject });
    this.#tell(message, descriptors);
    return await promise;
  }

  #tell(message: ToSwitch, descriptors: readonly number[] = []): void {
    if (this.#over) {
      for (const descriptor of descriptors) closeSync(descriptor);
      return;
    }
    this.#channel.send(message, descriptors);
    this.#retry();
  }

  #retry(): void {
    if (this.#over || this.#channel.backlog === 0) return;
    setTimeout(() => {
      if (this.#over) return;
      this.#channel.flush();
      this.#retry();
    }, RETRY);
  }

  #receive(text: string): void {
    const message = parseFromSwitch(text);
    if (message === undefined || message.kind === "failed") {
      this.#failure = message?.message ?? "its process says what is no message";
      this.stop();
      return;
    }
    const index = this.#questions.findIndex(({ takes }) => takes(message));
    if (index >= 0) this.#questions.splice(index, 1)[0].resolve(message);
    else if (message.kind === "ended") this.onPortEnded?.(message.port);
  }

  #exited(): void {
    this.#over = true;
    const why = this.#failure ?? "its process has ended";
    const error = new SwitchError(`switch ${this.name}: ${why}`);
    for (const { reject } of this.#questions.splice(0)) reject(error);
  }
}
