/**
 * A VM's console in this terminal: raw mode, and cu's escapes at the start of a line:
 * `~.` leaves, `~?` helps, `~~` sends a tilde.
 */
import { ptr, terminalLibrary } from "../vmm/native.ts";
import type { ConsoleStream } from "../vmd/console-stream.ts";

const TILDE = 0x7e;
const HELP = "\r\n~.  leave\r\n~~  send a tilde\r\n~?  this help\r\n";

/** Finds escapes in what is typed. */
export class EscapeFilter {
  // A line's start, or a tilde there.
  #state: "start" | "tilde" | "middle" = "start";

  /** @returns the bytes for the guest, and the escape commands that were among them. */
  filter(bytes: Uint8Array): { forward: Uint8Array; commands: ("end" | "help")[] } {
    const forward: number[] = [];
    const commands: ("end" | "help")[] = [];
    for (const byte of bytes) {
      if (this.#state === "tilde") {
        const character = String.fromCharCode(byte);
        this.#state = "middle";
        if (character === ".") commands.push("end");
        else if (character === "?") commands.push("help");
        else if (byte === TILDE) forward.push(TILDE);
        else forward.push(TILDE, byte);
        if (character === "?" || character === ".") this.#state = "start";
      } else if (this.#state === "start" && byte === TILDE) {
        this.#state = "tilde";
        continue;
      } else {
        forward.push(byte);
        this.#state = "middle";
      }
      if (byte === 13 || byte === 10) this.#state = "start";
    }
    return { forward: Uint8Array.from(forward), commands };
  }
}

/** What a terminal is attached to. */
export interface Attachable {
  readonly console: ConsoleStream;
  readonly debug?: ConsoleStream;
}

/** A console in this terminal. */
export interface Attachment {
  /** Why the console could not be written; undefined when it could, or when its reader left. */
  readonly failure: string | undefined;
  /** Gives the terminal back as it was, when all output is written. */
  detach(): Promise<void>;
}

interface Sink {
  write(bytes: Uint8Array): Promise<unknown> | undefined;
  flush(): Promise<void>;
}

// What write returns resolves when there is room for more: a reader that stops, stops the guest and
// not our heap.
function sink(file: Bun.BunFile, failed: (error: NodeJS.ErrnoException) => void): Sink {
  const writer = file.writer({ highWaterMark: 1 });
  let broken = false;
  const fail = (error: NodeJS.ErrnoException) => {
    if (!broken) failed(error);
    broken = true;
  };
  const flush = async () => {
    try {
      await writer.flush();
    } catch (error) {
      fail(error as NodeJS.ErrnoException);
    }
  };
  return {
    write(bytes) {
      if (broken) return undefined;
      try {
        // Either may fail now or later.
        const pending = [writer.write(bytes), writer.flush()].filter(
          (result) => result instanceof Promise,
        );
        return pending.length > 0 ? Promise.all(pending).catch(fail) : undefined;
      } catch (error) {
        fail(error as NodeJS.ErrnoException);
        return undefined;
      }
    },
    flush,
  };
}

/** VMM_TERMINAL_SIZE of native/vmm.h. */
const MODE = 64;

/**
 * Has standard input give every key, if it is a terminal; asking Node about that takes 10 ms.
 * @returns what gives it back as it was
 */
function rawMode(): () => void {
  const before = new Uint8Array(MODE);
  const { vmm_terminal_raw: raw, vmm_terminal_restore: restore } = terminalLibrary();
  if (raw(0, ptr(before)) < 0) return () => {};
  const back = () => {
    restore(0, ptr(before));
    process.off("exit", back);
  };
  process.on("exit", back);
  return back;
}

/**
 * Connects the terminal.
 * @param leave called for `~.`, for a signal, and when nobody reads the output any more.
 */
export function attach({ console, debug }: Attachable, leave: () => void): Attachment {
  let failure: string | undefined;
  const output = sink(Bun.stdout, (error) => {
    // Nobody reads the console any more: nobody could end the VM either.
    if (error.code !== "EPIPE") failure ??= `standard output: ${error.code ?? error.message}`;
    leave();
  });
  const errors = sink(Bun.stderr, () => {});
  const stopConsole = console.follow((bytes) => output.write(bytes));
  const stopDebug = debug?.follow((bytes) => errors.write(bytes));
  const filter = new EscapeFilter();
  const reader = Bun.stdin.stream().getReader();
  const read = async () => {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const { forward, commands } = filter.filter(value);
      // What was typed before an escape goes first, but isn't waited for: a guest that takes nothing
      // can be left.
      const sent = forward.length > 0 ? console.send(forward) : undefined;
      for (const command of commands) {
        if (command === "help") void output.write(new TextEncoder().encode(HELP));
        else leave();
      }
      // What the guest doesn't take waits where it comes from.
      await sent;
    }
  };
  const cooked = rawMode();
  read().catch(() => {});
  const signals = ["SIGTERM", "SIGHUP", "SIGINT"] as const;
  for (const signal of signals) process.on(signal, leave);
  return {
    async detach() {
      stopConsole();
      stopDebug?.();
      await output.flush();
      await errors.flush();
      reader.cancel().catch(() => {});
      cooked();
      for (const signal of signals) process.off(signal, leave);
    },
    get failure() {
      return failure;
    },
  };
}
