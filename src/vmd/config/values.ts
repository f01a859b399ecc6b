/** Reads words of the grammar's tree: strings, numbers, names; and says what is wrong with them. */
import type { IToken } from "chevrotain";
import type { Accounts } from "../accounts.ts";
import type { ConfigOwner, Place } from "./config.ts";
import type { Node } from "./grammar.ts";
import type { Messages } from "./messages.ts";
import { type PlacedToken, text } from "./source.ts";

const LONGEST_GROUP = 15;
/** The last is "nobody in particular". */
const LAST_ID = 2 ** 32 - 2;

/** Whether a file is there; tests have another. */
export type PathCheck = (path: string) => boolean;

export interface Surroundings {
  /** Who the users and groups are. */
  accounts: Accounts;
  exists: PathCheck;
  messages: Messages;
}

export function nodes(node: Node, name: string): Node[] {
  return (node.children[name] ?? []).filter((child): child is Node => "children" in child);
}

export const has = (node: Node, name: string) => (node.children[name]?.length ?? 0) > 0;

/** All tokens of a node, in order. */
function leaves(node: Node): PlacedToken[] {
  const found = Object.values(node.children)
    .flat()
    .flatMap((child) => {
      if (child === undefined) return [];
      return "children" in child ? leaves(child) : [child as PlacedToken];
    });
  return found.filter(isReal).sort((a, b) => a.startOffset - b.startOffset);
}

/** Whether something is wrong anywhere in it. */
export function isBroken(node: Node): boolean {
  if (node.recoveredNode === true) return true;
  return Object.values(node.children).some((children) =>
    children?.some((child) => ("children" in child ? isBroken(child) : !isReal(child))),
  );
}

// The parser makes tokens up where some are missing.
const isReal = (token: IToken) => token.payload !== undefined;

export class Values {
  readonly #accounts: Accounts;
  readonly #messages: Messages;
  readonly exists: PathCheck;
  /** Of the words at hand. */
  place: Place = { file: "", line: 1 };

  constructor({ accounts, exists, messages }: Surroundings) {
    this.#accounts = accounts;
    this.#messages = messages;
    this.exists = exists;
  }

  error(message: string, place: Place = this.place): void {
    this.#messages.error(place, message);
  }

  warning(message: string): void {
    this.#messages.warning(this.place, message);
  }

  /** Looks at a statement; one that was broken is reported already. */
  whole(node: Node, look: () => void): void {
    if (!isBroken(node)) this.block(node, look);
  }

  /** Looks at a block, broken or not: its statements are looked at each by itself. */
  block(node: Node, look: () => void): void {
    const [first] = leaves(node);
    if (first !== undefined) this.place = first.payload;
    look();
  }

  /** Whether a node has such a part, and all of it. */
  hasWhole(node: Node, label: string): boolean {
    return has(node, label) && !nodes(node, label).some(isBroken);
  }

  /** Adjacent strings are one. */
  string(node: Node, label = "string"): string {
    const [string] = nodes(node, label);
    const parts = string === undefined ? [] : leaves(string);
    if (parts.length > 0) this.place = parts[0].payload;
    return parts.map((token) => text(token) ?? "").join("");
  }

  /** @returns undefined, and says so, for what isn't within its bounds. */
  number(value: string, what: string, low: number, high: number): number | undefined {
    const number = /^[0-9]{1,10}$/.test(value) ? Number(value) : Number.NaN;
    if (number >= low && number <= high) return number;
    this.error(`invalid ${what}: ${value}`);
    return undefined;
  }

  /** "user", "user:group" or ":group"; names or numbers. */
  owner(value: string): ConfigOwner {
    const [user, group, ...rest] = value.split(":");
    if (value === "" || value === ":" || rest.length > 0) this.error(`invalid owner: ${value}`);
    const owner: ConfigOwner = {};
    if (user !== "") {
      owner.user = user;
      owner.uid = this.#id(user, this.#accounts.user(user)?.uid);
      if (owner.uid === undefined) this.error(`unknown user: ${user}`);
    }
    if (group !== undefined && value !== ":") {
      owner.group = group;
      owner.gid = this.#id(group, this.#accounts.group(group)?.gid);
      if (owner.gid === undefined) this.error(`unknown group: ${group}`);
    }
    return owner;
  }

  #id(name: string, known: number | undefined): number | undefined {
    if (known !== undefined) return known;
    const id = /^[0-9]{1,10}$/.test(name) ? Number(name) : Number.NaN;
    return id <= LAST_ID ? id : undefined;
  }

  /** A group of network interfaces. */
  group(value: string): string {
    if (value === "" || value.length > LONGEST_GROUP) this.error(`invalid group name: ${value}`);
    else if (/[0-9]$/.test(value)) {
      this.error(`invalid group name: ${value} (it must not end in a digit)`);
    }
    return value;
  }

  rdomain(value: string): number | undefined {
    return this.number(value, "rdomain", 0, 255);
  }
}
