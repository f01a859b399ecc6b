/** The console of a daemon's VM, read from its terminal. */
import { closeSync, constants, openSync, readSync } from "node:fs";

/** So often nothing more has come, 50 ms apart: hosts may have much else to do. */
const PATIENCE = 6000;

/** What a VM prints on its pty. */
export class Terminal {
  text = "";
  readonly #descriptor: number;
  readonly #bytes = new Uint8Array(4096);

  constructor(path: string) {
    this.#descriptor = openSync(
      path,
      constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY,
    );
  }

  /** Reads until a pattern is there. @returns its first group */
  async until(pattern: RegExp): Promise<string> {
    for (let i = 0; i < PATIENCE; i++) {
      const found = pattern.exec(this.text);
      if (found !== null) return found[1];
      if (!this.#read()) await Bun.sleep(50);
    }
    throw new Error(`${pattern} did not come: ${this.text.slice(-500)}`);
  }

  /** Reads all that is there: what comes to a terminal that is full is lost. */
  drain(): void {
    while (this.#read());
  }

  /** @returns whether there was something */
  #read(): boolean {
    try {
      const read = readSync(this.#descriptor, this.#bytes);
      this.text += new TextDecoder().decode(this.#bytes.subarray(0, read));
      return read > 0;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
      return false;
    }
  }

  close(): void {
    closeSync(this.#descriptor);
  }
}
