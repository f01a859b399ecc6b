/** A thread that kicks an engine. */
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import type { Engine, EngineName } from "../engine.ts";

// A thread that kicks when told. Shared words: round (-1 ends it), delay in ms, round that is done.
const KICKER = `
  const { kickEngine } = await import(${JSON.stringify(pathToFileURL(join(import.meta.dir, "../engine.ts")).href)});
  self.onmessage = ({ data: { name, handle, shared } }) => {
    const flags = new Int32Array(shared);
    for (let round = 1; ; round++) {
      Atomics.wait(flags, 0, round - 1);
      if (Atomics.load(flags, 0) < 0) return postMessage("over");
      Bun.sleepSync(Atomics.load(flags, 1));
      kickEngine(name, handle);
      Atomics.store(flags, 2, round);
    }
  };
  postMessage("ready");
`;

export class Kicker {
  readonly #worker: Worker;
  readonly #shared = new SharedArrayBuffer(16);
  readonly #flags = new Int32Array(this.#shared);
  #round = 0;

  private constructor(worker: Worker) {
    this.#worker = worker;
  }

  static async start(name: EngineName, engine: Engine): Promise<Kicker> {
    const url = URL.createObjectURL(new Blob([KICKER], { type: "application/javascript" }));
    const worker = new Worker(url);
    await new Promise((resolve) => {
      worker.onmessage = resolve;
    });
    URL.revokeObjectURL(url);
    const kicker = new Kicker(worker);
    worker.postMessage({ name, handle: engine.handle, shared: kicker.#shared });
    return kicker;
  }

  /** Kicks `ms` after this call. */
  kickIn(ms: number): void {
    Atomics.store(this.#flags, 1, ms);
    Atomics.store(this.#flags, 0, ++this.#round);
    Atomics.notify(this.#flags, 0);
  }

  async stop(): Promise<void> {
    while (Atomics.load(this.#flags, 2) !== this.#round) Bun.sleepSync(1);
    const over = new Promise((resolve) => {
      this.#worker.onmessage = resolve;
    });
    Atomics.store(this.#flags, 0, -1);
    Atomics.notify(this.#flags, 0);
    await over;
    this.#worker.terminate();
  }
}
