/** A VM on its way out: through standard output, or a command. */
import { closeSync, readFileSync } from "node:fs";
import { daemonLibrary, processLibrary, ptr, socketPair } from "../vmm/native.ts";
import { LineBuffer, Line } from "../vmd/migration/lines.ts";
import type { MigrationEvent } from "../vmd/migration/messages.ts";
import type { RequestInput } from "../vmd/protocol.ts";
import { readPiece, wait, writeLine, writeWhole } from "./carry.ts";
import { say, UsageError, vmReference } from "./cli.ts";
import { Client, RefusedError } from "./client.ts";

export interface SendOptions {
  live?: boolean;
  downtime: number;
  rounds: number;
  via?: string;
  duplex?: boolean;
}

type Migration = Extract<RequestInput, { request: "send" }>["migration"];
type Over = Extract<MigrationEvent, { stage: "over" }>;

/** Nobody knows where the VM runs. */
const UNKNOWN = 3;
/** So many may be at the listener at a time. */
const GUESTS = 16;
const STDIN = 0;
const STDOUT = 1;
/** Bits of vmm_shutdown. */
const SEND_END = 2;

export async function send(id: string, options: SendOptions): Promise<void> {
  const vm = vmReference(id);
  const { live, downtime, rounds, via, duplex } = options;
  if (via === undefined && process.stdout.isTTY) {
    throw new UsageError("a VM is no text: pipe it to vctl receive, or use --via");
  }
  if (via !== undefined && duplex) throw new UsageError("both --via and --duplex");
  using carrier = new Carrier(via, duplex === true);
  using client = Client.connect();
  let descriptor: number;
  let number: number;
  try {
    const { migration } = carrier;
    const answer = client.callForDescriptor({
      ...{ request: "send", vm, live, downtime, rounds, migration },
    });
    ({ descriptor } = answer);
    number = answer.answer.vm;
  } catch (error) {
    if (!(error instanceof RefusedError)) throw error;
    throw new UsageError(`send vm command failed: ${error.message}`);
  }
  const over = await carry(client, number, descriptor, carrier);
  const mib = Math.ceil(over.bytes / 2 ** 20);
  if (over.outcome === "sent") {
    say(`sent vm ${id}: ${mib} MiB, its guest stood still for ${Math.round(over.stoodStill)} ms`);
    return;
  }
  if (over.outcome === "gone") throw new UsageError(`vm ${id} ended: ${over.why}`);
  if (over.outcome === "failed") throw new UsageError(`vm ${id} goes on here: ${over.why}`);
  say(
    `vm ${id} is paused, as it may run on the other side (${over.why}): ` +
      `vctl stop -f ${id} if it does, vctl unpause ${id} if it doesn't`,
  );
  process.exit(UNKNOWN);
}

/** Where the stream goes, and where answers come from. */
class Carrier implements Disposable {
  readonly migration: Migration;
  /** Where the stream goes; -1 when it was closed. */
  output = STDOUT;
  /** Where answers come from; -1: from nowhere yet, or any more. */
  answers = -1;
  /** Where a receiver on this host connects. */
  listener = -1;
  /** Who connected there, and didn't say yet who it is. */
  readonly #guests = new Map<number, LineBuffer>();
  readonly #token: string = "";

  constructor(via: string | undefined, duplex: boolean) {
    if (via !== undefined) {
      const [ours, theirs] = socketPair(true);
      Bun.spawn(["sh", "-c", via], { stdio: [theirs, theirs, "inherit"] });
      closeSync(theirs);
      this.output = ours;
      this.answers = ours;
      this.migration = { answers: "stream" };
      return;
    }
    if (duplex) {
      this.answers = STDIN;
      this.migration = { answers: "stream" };
      return;
    }
    const [socket, token] = [randomName(), randomName()];
    this.listener = daemonLibrary().vmm_abstract(ptr(Buffer.from(`vmd-${socket}\0`)), 1);
    if (this.listener < 0) return;
    this.#token = token;
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    this.migration = { answers: "socket", boot, socket, token };
  }

