/** One session a folder at a time: a file with its process' id and start time, which no other process has. */
import { linkSync, readFileSync, rmSync, writeFileSync } from "node:fs";

/** Field 22 of /proc/PID/stat (proc(5)); undefined if there is no such process. */
function startTime(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The second field is a name in parentheses, with anything in it.
    return text.slice(text.lastIndexOf(")") + 2).split(" ")[19];
  } catch {
    return undefined;
  }
}

/**
 * Takes the lock at `path`: undefined, or the id of the process that has it. One whose process is gone is
 * taken over.
 */
export function takeLock(path: string): number | undefined {
  // A link makes it appear with its text.
  const own = `${path}.${process.pid}`;
  writeFileSync(own, `${process.pid} ${startTime(process.pid)}\n`);
  try {
    return tryLock(path, own);
  } finally {
    rmSync(own, { force: true });
  }
}

function holder(path: string): string[] {
  try {
    return readFileSync(path, "utf8").trim().split(" ");
  } catch {
    // It was released meanwhile.
    return [];
  }
}

function tryLock(path: string, own: string): number | undefined {
  for (let tries = 0; tries < 3; tries++) {
    try {
      linkSync(own, path);
      return undefined;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    const [pid, started] = holder(path);
    if (started !== undefined && startTime(Number(pid)) === started) return Number(pid);
    rmSync(path, { force: true });
  }
  return 0;
}

export function releaseLock(path: string): void {
  rmSync(path, { force: true });
}
