/** Programs that are run until they have said something. */
import { root } from "../golden/guests/guest.ts";

/** Runs a command until its output matches, then ends it. */
export class Watched implements AsyncDisposable {
  readonly #process: Bun.Subprocess<"ignore", "pipe", "pipe">;
  readonly #output: AsyncIterator<Uint8Array>;
  readonly #started = Bun.nanoseconds();
  readonly #command: string;
  readonly #errors: Promise<string>;
  #text = "";

  constructor(command: readonly string[]) {
    this.#command = command[0];
    this.#process = Bun.spawn([...command], { stdio: ["ignore", "pipe", "pipe"], cwd: root });
    this.#output = this.#process.stdout[Symbol.asyncIterator]();
    this.#errors = new Response(this.#process.stderr).text();
  }

  get pid(): number {
    return this.#process.pid;
  }

  /**
   * @param text what standard output must say, next in it.
   * @returns ns since the process was spawned.
   */
  async until(text: string, seconds = 120): Promise<number> {
    const timer = setTimeout(() => this.#process.kill("SIGKILL"), seconds * 1000);
    try {
      for (;;) {
        const at = this.#text.indexOf(text);
        if (at >= 0) {
          this.#text = this.#text.slice(at + text.length);
          return Bun.nanoseconds() - this.#started;
        }
        const { done, value } = await this.#output.next();
        if (done) throw await this.#failure(text);
        this.#text += new TextDecoder("latin1").decode(value);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  async #failure(text: string): Promise<Error> {
    const said = `${this.#text}${await this.#errors}`.trim().slice(-400);
    return new Error(
      `${this.#command} did not print ${JSON.stringify(text)}, but at last:\n${said}`,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#process.exited;
  }
}

/** What `bun vctl` runs; without the first bun, a kill reaches it. */
export const VCTL = ["bun", "src/vctl/index.ts"] as const;

/** What Linux's init prints first. */
const USERSPACE = "userspace:";

/** Seconds from a command's start to its guest's first line of userspace. */
export async function bootTime(command: readonly string[]): Promise<number> {
  await using process = new Watched(command);
  return (await process.until(USERSPACE)) / 1e9;
}
