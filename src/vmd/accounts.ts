/** Users and groups of this host, from passwd(5) and group(5) files. */
import { readFileSync, statSync } from "node:fs";

/** So long a file may be written again without another time of change, ms. */
const MOMENT = 50;

/** A user. */
export interface User {
  name: string;
  uid: number;
  gid: number;
}

/** A group, with the names of its members. */
export interface Group {
  name: string;
  gid: number;
  members: string[];
}

export class Accounts {
  readonly #users: readonly User[];
  readonly #groups: readonly Group[];

  constructor(users: readonly User[], groups: readonly Group[]) {
    this.#users = users;
    this.#groups = groups;
  }

  /** As the files say now; a file that can't be read has nobody. */
  static read(passwd = "/etc/passwd", group = "/etc/group"): Accounts {
    const users = lines(passwd).map(([name, , uid, gid]) => ({
      name,
      uid: Number(uid),
      gid: Number(gid),
    }));
    const groups = lines(group).map(([name, , gid, members = ""]) => ({
      name,
      gid: Number(gid),
      members: members.split(",").filter(Boolean),
    }));
    return new Accounts(
      users.filter(({ uid, gid }) => Number.isInteger(uid) && Number.isInteger(gid)),
      groups.filter(({ gid }) => Number.isInteger(gid)),
    );
  }

  user(name: string): User | undefined {
    return this.#users.find((user) => user.name === name);
  }

  group(name: string): Group | undefined {
    return this.#groups.find((group) => group.name === name);
  }

  userName(uid: number): string {
    return this.#users.find((user) => user.uid === uid)?.name ?? `${uid}`;
  }

  groupName(gid: number): string {
    return this.#groups.find((group) => group.gid === gid)?.name ?? `${gid}`;
  }

  /** All groups that a user is in. @param gid the one that it has anyway. */
  groupsOf(uid: number, gid: number): number[] {
    const user = this.#users.find((one) => one.uid === uid);
    const named = user === undefined ? [] : this.#groups.filter(isMember(user.name));
    const own = user === undefined ? [gid] : [gid, user.gid];
    return [...new Set([...own, ...named.map((group) => group.gid)])];
  }
}

/** What a host's files say, which may change while a daemon runs for months. */
export class HostAccounts {
  readonly #paths: readonly [passwd: string, group: string];
  #read: { state: string; accounts: Accounts } | undefined;

  constructor(passwd = "/etc/passwd", group = "/etc/group") {
    this.#paths = [passwd, group];
  }

  /** As they are now: they are read again where they are others, or were written a moment ago. */
  now(): Accounts {
    const states = this.#paths.map(stateOf);
    const state = states.map(({ text }) => text).join(" ");
    const settled = states.every(({ at }) => Date.now() - at > MOMENT);
    if (this.#read?.state !== state) {
      // What is being written is looked at again.
      this.#read = { state: settled ? state : "", accounts: Accounts.read(...this.#paths) };
    }
    return this.#read.accounts;
  }
}

/** @returns what is another when it was written, and when that was, ms since 1970 */
function stateOf(path: string): { text: string; at: number } {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs, ctimeMs } = statSync(path, { bigint: true });
    return { text: [dev, ino, size, mtimeNs, ctimeNs].join(":"), at: Number(ctimeMs) };
  } catch {
    return { text: "none", at: 0 };
  }
}

const isMember = (name: string) => (group: Group) => group.members.includes(name);

function lines(path: string): string[][] {
  try {
    return readFileSync(path, "utf8")
      .split("\n")
      .filter((line) => line.includes(":"))
      .map((line) => line.split(":"));
  } catch {
    return [];
  }
}