  /** What may bring something. */
  get descriptors(): number[] {
    const own = [this.answers, this.listener].filter((descriptor) => descriptor >= 0);
    return [...own, ...this.#guests.keys()];
  }

  /** Somebody is at the listener. */
  accept(): void {
    const connected = daemonLibrary().vmm_accept(this.listener);
    if (connected < 0) return;
    // Anybody on this host may connect; who says nothing doesn't keep others from being heard.
    const [oldest] = this.#guests.keys();
    if (this.#guests.size >= GUESTS) this.#leave(oldest);
    this.#guests.set(connected, new LineBuffer());
  }

  isGuest(descriptor: number): boolean {
    return this.#guests.has(descriptor);
  }

  /** One of them says who it is. @returns what it says behind that */
  identify(descriptor: number): string {
    const came = readPiece(descriptor);
    if (came === "none") return "";
    const buffer = this.#guests.get(descriptor) as LineBuffer;
    const [token, ...lines] = came === "end" ? [""] : buffer.add(came);
    if (token === undefined) return "";
    if (token !== this.#token) {
      this.#leave(descriptor);
      return "";
    }
    this.#guests.delete(descriptor);
    for (const other of [...this.#guests.keys()]) this.#leave(other);
    this.answers = descriptor;
    closeSync(this.listener);
    this.listener = -1;
    return [...lines, buffer.rest].join("\n");
  }

  #leave(guest: number): void {
    this.#guests.delete(guest);
    closeSync(guest);
  }

  closeOutput(): void {
    if (this.output < 0) return;
    if (this.output === this.answers) processLibrary().vmm_shutdown(this.output, SEND_END);
    else closeSync(this.output);
    this.output = -1;
  }

  [Symbol.dispose](): void {
    this.closeOutput();
    for (const descriptor of this.descriptors) if (descriptor > STDOUT) closeSync(descriptor);
  }
}

function randomName(): string {
  return Buffer.from(crypto.getRandomValues(new Uint8Array(16))).toString("hex");
}

/** Carries the stream, and the answers to it, until vmd says that it is over. */
async function carry(
  client: Client,
  vm: number,
  descriptor: number,
  carrier: Carrier,
): Promise<Over> {
  let seen = 0;
  let open = true;
  const ask = () => client.send({ request: "migration", vm, after: seen });
  ask();
  const close = () => {
    carrier.closeOutput();
    if (open) closeSync(descriptor);
    open = false;
  };
  for (;;) {
    const own = open ? [descriptor] : [];
    const descriptors = [client.descriptor, ...own, ...carrier.descriptors];
    const ready = wait(descriptors);
    for (const [i, one] of descriptors.entries()) {
      if (!ready[i]) continue;
      if (one === client.descriptor) {
        const { events } = client.receive().answer as { events: MigrationEvent[] };
        seen += events.length;
        for (const event of events) if (event.stage === "round") report(event);
        const last = events.at(-1);
        if (last?.stage === "over") {
          // What it said at last goes out before.
          if (open) drain(descriptor, carrier);
          close();
          return last;
        }
        ask();
      } else if (one === descriptor) {
        if (!open) continue;
        const came = readPiece(descriptor);
        if (came === "end") close();
        else if (came !== "none") deliver(descriptor, came, carrier);
      } else if (one === carrier.listener) carrier.accept();
      else if (carrier.isGuest(one)) {
        const said = new TextEncoder().encode(carrier.identify(one));
        if (open) writeWhole(descriptor, said);
      } else if (one === carrier.answers) {
        const came = readPiece(one);
        if (came === "none") continue;
        if (came !== "end") {
          if (open) writeWhole(descriptor, came);
          continue;
        }
        // Nothing comes from there any more: who waits for an answer is told.
        carrier.answers = -1;
        if (open) processLibrary().vmm_shutdown(descriptor, SEND_END);
      }
    }
    // Signals are heard here.
    await Bun.sleep(0);
  }
}

function deliver(descriptor: number, bytes: Uint8Array, carrier: Carrier): void {
  if (carrier.output < 0 || writeWhole(carrier.output, bytes)) return;
  carrier.closeOutput();
  writeLine(descriptor, Line.UNDELIVERED);
}

function drain(descriptor: number, carrier: Carrier): void {
  for (;;) {
    const came = readPiece(descriptor);
    if (came === "none" || came === "end") return;
    deliver(descriptor, came, carrier);
  }
}

function report({ round, pages, left, time }: Extract<MigrationEvent, { stage: "round" }>): void {
  const mib = (count: number) => (count / 256).toFixed(1);
  say(
    `round ${round}: ${mib(pages)} MiB in ${Math.round(time)} ms, ${mib(left)} MiB written meanwhile`,
  );
}
