/** A daemon of a test's own, in a folder of its own, and vctl against it. For tests. */
import {
  chmodSync,
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../../vmm/root.ts";

/** What a command came to. */
export interface Result {
  code: number | null;
  out: string;
  err: string;
}

export interface TestDaemonOptions {
  /** Contents of vm.conf. */
  config?: string;
  args?: string[];
  /** Run everything as this user, without root's rights. */
  user?: number;
  /** In a network namespace of its own; needs root. */
  ownNetwork?: boolean;
  /** In that of another daemon, with its switches; needs root. */
  networkOf?: TestDaemon;
  /** Made, but not run yet: see run(). */
  delayed?: boolean;
}

/** Longer than any command of a test takes, ms: the lab's host is emulated. */
const VCTL_TIMEOUT = process.env.VMD_LAB === undefined ? 60_000 : 240_000;
const VCTL = join(root, "src/vctl/index.ts");
const VMD = join(root, "src/vmd/index.ts");

/** Words that run a command as another user. */
function as(user: number | undefined): string[] {
  if (user === undefined) return [];
  return ["setpriv", `--reuid=${user}`, `--regid=${user}`, "--clear-groups", "--"];
}

export class TestDaemon implements AsyncDisposable {
  readonly folder: string;
  readonly socket: string;
  readonly config: string;
  log = "";
  readonly #command: string[];
  #process!: Bun.Subprocess<"ignore", "ignore", "pipe">;

  private constructor(options: TestDaemonOptions) {
    const { config = "", args = [], user, ownNetwork, networkOf } = options;
    this.folder = mkdtempSync(join(tmpdir(), "vmd-"));
    if (user !== undefined) chmodSync(this.folder, 0o1777);
    else chmodSync(this.folder, 0o755);
    this.socket = join(this.folder, "vmd.sock");
    this.config = join(this.folder, "vm.conf");
    writeFileSync(this.config, config.replaceAll("FOLDER", this.folder));
    const command = [process.execPath, VMD, "-d", "--socket", this.socket, "-f", this.config];
    const where = ownNetwork === true ? ["unshare", "--net", "--"] : (networkOf?.inside ?? []);
    this.#command = [...where, ...as(user), ...command, ...args];
  }

  /** Runs it. Resolves when it listens. */
  async run(): Promise<void> {
    this.#process = Bun.spawn(this.#command, { stdio: ["ignore", "ignore", "pipe"] });
    void this.#read();
    await this.logs(/listening/);
  }

  static async start(options: TestDaemonOptions = {}): Promise<TestDaemon> {
    const daemon = new TestDaemon(options);
    if (options.delayed !== true) await daemon.run();
    return daemon;
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** Words that run a command in its network namespace. */
  get inside(): string[] {
    return ["nsenter", `--net=/proc/${this.pid}/ns/net`, "--"];
  }

  get exited(): Promise<number> {
    return this.#process.exited;
  }

  async #read(): Promise<void> {
    for await (const chunk of this.#process.stderr) this.log += new TextDecoder().decode(chunk);
  }

  /** Waits until the log says something. */
  async logs(pattern: RegExp, time = 20_000): Promise<void> {
    await until(
      () => pattern.test(this.log),
      time,
      () => `vmd's log has no ${pattern}:\n${this.log}`,
    );
  }

  /** Runs vctl. @param user as whom. */
  async vctl(args: string[], user?: number): Promise<Result> {
    const child = Bun.spawn([...as(user), process.execPath, VCTL, ...args], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, VMD_SOCKET: this.socket },
      timeout: VCTL_TIMEOUT,
    });
    const [out, err] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    return { code: await child.exited, out, err };
  }

  /** Rows of status, as vctl gives them to programs. */
  // oxlint-disable-next-line typescript/no-explicit-any
  async status(): Promise<any[]> {
    const { out } = await this.vctl(["status", "--json"]);
    return JSON.parse(out);
  }

  /** Types at a VM's terminal. @returns the next byte that it says */
  async type(name: string, text: string): Promise<number> {
    const [{ tty }] = (await this.status()).filter((vm) => vm.name === name);
    const terminal = openSync(tty, constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOCTTY);
    try {
      const byte = new Uint8Array(1);
      writeSync(terminal, text);
      for (let i = 0; i < 500; i++) {
        try {
          if (readSync(terminal, byte) === 1) return byte[0];
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
        }
        await Bun.sleep(10);
      }
      throw new Error(`${name} says nothing`);
    } finally {
      closeSync(terminal);
    }
  }

  /** Firmware of a few real-mode instructions at the reset vector; its path. */
  firmware(name: string, code: string): string {
    const bytes = new Uint8Array(4096).fill(0xf4);
    bytes.set(Uint8Array.fromHex(code.replaceAll(" ", "")), 0);
    bytes.set([0xe9, 0x0d, 0xf0], 0xff0); // jmp to offset 0
    const path = join(this.folder, name);
    writeFileSync(path, bytes);
    return path;
  }

  kill(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill("SIGTERM");
    const timer = setTimeout(() => this.#process.kill("SIGKILL"), 40_000);
    await this.#process.exited;
    clearTimeout(timer);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Waits for a condition. @throws Error with what it says when it doesn't come true in time */
export async function until(
  condition: () => boolean,
  time: number,
  otherwise: () => string = () => "it did not come true",
): Promise<void> {
  const end = performance.now() + time;
  while (!condition()) {
    if (performance.now() > end) throw new Error(otherwise());
    await Bun.sleep(10);
  }
}

/** Whether a process is there. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
