/** A connection to vmd. Calls wait for their replies: vctl has nothing else to do. */
import { closeSync } from "node:fs";
import { daemonLibrary, processLibrary, ptr } from "../vmm/native.ts";
import { programPath } from "../vmm/root.ts";
import type { Reply, RequestInput } from "../vmd/protocol.ts";
import { clientSocket, distrust } from "../vmd/socket-path.ts";
import { debug, UsageError } from "./cli.ts";

const PROTOCOL = 1;
const ENOENT = -2;
const ECONNREFUSED = -111;
const PIECE = 64 * 1024;
const REASONS: Record<number, string> = {
  [ENOENT]: "No such file or directory",
  [ECONNREFUSED]: "Connection refused",
  [-13]: "Permission denied",
  [-20]: "Not a directory",
  [-36]: "File name too long",
};

/** vmd said no. */
export class RefusedError extends Error {
  override name = "RefusedError";
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/** What vmd answered; its fields depend on the request. */
// oxlint-disable-next-line typescript/no-explicit-any
export type Answer = Record<string, any>;

export class Client implements Disposable {
  readonly #descriptor: number;
  #rest = new Uint8Array();
  #id = 0;
  #open = true;

  private constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  /**
   * @param start start a daemon of the user's own when there is none.
   * @throws UsageError
   */
  static connect({ start = false } = {}): Client {
    const path = clientSocket();
    debug(`socket ${path}`);
    const trust = distrust(path);
    if (trust !== undefined) throw new UsageError(trust);
    let descriptor = tryConnect(path);
    const absent = descriptor === ENOENT || descriptor === ECONNREFUSED;
    if (absent && start && process.geteuid!() !== 0) {
      startDaemon(path);
      descriptor = tryConnect(path);
    }
    if (descriptor >= 0) return new Client(descriptor);
    const why = REASONS[descriptor] ?? `error ${-descriptor}`;
    throw new UsageError(`connect: ${path}: ${why}`);
  }

  /** Whether a daemon answers. */
  static isThere(): boolean {
    const descriptor = tryConnect(clientSocket());
    if (descriptor >= 0) closeSync(descriptor);
    return descriptor >= 0;
  }

  /** Where replies come. */
  get descriptor(): number {
    return this.#descriptor;
  }

  /** Asks, and waits for the answer. @throws RefusedError, UsageError */
  call(request: RequestInput): Answer {
    this.send(request);
    return this.receive().answer;
  }

  /** The same, for an answer that brings a descriptor. */
  callForDescriptor(request: RequestInput): { answer: Answer; descriptor: number } {
    this.send(request);
    const { answer, descriptor } = this.receive();
    if (descriptor === undefined) throw new UsageError("read error");
    return { answer, descriptor };
  }

  send(request: RequestInput): void {
    const line = JSON.stringify({ version: PROTOCOL, id: ++this.#id, ...request });
    const bytes = new TextEncoder().encode(`${line}\n`);
    for (let at = 0; at < bytes.length;) {
      const rest = bytes.subarray(at);
      const written = Number(processLibrary().vmm_write(this.#descriptor, ptr(rest), rest.length));
      if (written <= 0) throw new UsageError("write error");
      at += written;
    }
  }

  receive(): { answer: Answer; descriptor: number | undefined } {
    const buffer = new Uint8Array(PIECE);
    const descriptors = Int32Array.of(-1);
    let descriptor: number | undefined;
    for (;;) {
      const end = this.#rest.indexOf(10);
      if (end >= 0) {
        const reply = JSON.parse(new TextDecoder().decode(this.#rest.subarray(0, end))) as Reply;
        this.#rest = this.#rest.slice(end + 1);
        if (reply.ok) return { answer: reply, descriptor };
        throw new RefusedError(reply.code, reply.error);
      }
      const length = Number(
        processLibrary().vmm_receive(this.#descriptor, ptr(buffer), PIECE, ptr(descriptors), 1),
      );
      if (length === 0) throw new UsageError("pipe closed");
      if (length < 0) throw new UsageError("read error");
      if (descriptors[0] >= 0) descriptor = descriptors[0];
      this.#rest = Buffer.concat([this.#rest, buffer.subarray(0, length)]);
    }
  }

  [Symbol.dispose](): void {
    if (!this.#open) return;
    this.#open = false;
    closeSync(this.#descriptor);
  }
}

function tryConnect(path: string): number {
  return daemonLibrary().vmm_connect(ptr(Buffer.from(`${path}\0`)));
}

/** A daemon of the user's own: it ends when it has had nothing to do for a while. */
function startDaemon(socket: string): void {
  const program = programPath("vmd/daemon/main.ts");
  const { exitCode, stderr } = Bun.spawnSync(
    [process.execPath, program, "--socket", socket, "--idle", "60"],
    { stdio: ["ignore", "ignore", "pipe"] },
  );
  if (exitCode === 0) return;
  const said = stderr.toString().trim().split("\n")[0];
  throw new UsageError(said === "" ? "vmd could not be started" : said);
}
