/** Programs of the host that configure its network: ip(8), nft(8). */

/** A network that can't be had, in one sentence. */
export class NetworkError extends Error {
  override name = "NetworkError";
}

/** Debian's packages that programs come with. */
const PACKAGES: Record<string, string> = { ip: "iproute2", nft: "nftables", passt: "passt" };
/** Longer than any of them takes, ms. */
const TIMEOUT = 10_000;

/** A program of the host that is missing. */
export function missing(program: string, purpose: string): NetworkError {
  const from = PACKAGES[program];
  return new NetworkError(`${purpose} needs the program ${program}: install the package ${from}`);
}

/** The environment they run with: a daemon's may lack the administrator's programs, and have a language. */
export function commandEnvironment(): Record<string, string> {
  return { PATH: `${process.env.PATH ?? "/usr/bin:/bin"}:/usr/sbin:/sbin`, LC_ALL: "C" };
}

export interface CommandOptions {
  /** What it reads from standard input. */
  input?: string;
  /** What for: the subject of the sentence that says that it is missing. */
  purpose: string;
}

/** Runs a program to its end. @returns what it printed. @throws NetworkError when it fails */
export function runCommand(command: readonly string[], options: CommandOptions): string {
  const { code, out, err } = tryCommand(command, options);
  if (code === 0) return out;
  const [why = ""] = err.split("\n").filter((line) => line !== "");
  throw new NetworkError(
    `${command.join(" ")}: ${why.replace(/^(?:RTNETLINK answers|Error): /, "")}`,
  );
}

/** Runs a program to its end, which may be a failure. @throws NetworkError when it is missing */
export function tryCommand(
  command: readonly string[],
  { input = "", purpose }: CommandOptions,
): { code: number | null; out: string; err: string } {
  const env = commandEnvironment();
  const path = Bun.which(command[0], { PATH: env.PATH });
  if (path === null) throw missing(command[0], purpose);
  const { exitCode, stdout, stderr } = Bun.spawnSync([path, ...command.slice(1)], {
    stdin: new TextEncoder().encode(input),
    stdout: "pipe",
    stderr: "pipe",
    env,
    timeout: TIMEOUT,
  });
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
}
