/**
 * Into the background: the same command again with -d, in a session of its own. The first ends when
 * the second listens, or with its complaints when it doesn't; from then on the log goes through
 * logger(1) to the system's.
 */
import { closeSync, readSync, writeSync } from "node:fs";
import { daemonLibrary } from "../../vmm/native.ts";
import { Channel, pollInput } from "../channel.ts";
import type { Log } from "./log.ts";

/** Where a daemon in the background says that it listens. */
const READY = 3;

/** @returns the exit code of the command. */
export async function detach(): Promise<number> {
  const [ours, theirs] = Channel.pair(true);
  const child = Bun.spawn([process.execPath, Bun.main, ...process.argv.slice(2), "-d"], {
    // Not ours: whoever waits for its end would wait for the daemon's.
    stdio: ["ignore", "ignore", "pipe", theirs],
    detached: true,
    env: { ...process.env, VMD_READY: "yes" },
  });
  closeSync(theirs);
  pollInput(ours, -1);
  let said = 0;
  try {
    said = readSync(ours, new Uint8Array(1));
  } catch {
    // It is gone.
  }
  if (said === 1) {
    child.unref();
    return 0;
  }
  writeSync(2, await new Response(child.stderr).text());
  return (await child.exited) || 1;
}

/** Tells whoever put this daemon into the background that it listens. */
export function ready(log: Log): void {
  if (process.env.VMD_READY !== "yes") return;
  if (Bun.which("logger") !== null) {
    const logger = Bun.spawn(["logger", "-t", "vmd", "-p", "daemon.info"], {
      stdio: ["pipe", "ignore", "ignore"],
    });
    logger.unref();
    log.to((line) => {
      void logger.stdin.write(line.replace(/^vmd: /, ""));
      void logger.stdin.flush();
    });
  }
  writeSync(READY, "1");
  closeSync(READY);
  daemonLibrary().vmm_silence();
}
