/**
 * A share's process, as whoever started it sees it.
 *
 * ```ts
 * const share = new ShareHost({ name: "home", root: openShareRoot(path), policy, confine });
 * await share.serving();          // what of its sandbox isn't there
 * share.descriptor                // goes to the VM's process: new ShareClient(descriptor)
 * ```
 */
import { closeSync, constants, openSync } from "node:fs";
import { libraryPath } from "../../vmm/native.ts";
import { programPath } from "../../vmm/root.ts";
import { Accounts } from "../accounts.ts";
import { Channel } from "../channel.ts";
import { ownConfinement } from "../confinement.ts";
import { connectDescriptor } from "../descriptor-socket.ts";
import { environment } from "../environment.ts";
import type { Confinement } from "../vm-messages.ts";
import type { SharePolicy } from "./server.ts";
import { parseFromShare, type ToShare } from "./share-messages.ts";
import { Whitelist } from "./whitelist.ts";

/** O_PATH of open(2). */
export const O_PATH = 0o10000000;

/** A share that there isn't, in one sentence. */
export class ShareError extends Error {
  override name = "ShareError";
}

export interface ShareHostOptions {
  /** For messages. */
  name: string;
  /** Descriptor of the directory. It is closed here. */
  root: number;
  policy: SharePolicy;
  /** Whom it becomes, and is; absent: no sandbox. */
  confine?: Confinement;
}

/** A directory's descriptor. A daemon opens it as the VM's owner instead: with these flags. */
export function openShareRoot(path: string): number {
  try {
    return openSync(path, SHARE_ROOT_FLAGS);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new ShareError(`share ${path}: ${code === "ENOTDIR" ? "it is no directory" : code}`);
  }
}
export const SHARE_ROOT_FLAGS = constants.O_DIRECTORY | O_PATH;

/**
 * Whom a share's files belong to, and who reads them.
 * @param user of `map user`; default: as of VM processes.
 * @throws ShareError
 */
export function shareConfinement(user?: string): Confinement {
  if (user === undefined) return ownConfinement();
  const account = Accounts.read().user(user);
  if (account === undefined) throw new ShareError(`unknown user: ${user}`);
  const { uid, gid } = account;
  if (process.geteuid!() === 0) return { uid, gid };
  if (process.geteuid!() === uid) return {};
  throw new ShareError(`only root can map to user ${user}`);
}

export class ShareHost {
  readonly name: string;
  readonly pid: number;
  /** The client's end of the socket: to be handed over, and closed. */
  readonly descriptor: number;
  /** Resolves when the process is gone. Never rejects. */
  readonly ended: Promise<void>;
  readonly #process: Bun.Subprocess;
  readonly #channel: Channel;
  readonly #serving = Promise.withResolvers<string>();

  /** Starts it. @throws GlobError, or an errno error when there is no process to be had */
  constructor({ name, root, policy, confine }: ShareHostOptions) {
    this.name = name;
    const opened = [root];
    try {
      Whitelist.check(policy);
      const [ours, theirs] = Channel.pair();
      this.#channel = new Channel(ours);
      opened.push(theirs);
      const [client, server] = Channel.pair(true);
      opened.push(client, server);
      const program = [process.execPath, programPath("vmd/share/share-process.ts")];
      const command = confine === undefined ? program : [libraryPath("vmd-launch"), ...program];
      this.#process = Bun.spawn(command, {
        stdio: ["ignore", "ignore", "inherit", theirs],
        env: environment(),
      });
      closeSync(theirs);
      this.descriptor = client;
      const message: ToShare = { kind: "start", policy, confine };
      this.#channel.send(message, [root, server]);
    } catch (error) {
      for (const descriptor of opened) closeSync(descriptor);
      throw error;
    }
    this.pid = this.#process.pid;
    this.#serving.promise.catch(() => {});
    this.ended = this.#process.exited.then(() => this.#fail("its process ended"));
    void connectDescriptor(this.#channel.descriptor, {
      data: (_, data) => this.#hear(data.toString()),
      close: () => {},
    });
  }

  /** Resolves when it serves, with what of its sandbox isn't there. @throws ShareError */
  async serving(): Promise<string> {
    return await this.#serving.promise;
  }

  /** Ends it. Its client sees the end of its socket. */
  stop(): void {
    this.#process.kill("SIGKILL");
  }

  #hear(text: string): void {
    const message = parseFromShare(text);
    if (message?.kind === "serving") {
      this.#serving.resolve(message.unconfined);
      return;
    }
    this.#fail(message?.message ?? "its process says what is no message");
    this.stop();
  }

  #fail(why: string): void {
    this.#serving.reject(new ShareError(`share ${this.name}: ${why}`));
  }
}
