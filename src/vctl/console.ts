/**
 * A VM's console in this terminal: raw mode, and cu's escapes at the start of a line:
 * `~.` ends, `~?` helps, `~~` sends a tilde.
 */
import type { Vm } from "../vmd/vm.ts";

const TILDE = 0x7e;
const HELP = "\r\n~.  end the VM and leave\r\n~~  send a tilde\r\n~?  this help\r\n";

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

// Its result resolves when the stream takes more: a reader that stops, stops the guest and not our heap.
function writer(stream: NodeJS.WriteStream): (bytes: Uint8Array) => Promise<void> | undefined {
  const waiting: (() => void)[] = [];
  const release = () => {
    for (const resolve of waiting.splice(0)) resolve();
  };
  stream.on("drain", release);
  stream.on("error", release);
  return (bytes) =>
    stream.write(bytes) ? undefined : new Promise((resolve) => waiting.push(resolve));
}

/** A console in this terminal. */
export interface Attachment {
  /** Why the console could not be written; undefined when it could, or when its reader left. */
  readonly failure: string | undefined;
  /** Gives the terminal back as it was. */
  detach(): void;
}

/** Connects the terminal. */
export function attach(vm: Vm): Attachment {
  const { stdin, stdout } = process;
  const filter = new EscapeFilter();
  const stopConsole = vm.console.follow(writer(stdout));
  const stopDebug = vm.debug.follow(writer(process.stderr));
  // What the guest doesn't take waits where it comes from.
  const send = async (bytes: Uint8Array) => {
    stdin.pause();
    await vm.console.send(bytes);
    stdin.resume();
  };
  const onData = (chunk: Buffer) => {
    const { forward, commands } = filter.filter(chunk);
    if (forward.length > 0) void send(forward);
    for (const command of commands) {
      if (command === "help") stdout.write(HELP);
      else void vm.stop();
    }
  };
  const onSignal = () => void vm.stop();
  let failure: string | undefined;
  // Nobody reads the console any more: nobody could end the VM either.
  stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") failure ??= `standard output: ${error.code}`;
    onSignal();
  });
  if (stdin.isTTY) stdin.setRawMode(true);
  stdin.on("data", onData);
  for (const signal of ["SIGTERM", "SIGHUP", "SIGINT"] as const) process.on(signal, onSignal);
  const detach = () => {
    stopConsole();
    stopDebug();
    stdin.off("data", onData);
    if (stdin.isTTY) stdin.setRawMode(false);
    stdin.pause();
    for (const signal of ["SIGTERM", "SIGHUP", "SIGINT"] as const) process.off(signal, onSignal);
  };
  return {
    detach,
    get failure() {
      return failure;
    },
  };
}
