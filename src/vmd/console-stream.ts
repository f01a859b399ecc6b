/**
 * A VM's serial console for programs: everything the guest printed, whoever wants to follow it,
 * and waiting for what it should say.
 */

/** What is kept of the past, in bytes. */
const SCROLLBACK = 64 * 1024;

/** The guest did not say what was expected. */
export class ExpectError extends Error {
  override name = "ExpectError";
}

/** May return a promise: the guest's output waits until it is kept. */
export type ConsoleListener = (bytes: Uint8Array) => unknown;

interface Waiter {
  pattern: string | RegExp;
  resolve: (match: string) => void;
  reject: (error: ExpectError) => void;
  timer: Timer | undefined;
}

export class ConsoleStream {
  readonly #send: (bytes: Uint8Array) => unknown;
  readonly #listeners = new Set<ConsoleListener>();
  readonly #decoder = new TextDecoder("utf-8");
  #waiters: Waiter[] = [];
  #scrollback: Uint8Array[] = [];
  #scrollbackBytes = 0;
  /** Text that no expect has consumed. */
  #text = "";
  #ended = false;

  /** @param send may return a promise: there is room for more when it resolves. */
  constructor(send: (bytes: Uint8Array) => unknown) {
    this.#send = send;
  }

  /**
   * Types at the guest's console. Nothing is lost, whatever the guest does with it; a program that
   * has much to send waits until this resolves before it sends more.
   */
  async send(data: string | Uint8Array): Promise<void> {
    await this.#send(typeof data === "string" ? new TextEncoder().encode(data) : data);
  }

  /**
   * Follows the output; the scrollback comes first when `replay`.
   * @returns a function that stops it.
   */
  follow(listener: ConsoleListener, replay = true): () => void {
    if (replay) for (const bytes of this.#scrollback) void listener(bytes);
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Waits until the guest has printed `pattern`, and consumes the output up to its end.
   * @param timeout ms; default 60 s.
   * @returns what matched.
   * @throws ExpectError with the last lines of output when it doesn't come.
   */
  expect(pattern: string | RegExp, timeout = 60_000): Promise<string> {
    return new Promise((resolve, reject) => {
      const waiter: Waiter = { pattern, resolve, reject, timer: undefined };
      waiter.timer = setTimeout(() => {
        this.#waiters = this.#waiters.filter((other) => other !== waiter);
        reject(this.#missed(pattern, `within ${timeout / 1000} s`));
        this.#serve();
      }, timeout);
      this.#waiters.push(waiter);
      this.#serve();
    });
  }

  /** Output that no expect has consumed yet. */
  get pending(): string {
    return this.#text;
  }

  /** New output; for the VM. What it returns resolves when every listener has taken it. */
  push(bytes: Uint8Array): Promise<unknown> | undefined {
    this.#scrollback.push(bytes);
    this.#scrollbackBytes += bytes.length;
    while (this.#scrollbackBytes - this.#scrollback[0].length >= SCROLLBACK) {
      this.#scrollbackBytes -= (this.#scrollback.shift() as Uint8Array).length;
    }
    const taken = [...this.#listeners]
      .map((listener) => listener(bytes))
      .filter((result) => result instanceof Promise);
    this.#text += this.#decoder.decode(bytes, { stream: true });
    this.#serve();
    // Nobody may ever wait for it: keep as much of the text as of the bytes.
    if (this.#text.length > 2 * SCROLLBACK) this.#text = this.#text.slice(-SCROLLBACK);
    return taken.length > 0 ? Promise.all(taken) : undefined;
  }

  /** No more output will come; for the VM. */
  end(): void {
    this.#ended = true;
    this.#serve();
  }

  #serve(): void {
    while (this.#waiters.length > 0) {
      const waiter = this.#waiters[0];
      const match = find(this.#text, waiter.pattern);
      if (match === undefined && !this.#ended) return;
      this.#waiters.shift();
      clearTimeout(waiter.timer);
      if (match === undefined) {
        waiter.reject(this.#missed(waiter.pattern, "before the VM ended"));
      } else {
        this.#text = this.#text.slice(match.end);
        waiter.resolve(match.text);
      }
    }
  }

  #missed(pattern: string | RegExp, when: string): ExpectError {
    const last = this.#text.slice(-1000);
    return new ExpectError(`the guest did not print ${pattern} ${when}; its last output:\n${last}`);
  }
}

function find(text: string, pattern: string | RegExp): { text: string; end: number } | undefined {
  if (typeof pattern === "string") {
    const at = text.indexOf(pattern);
    return at < 0 ? undefined : { text: pattern, end: at + pattern.length };
  }
  const match = new RegExp(pattern.source, pattern.flags.replace("g", "")).exec(text);
  return match === null ? undefined : { text: match[0], end: match.index + match[0].length };
}
