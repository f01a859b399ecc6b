/**
 * The control process: it reads what clients send, and lets through what is a request. It runs
 * confined, knows no VM, and can neither open nor connect to anything. Who a client is, it isn't
 * asked: the daemon accepts each and reads its credentials.
 *
 * Descriptors: 3 is the channel to the daemon, 4 the listening socket, which is only looked at.
 */
import { closeSync } from "node:fs";
import { processLibrary, ptr } from "../../vmm/native.ts";
import { Channel } from "../channel.ts";
import { enterSandbox } from "../sandbox.ts";
import { LONGEST_REQUEST, parseRequest, ProtocolError } from "../protocol.ts";
import type { FromControl, ToControl } from "./control-messages.ts";

const CHANNEL = 3;
const LISTENER = 4;
/** poll's limit, less the two of our own. */
const MAX_CLIENTS = 200;
/** A request must be whole so long after its first byte, ms. */
const PATIENCE = 10_000;
/** What may wait for a client that doesn't read, bytes. */
const MAX_OUTPUT = 4 * 2 ** 20;
const INPUT = 1;
const ROOM = 2;
const EAGAIN = -11;
const NEWLINE = 10;

interface Client {
  readonly id: number;
  readonly descriptor: number;
  input: Uint8Array;
  /** When the request at hand began to come; 0: none has. */
  since: number;
  output: { bytes: Uint8Array; descriptors: number[] }[];
  waiting: number;
}

class Control {
  readonly #channel = new Channel(CHANNEL);
  readonly #clients = new Map<number, Client>();
  readonly #buffer = new Uint8Array(64 * 1024);
  #knocking = false;

