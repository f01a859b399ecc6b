/**
 * Several machines at one campaign, through a Redis or Valkey server: each puts its finds into two streams
 * and takes the others' from there. The server is a meeting place, no store: every machine has all that it
 * found on its own disk. One that comes back empty is filled again, and what it says twice is taken once.
 */
import { RedisClient } from "bun";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { Verdict } from "../executor.ts";
import { BundleError, type Origin, readBundle, writeBundle, writeMinimised } from "./bundle.ts";
import { type Crash, crashKey, inputName } from "./crash.ts";
import type { CampaignFolder } from "./folder.ts";
import type { Link } from "./run.ts";

/** Messages that are asked for at a time, and sent. */
const BATCH = 128;
/** Milliseconds that one exchange may take. */
const PATIENCE = 10_000;
/** Bytes; larger ones are nobody's inputs. */
const MAX_INPUT = 16 * 1024 * 1024;

/** Sends what nobody sent before. Both or neither of its effects are there, whenever the server ends. */
const SEND = `
if redis.call('SADD', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('XADD', KEYS[2], '*', 'name', ARGV[1], 'data', ARGV[2])
return 1`;

const CrashSchema = v.object({
  ending: v.picklist(["crash", "hang"]),
  kind: v.string(),
  text: v.string(),
  stack: v.array(v.string()),
  seed: v.number(),
  run: v.number(),
  parent: v.optional(v.string()),
  input: v.string(),
});

/** A stream's messages, each an id and its fields by turns. */
const StreamSchema = v.array(v.tuple([v.string(), v.array(v.string())]));

type Kind = "inputs" | "crashes";

