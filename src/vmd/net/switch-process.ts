/**
 * The process of a switch. It is told on descriptor 3 which ports there are, confines itself, and is
 * then in native/switch.c until it is told more. It ends when whoever started it is gone.
 */
import { closeSync } from "node:fs";
import { NativeError } from "../../vmm/native.ts";
import { Channel } from "../channel.ts";
import { confine } from "../confine.ts";
import { SandboxError } from "../sandbox.ts";
import { parseMac } from "./mac.ts";
import type { FromSwitch, ToSwitch } from "./switch-messages.ts";
import { Switch } from "./switch.ts";

const CHANNEL = 3;
/** How long answers wait for room before they are tried again, ms. */
const RETRY = 20;

class SwitchProcess {
  readonly #channel: Channel;
  readonly #switch: Switch;
  /** Numbers of ports: of whoever started this, and the switch's. */
  readonly #ports = new Map<number, number>();

  constructor(channel: Channel, sw: Switch) {
    this.#channel = channel;
    this.#switch = sw;
  }

  run(): never {
    for (;;) {
      const { control, ended } = this.#switch.run(this.#channel.backlog > 0 ? RETRY : -1);
      this.#channel.flush();
      if (ended) this.#removeEnded();
      if (control) this.#messages();
    }
  }

  #removeEnded(): void {
    for (let at = this.#switch.ended(); at !== undefined; at = this.#switch.ended()) {
      this.#switch.remove(at);
      for (const [port, number] of this.#ports) {
        if (number !== at) continue;
        this.#ports.delete(port);
        this.#post({ kind: "ended", port });
      }
    }
  }

  #messages(): void {
    for (;;) {
      const received = this.#channel.receive();
      if (received === "none") return;
      if (received === "end") process.exit(0);
      this.#obey(JSON.parse(received.text) as ToSwitch, received.descriptors);
    }
  }

  #obey(message: ToSwitch, descriptors: readonly number[]): void {
    switch (message.kind) {
      case "start":
        return;
      case "add":
        this.#add(message.port, descriptors[0], message.lladdr);
        return;
      case "remove": {
        const number = this.#ports.get(message.port);
        if (number !== undefined) this.#switch.remove(number);
        this.#ports.delete(message.port);
        return;
      }
      case "statistics": {
        const all = [...this.#ports];
        const ports = all.map(([port, number]) => ({ port, ...this.#switch.counts(number) }));
        this.#post({ kind: "statistics", ports });
        return;
      }
    }
  }

  #add(port: number, descriptor: number, lladdr: string | undefined): void {
    try {
      const locked = lladdr === undefined ? undefined : parseMac(lladdr);
      this.#ports.set(port, this.#switch.add(descriptor, locked));
      this.#post({ kind: "added", port });
    } catch (error) {
      if (!(error instanceof NativeError)) throw error;
      closeSync(descriptor);
      this.#post({ kind: "refused", port, code: error.code });
    }
  }

  #post(message: FromSwitch): void {
    if (!this.#channel.send(message)) process.exit(0);
  }
}

function main(): void {
  const channel = new Channel(CHANNEL);
  let received = channel.receive();
  while (received === "none") {
    channel.wait();
    received = channel.receive();
  }
  if (received === "end") process.exit(0);
  const { mtu, confine: confinement } = JSON.parse(received.text) as ToSwitch & { kind: "start" };
  try {
    const sw = new Switch({ control: CHANNEL, mtu });
    const unconfined = confine(confinement, "switch");
    channel.send({ kind: "running", unconfined } satisfies FromSwitch);
    new SwitchProcess(channel, sw).run();
  } catch (error) {
    const expected = error instanceof NativeError || error instanceof SandboxError;
    const message = expected ? error.message : `internal error: ${(error as Error).stack ?? error}`;
    channel.send({ kind: "failed", message } satisfies FromSwitch);
    process.exit(1);
  }
}

main();
