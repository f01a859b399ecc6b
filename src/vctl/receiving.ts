/** A VM on its way in, through standard input. */
import { closeSync, readFileSync } from "node:fs";
import { daemonLibrary, processLibrary, ptr } from "../vmm/native.ts";
import { HEAD, PAGE, padded, PAYLOAD_MAX, SnapshotError } from "../vmm/snapshot/format.ts";
import { SnapshotReader } from "../vmm/snapshot/reader.ts";
import { BytesSource } from "../vmm/snapshot/sources.ts";
import { failureOf, Line, LineBuffer } from "../vmd/migration/lines.ts";
import type { SnapshotConfig } from "../vmd/snapshot/config.ts";
import { readPiece, readWhole, wait, writeLine, writeWhole } from "./carry.ts";
import { say, UsageError, vmReference } from "./cli.ts";
import { type Answer, Client, RefusedError } from "./client.ts";

export interface ReceiveOptions {
  network?: string[];
  local?: boolean;
  engine?: "auto" | "kvm" | "unicorn";
}

const STDIN = 0;
const STDOUT = 1;
/** Bits of vmm_shutdown. */
const SEND_END = 2;
export async function receive(name: string, options: ReceiveOptions): Promise<void> {
  const vm = vmReference(name);
  if (typeof vm === "number") throw new UsageError("invalid VM name");
  const { network = [], local, engine } = options;
  if (process.stdin.isTTY) throw new UsageError("a VM comes from vctl send, by standard input");
  const { bytes, payload } = firstRecord();
  const { parseConfig } = await import("../vmd/snapshot/config.ts");
  const config = parseConfig(payload);
  const back = backChannel(config);
  const fail = (why: string): never => {
    if (back >= 0) writeLine(back, `${Line.FAILED} ${why}`);
    throw new UsageError(why);
  };
  const interfaces = [
    ...(local ? [{ local: true }] : []),
    ...network.map((one) => ({ switch: one })),
  ];
  let answer: Answer;
  let descriptor: number;
  using client = connect(fail);
  try {
    ({ answer, descriptor } = client.callForDescriptor({
      request: "receive",
      vm,
      config: new TextDecoder().decode(payload),
      answers: back >= 0,
      engine,
      interfaces,
    }));
  } catch (error) {
    if (!(error instanceof RefusedError)) throw error;
    return fail(`receive vm command failed: ${error.message}`);
  }
  writeWhole(descriptor, bytes);
  const why = await carry(descriptor, back);
  if (why !== undefined) throw new UsageError(`vm ${name} was not received: ${why}`);
  say(`received vm ${answer.vm} successfully, tty ${answer.tty}`);
}

function connect(fail: (why: string) => never): Client {
  try {
    return Client.connect({ start: true });
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    return fail(error.message);
  }
}

/** The CONFIG record: as it came, and what it says. @throws UsageError, SnapshotError */
function firstRecord(): { bytes: Uint8Array; payload: Uint8Array } {
  const head = new Uint8Array(PAGE);
  if (readWhole(STDIN, head) < PAGE) throw new UsageError("nothing comes from vctl send");
  const length = Number(new DataView(head.buffer).getBigUint64(8, true));
  if (length > PAYLOAD_MAX) throw new SnapshotError("it is no snapshot");
  const bytes = new Uint8Array(padded(HEAD + length));
  bytes.set(head);
  if (readWhole(STDIN, bytes.subarray(PAGE)) < bytes.length - PAGE) {
    throw new SnapshotError("it ends too early");
  }
  const record = new SnapshotReader(new BytesSource(bytes)).next();
  return { bytes, payload: record?.payload ?? new Uint8Array() };
}

/** Where answers go; -1 when the sender waits for none. @throws UsageError */
function backChannel({ migration }: SnapshotConfig): number {
  if (migration === undefined) return -1;
  if (migration.answers === "stream") return STDOUT;
  const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  if (boot !== migration.boot) return -1;
  const name = Buffer.from(`vmd-${migration.socket}\0`);
  const descriptor = daemonLibrary().vmm_abstract(ptr(name), 0);
  if (descriptor < 0) {
    throw new UsageError(
      "its sender is on this host, but is gone, or in another network namespace: then use send --via",
    );
  }
  writeLine(descriptor, migration.token);
  return descriptor;
}

/** Carries the stream, and the answers back. @returns why there is no VM; undefined: it runs */
async function carry(descriptor: number, back: number): Promise<string | undefined> {
  const lines = new LineBuffer();
  let more = true;
  for (;;) {
    const descriptors = more ? [descriptor, STDIN] : [descriptor];
    const ready = wait(descriptors);
    if (ready[0]) {
      const came = readPiece(descriptor);
      if (came === "end") return "its process ended";
      for (const line of came === "none" ? [] : lines.add(came)) {
        if (back >= 0) writeLine(back, line);
        if (line === Line.RUNNING) {
          if (back > STDOUT) closeSync(back);
          return undefined;
        }
        const why = failureOf(line);
        if (why !== undefined) return why;
      }
    }
    if (ready[1]) {
      const came = readPiece(STDIN);
      if (came === "end") {
        more = false;
        processLibrary().vmm_shutdown(descriptor, SEND_END);
      } else if (came !== "none") writeWhole(descriptor, came);
    }
    await Bun.sleep(0);
  }
}
