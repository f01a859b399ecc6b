/** Where the control socket is: root's daemon has one for all, a user's its own. */
import { accessSync, constants, existsSync, statSync } from "node:fs";
import { dirname, join } from "node:path";

export const SYSTEM_SOCKET = "/var/run/vmd.sock";

/** Of a user's own daemon. */
export function userSocket(): string {
  const uid = process.geteuid!();
  const runtime = process.env.XDG_RUNTIME_DIR;
  return join(runtime !== undefined && runtime !== "" ? runtime : `/tmp/vmd-${uid}`, "vmd.sock");
}

/** Where a daemon of this user listens. */
export function defaultSocket(): string {
  return process.env.VMD_SOCKET ?? (process.geteuid!() === 0 ? SYSTEM_SOCKET : userSocket());
}

/** Where a client of this user looks: a user may use the system's daemon where it may reach it. */
export function clientSocket(): string {
  const { VMD_SOCKET } = process.env;
  if (VMD_SOCKET !== undefined) return VMD_SOCKET;
  if (process.geteuid!() === 0) return SYSTEM_SOCKET;
  const own = userSocket();
  if (existsSync(own)) return own;
  return usable(SYSTEM_SOCKET) ? SYSTEM_SOCKET : own;
}

function usable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/**
 * Why a socket's folder can't be trusted: somebody else could put another socket there.
 * @returns a sentence, or undefined.
 */
export function distrust(socket: string): string | undefined {
  const folder = dirname(socket);
  const status = statSync(folder, { throwIfNoEntry: false });
  if (status === undefined) return undefined;
  if (status.uid !== 0 && status.uid !== process.geteuid!()) {
    return `${folder}: belongs to another user`;
  }
  const sticky = (status.mode & 0o1000) !== 0;
  if ((status.mode & 0o022) !== 0 && !sticky) return `${folder}: others may write there`;
  return undefined;
}