  run(): void {
    const descriptors = new Int32Array(MAX_CLIENTS + 2);
    const events = new Int32Array(MAX_CLIENTS + 2);
    for (;;) {
      const clients = [...this.#clients.values()];
      descriptors[0] = CHANNEL;
      events[0] = INPUT | (this.#channel.backlog > 0 ? ROOM : 0);
      descriptors[1] = LISTENER;
      events[1] = this.#knocking || clients.length >= MAX_CLIENTS ? 0 : INPUT;
      clients.forEach((client, i) => {
        descriptors[i + 2] = client.descriptor;
        // Who doesn't take its replies isn't heard either.
        events[i + 2] = client.output.length > 0 ? ROOM : INPUT;
      });
      const timeout = clients.some(({ since }) => since > 0) ? 1000 : -1;
      processLibrary().vmm_poll(ptr(descriptors), ptr(events), clients.length + 2, timeout);
      if (events[0] !== 0) this.#hear();
      if ((events[1] & INPUT) !== 0) {
        this.#knocking = true;
        this.#tell({ kind: "knock" });
      }
      clients.forEach((client, i) => {
        if (!this.#clients.has(client.id)) return;
        if ((events[i + 2] & ROOM) !== 0) this.#write(client);
        else if ((events[i + 2] & INPUT) !== 0) this.#read(client);
        this.#hurry(client);
      });
    }
  }

  #tell(message: FromControl): void {
    if (!this.#channel.send(message)) process.exit(0);
  }

  #hear(): void {
    this.#channel.flush();
    for (;;) {
      const received = this.#channel.receive();
      if (received === "none") return;
      if (received === "end") process.exit(0);
      this.#obey(JSON.parse(received.text) as ToControl, received.descriptors);
    }
  }

  #obey(message: ToControl, descriptors: number[]): void {
    if (message.kind === "client") {
      this.#knocking = false;
      if (message.client === undefined) return;
      const [descriptor] = descriptors;
      this.#clients.set(message.client, {
        id: message.client,
        descriptor,
        input: new Uint8Array(),
        since: 0,
        output: [],
        waiting: 0,
      });
      return;
    }
    const client = this.#clients.get(message.client);
    if (client === undefined) {
      for (const descriptor of descriptors) closeSync(descriptor);
    } else if (message.kind === "drop") {
      this.#drop(client);
    } else {
      this.#say(client, message.text, descriptors);
    }
  }

  #say(client: Client, text: string, descriptors: number[] = []): void {
    const bytes = new TextEncoder().encode(text);
    client.output.push({ bytes, descriptors });
    client.waiting += bytes.length;
    if (client.waiting > MAX_OUTPUT) this.#drop(client);
    else this.#write(client);
  }

  #write(client: Client): void {
    const { vmm_send } = processLibrary();
    while (client.output.length > 0) {
      const first = client.output[0];
      const { bytes, descriptors } = first;
      const with_ = Int32Array.from(descriptors.length > 0 ? descriptors : [-1]);
      const sent = Number(
        vmm_send(client.descriptor, ptr(bytes), bytes.length, ptr(with_), descriptors.length),
      );
      if (sent === EAGAIN) return;
      if (sent < 0) {
        this.#drop(client);
        return;
      }
      for (const descriptor of descriptors) closeSync(descriptor);
      first.descriptors = [];
      client.waiting -= sent;
      if (sent < bytes.length) first.bytes = bytes.subarray(sent);
      else client.output.shift();
    }
  }

  #read(client: Client): void {
    const length = Number(
      processLibrary().vmm_receive(
        client.descriptor,
        ptr(this.#buffer),
        this.#buffer.length,
        null,
        0,
      ),
    );
    if (length === EAGAIN) return;
    if (length <= 0) {
      this.#drop(client);
      return;
    }
    client.input = Buffer.concat([client.input, this.#buffer.subarray(0, length)]);
    if (client.since === 0) client.since = performance.now();
    for (;;) {
      const end = client.input.indexOf(NEWLINE);
      if (end < 0) break;
      const line = client.input.subarray(0, end);
      client.input = client.input.slice(end + 1);
      client.since = client.input.length > 0 ? performance.now() : 0;
      this.#request(client, line);
    }
    if (client.input.length > LONGEST_REQUEST) {
      this.#refuse(client, new ProtocolError(`a request is at most ${LONGEST_REQUEST} bytes`));
    }
  }

  #request(client: Client, bytes: Uint8Array): void {
    let line: string;
    try {
      line = readLine(bytes);
      parseRequest(line);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#refuse(client, error);
      return;
    }
    this.#tell({ kind: "request", client: client.id, line });
  }

  // A line that says which request it is, is answered; after anything else there is no telling where
  // the next begins.
  #refuse(client: Client, error: ProtocolError): void {
    const refusal = { id: error.id ?? 0, ok: false, code: "EPROTO", error: error.message };
    this.#say(client, `${JSON.stringify(refusal)}\n`);
    if (error.id === undefined) this.#drop(client);
  }

  #hurry(client: Client): void {
    if (client.since === 0 || performance.now() - client.since < PATIENCE) return;
    this.#refuse(client, new ProtocolError(`a request must be whole within ${PATIENCE / 1000} s`));
  }

  #drop(client: Client): void {
    if (!this.#clients.delete(client.id)) return;
    for (const { descriptors } of client.output) {
      for (const descriptor of descriptors) closeSync(descriptor);
    }
    closeSync(client.descriptor);
    this.#tell({ kind: "gone", client: client.id });
  }
}

function readLine(bytes: Uint8Array): string {
  if (bytes.length > LONGEST_REQUEST) {
    throw new ProtocolError(`a request is at most ${LONGEST_REQUEST} bytes`);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new ProtocolError("a request is UTF-8 text");
  }
}

const [uid, gid] = process.argv.slice(2).map(Number);
processLibrary().vmm_prompt();
if (process.argv[4] === "confine") {
  enterSandbox({
    profile: "control",
    uid: uid < 0 ? undefined : uid,
    gid: gid < 0 ? undefined : gid,
  });
}
new Control().run();
