/**
 * The loop in a thread of its own, as a VM's vCPU has it: what one engine's run taught the JIT
 * compiler doesn't touch another's.
 */
import type { EngineName } from "../src/vmm/engine.ts";
import { cLoop } from "./c-loop.ts";
import { Loop } from "./loop.ts";

/** Which loop to run. */
export interface LoopOptions {
  engine: EngineName;
  access: "out" | "mmio";
  count: number;
}

type Request = LoopOptions | "typescript" | "c";
type Answer = { ns: number } | { error: string };

/** The thread, as its owner sees it. */
export class LoopThread implements Disposable {
  readonly #worker = new Worker(import.meta.url);

  /** @returns once it has run the loop a first time, by both means if `c`. */
  static async open(options: LoopOptions, c = false): Promise<LoopThread> {
    const thread = new LoopThread();
    await thread.#ask(options);
    await thread.run();
    if (c) await thread.runInC();
    return thread;
  }

  /** Through the vCPU loop and the devices in TypeScript. @returns ns per access. */
  run(): Promise<number> {
    return this.#ask("typescript");
  }

  /** Through the loop in C. @returns ns per access. */
  runInC(): Promise<number> {
    return this.#ask("c");
  }

  #ask(request: Request): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#worker.onmessage = ({ data }: MessageEvent<Answer>) => {
        if ("ns" in data) resolve(data.ns);
        else reject(new Error(data.error));
      };
      this.#worker.onerror = ({ message }) => reject(new Error(message));
      this.#worker.postMessage(request);
    });
  }

  [Symbol.dispose](): void {
    this.#worker.terminate();
  }
}

function serve(self: Worker): void {
  let loop: Loop | undefined;
  let inC: (() => boolean) | undefined;
  const answer = (request: Request): number => {
    if (typeof request === "object") {
      loop = new Loop(request.engine, request.access, request.count);
      return 0;
    }
    if (loop === undefined) throw new Error("no loop to run");
    if (request === "typescript") return loop.run();
    inC ??= cLoop(loop.engine);
    return loop.runBy(inC);
  };
  self.onmessage = ({ data }: MessageEvent<Request>) => {
    try {
      self.postMessage({ ns: answer(data) } satisfies Answer);
    } catch (error) {
      self.postMessage({ error: String(error) } satisfies Answer);
    }
  };
}

if (!Bun.isMainThread) serve(globalThis as unknown as Worker);
