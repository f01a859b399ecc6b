/**
 * A campaign's folder: `queue/` with one file an input, named by its hash; `crashes/` and `hangs/` with
 * one bundle each; `campaign.json`, what is known of the campaign. Several workers use one: each file and
 * each bundle comes into being at once.
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { Verdict } from "../executor.ts";
import { type Origin, writeBundle, writeMinimised } from "./bundle.ts";
import type { Finds } from "./campaign.ts";
import type { Entry } from "./corpus.ts";
import { type Crash, inputName } from "./crash.ts";
import { writeQuickly, writeWhole } from "./files.ts";
import { releaseLock, takeLock } from "./lock.ts";

const FORMAT = 1;
const NAME = /^[0-9a-f]{32}$/;
/** A folder's time stamp is coarse: one that is younger may get other files without a newer one. */
const SETTLED = 2000;

export class FolderError extends Error {
  override readonly name = "FolderError";
}

const EntrySchema = v.object({ depth: v.number(), parent: v.optional(v.string()) });

const StateSchema = v.object({
  format: v.literal(FORMAT),
  target: v.string(),
  digest: v.optional(v.string()),
  seed: v.number(),
  /** How often it was started. */
  sessions: v.number(),
  /** Of all sessions. */
  runs: v.number(),
  seconds: v.number(),
  entries: v.record(v.string(), EntrySchema),
});

/** What campaign.json says. */
export type CampaignState = v.InferOutput<typeof StateSchema>;

export interface Stored {
  readonly name: string;
  readonly input: Uint8Array;
}

export class CampaignFolder {
  readonly queue: string;
  readonly crashes: string;
  readonly hangs: string;
  private readonly stateFile: string;
  private readonly known = new Set<string>();
  private listed = -1;

  /** @throws FolderError if it can't be made */
  constructor(readonly path: string) {
    this.queue = join(path, "queue");
    this.crashes = join(path, "crashes");
    this.hangs = join(path, "hangs");
    this.stateFile = join(path, "campaign.json");
    try {
      for (const folder of [this.queue, this.crashes, this.hangs])
        mkdirSync(folder, { recursive: true });
    } catch (error) {
      throw new FolderError(`can't make the corpus ${path}: ${(error as Error).message}.`);
    }
  }

  /** Keeps other sessions out until what is returned is called. @throws FolderError if there is one */
  lock(): () => void {
    const path = join(this.path, ".lock");
    const other = takeLock(path);
    if (other !== undefined)
      throw new FolderError(`the corpus ${this.path} is in use by process ${other}.`);
    return () => releaseLock(path);
  }

  /** What is known of a campaign that was here before. @throws FolderError */
  readState(): CampaignState | undefined {
    if (!existsSync(this.stateFile)) return undefined;
    let json: unknown;
    try {
      json = JSON.parse(readFileSync(this.stateFile, "utf8"));
    } catch (error) {
      throw new FolderError(`${this.stateFile}: ${(error as Error).message}.`);
    }
    const parsed = v.safeParse(StateSchema, json);
    if (parsed.success) return parsed.output;
    const [issue] = parsed.issues;
    throw new FolderError(`${this.stateFile}: ${v.getDotPath(issue) ?? "it"}: ${issue.message}.`);
  }

  writeState(state: CampaignState): void {
    writeWhole(this.stateFile, `${JSON.stringify(state)}\n`);
  }

  /** Inputs that came into the queue since the last call, by name: at first all. */
  arrived(): Stored[] {
    const { mtimeMs } = statSync(this.queue);
    if (mtimeMs === this.listed) return [];
    this.listed = Date.now() - mtimeMs > SETTLED ? mtimeMs : -1;
    const stored: Stored[] = [];
    for (const name of readdirSync(this.queue).sort()) {
      if (name.startsWith(".") || name.endsWith(".damaged") || this.known.has(name)) continue;
      this.known.add(name);
      const input = this.read(name);
      if (input !== undefined) stored.push({ name, input });
    }
    return stored;
  }

  /** An input of the queue; undefined if it is gone or isn't what it is named by: that is put aside. */
  read(name: string): Uint8Array | undefined {
    const path = join(this.queue, name);
    let input: Uint8Array;
    try {
      input = new Uint8Array(readFileSync(path));
    } catch {
      return undefined;
    }
    if (!NAME.test(name) || inputName(input) === name) return input;
    renameSync(path, `${path}.damaged`);
    return undefined;
  }

  /** Puts an input into the queue; false if it is there. */
  put(name: string, input: Uint8Array): boolean {
    this.known.add(name);
    const path = join(this.queue, name);
    if (existsSync(path)) return false;
    writeQuickly(path, input);
    return true;
  }

  /** The same for what comes from another machine: `arrived` tells it. */
  receive(name: string, input: Uint8Array): boolean {
    const path = join(this.queue, name);
    if (existsSync(path)) return false;
    writeQuickly(path, input);
    return true;
  }

  remove(name: string): void {
    rmSync(join(this.queue, name), { force: true });
  }

  /** Names of the queue's inputs. */
  names(): string[] {
    return readdirSync(this.queue).filter((name) => NAME.test(name));
  }

  /** Keys of the crashes, and of the hangs. */
  keys(): { readonly crashes: string[]; readonly hangs: string[] } {
    const list = (folder: string) => readdirSync(folder).filter((name) => !name.startsWith("."));
    return { crashes: list(this.crashes), hangs: list(this.hangs) };
  }

  /** Where a campaign's finds go. */
  finds(origin: Origin, kept: (entry: Entry) => void = () => {}): Finds {
    const parent = ({ verdict }: Crash) =>
      verdict === Verdict.TIMEOUT ? this.hangs : this.crashes;
    return {
      kept: (entry) => {
        this.put(entry.name, entry.input);
        kept(entry);
      },
      crashed: (crash) => writeBundle(parent(crash), crash, origin),
      minimised: (crash) => writeMinimised(parent(crash), crash.key, crash.minimised!),
    };
  }
}
