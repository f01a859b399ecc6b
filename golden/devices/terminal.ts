/** The console of a daemon's VM, read from its terminal. */
import { closeSync, constants, openSync, readSync } from "node:fs";

/** What a VM prints on its pty. */
export class Terminal {
  text = "";
  readonly #descriptor: number;

  constructor(path: string) {
    this.#descriptor = openSync(
      path,
      constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY,
    );
  }

  /** Reads until a pattern is there. @returns its first group */
  async until(pattern: RegExp): Promise<string> {
    const bytes = new Uint8Array(4096);
    for (let i = 0; i < 1200; i++) {
      const found = pattern.exec(this.text);
      if (found !== null) return found[1];
      try {
        const read = readSync(this.#descriptor, bytes);
        this.text += new TextDecoder().decode(bytes.subarray(0, read));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
        await Bun.sleep(50);
      }
    }
    throw new Error(`${pattern} did not come: ${this.text.slice(-500)}`);
  }

  close(): void {
    closeSync(this.#descriptor);
  }
}