function within<T>(work: Promise<T>, milliseconds: number): Promise<T> {
  let timer: Timer;
  const late = new Promise<never>((_, failed) => {
    timer = setTimeout(() => failed(new Error("it takes too long")), milliseconds);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

function fromBase64(text: string): Uint8Array | undefined {
  if (text.length > 2 * MAX_INPUT) return undefined;
  try {
    return Uint8Array.fromBase64(text);
  } catch {
    return undefined;
  }
}

export interface RedisLinkOptions {
  /** redis://[user:password@]host[:port], or what else Bun's client takes. */
  readonly url: string;
  /** Machines with the same one work together. */
  readonly group: string;
  readonly origin: Origin;
}

export class RedisLink implements Link {
  status = "exchange: not connected yet";
  sent = 0;
  received = 0;
  private client: RedisClient | undefined;
  private readonly last: Record<Kind, string> = { inputs: "0-0", crashes: "0-0" };
  /** What the server has. */
  private readonly there: Record<Kind, Set<string>> = { inputs: new Set(), crashes: new Set() };
  private readonly place: string;

  constructor(
    private readonly folder: CampaignFolder,
    private readonly options: RedisLinkOptions,
  ) {
    // A URL may have a password in it.
    this.place = URL.canParse(options.url) ? new URL(options.url).host : "the server";
  }

  async sync(): Promise<void> {
    // A connection may have ended since the last time: that is no reason to wait for the next.
    const tries = this.client === undefined ? 1 : 2;
    for (let i = 0; i < tries; i++) {
      try {
        await within(this.exchange(), PATIENCE);
        this.status = `exchange: ${this.sent} sent, ${this.received} received`;
        return;
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        this.status = `exchange: ${this.place}: ${reason}`;
        this.close();
      }
    }
  }

  close(): void {
    this.client?.close();
    this.client = undefined;
  }

  private async exchange(): Promise<void> {
    const client = this.client ?? (await this.connect());
    await this.receive(client);
    await this.sendInputs(client);
    await this.sendCrashes(client);
  }

  private async connect(): Promise<RedisClient> {
    const client = new RedisClient(this.options.url, {
      autoReconnect: false,
      enableOfflineQueue: false,
      connectionTimeout: PATIENCE / 2,
    });
    this.client = client;
    await client.connect();
    // Nobody knows what a server has lost that was away.
    for (const kind of ["inputs", "crashes"] as const) {
      this.last[kind] = "0-0";
      this.there[kind].clear();
    }
    return client;
  }

  private key(...parts: string[]): string {
    return [this.options.group, ...parts].join(":");
  }

  private async send(client: RedisClient, kind: Kind, name: string, data: string): Promise<void> {
    const keys = [this.key(kind, "names"), this.key(kind)];
    const isNew: unknown = await client.send("EVAL", [SEND, "2", ...keys, name, data]);
    this.there[kind].add(name);
    if (isNew === 1) this.sent++;
  }

  private async sendInputs(client: RedisClient): Promise<void> {
    const { folder } = this;
    const missing = folder.names().filter((name) => !this.there.inputs.has(name));
    for (let i = 0; i < missing.length; i += BATCH) {
      const batch = missing.slice(i, i + BATCH).map(async (name) => {
        const input = folder.read(name);
        if (input !== undefined) await this.send(client, "inputs", name, input.toBase64());
      });
      await Promise.all(batch);
    }
  }

  private async sendCrashes(client: RedisClient): Promise<void> {
    const { crashes, hangs } = this.folder.keys();
    const all = [
      ...crashes.map((key) => [this.folder.crashes, key] as const),
      ...hangs.map((key) => [this.folder.hangs, key] as const),
    ];
    for (const [parent, key] of all) {
      if (!this.there.crashes.has(key)) await this.sendCrash(client, parent, key);
      const small = `${key}/minimised`;
      const file = join(parent, key, "minimised");
      if (this.there.crashes.has(small) || !existsSync(file)) continue;
      await this.send(client, "crashes", small, readFileSync(file).toString("base64"));
    }
  }

  private async sendCrash(client: RedisClient, parent: string, key: string): Promise<void> {
    try {
      const { report, input } = readBundle(join(parent, key));
      const data = JSON.stringify({ ...report, input: Buffer.from(input).toString("base64") });
      await this.send(client, "crashes", key, data);
    } catch (error) {
      // Somebody else's folder, or one that was broken by hand: it is left alone.
      if (!(error instanceof BundleError)) throw error;
      this.there.crashes.add(key);
    }
  }

  private async receive(client: RedisClient): Promise<void> {
    for (const kind of ["inputs", "crashes"] as const) {
      for (;;) {
        const messages = await this.read(client, kind);
        for (const [id, fields] of messages) {
          this.last[kind] = id;
          const { name, data } = Object.fromEntries(
            Array.from({ length: fields.length >> 1 }, (_, i) => fields.slice(2 * i, 2 * i + 2)),
          ) as { name?: string; data?: string };
          if (name === undefined || data === undefined || this.there[kind].has(name)) continue;
          this.there[kind].add(name);
          if (kind === "inputs" ? this.takeInput(name, data) : this.takeCrash(name, data))
            this.received++;
        }
        if (messages.length < BATCH) break;
      }
    }
  }

  private async read(client: RedisClient, kind: Kind): Promise<v.InferOutput<typeof StreamSchema>> {
    const key = this.key(kind);
    const reply: unknown = await client.send("XREAD", [
      ...["COUNT", String(BATCH), "STREAMS", key, this.last[kind]],
    ]);
    if (reply === null) return [];
    const streams = reply as Record<string, unknown>;
    return v.parse(StreamSchema, streams[key] ?? []);
  }

  /** The name is checked: it becomes a file's. */
  private takeInput(name: string, data: string): boolean {
    const input = fromBase64(data);
    if (input === undefined || inputName(input) !== name) return false;
    return this.folder.receive(name, input);
  }

  private takeCrash(name: string, data: string): boolean {
    const key = name.replace(/\/minimised$/, "");
    if (key !== name) return this.takeMinimised(key, data);
    let json: unknown;
    try {
      json = JSON.parse(data);
    } catch {
      return false;
    }
    const parsed = v.safeParse(CrashSchema, json);
    const input = parsed.success ? fromBase64(parsed.output.input) : undefined;
    if (!parsed.success || input === undefined) return false;
    const { ending, kind, text, stack, seed, run, parent } = parsed.output;
    const verdict = ending === "hang" ? Verdict.TIMEOUT : Verdict.CRASH;
    const report = { kind, text, stack };
    if (crashKey(verdict, report) !== name) return false;
    const crash: Crash = { key: name, verdict, report, input, seed, run, parent };
    return writeBundle(this.parentOf(ending), crash, this.options.origin);
  }

  private takeMinimised(key: string, data: string): boolean {
    const input = fromBase64(data);
    if (input === undefined || !/^[a-z0-9-]+$/.test(key)) return false;
    for (const parent of [this.folder.crashes, this.folder.hangs]) {
      if (!existsSync(join(parent, key)) || existsSync(join(parent, key, "minimised"))) continue;
      writeMinimised(parent, key, input);
    }
    return false;
  }

  private parentOf(ending: "crash" | "hang"): string {
    return ending === "hang" ? this.folder.hangs : this.folder.crashes;
  }
}
