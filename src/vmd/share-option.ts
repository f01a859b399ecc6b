/** What a share is asked for with, and how that is written on a command line. */
import { MOUNT_TAG_MAX } from "./virtio/9p.ts";

/** A directory that a guest may mount. */
export interface ShareOption {
  path: string;
  /** What the guest mounts it by. */
  tag: string;
  readOnly?: boolean;
  /** Globs of what the guest may see; default: everything. */
  allow?: readonly string[];
  /** ... and of what it may not: these win. */
  deny?: readonly string[];
  /** Whose files the guest's are; only root can say so. Default: as the VM's process. */
  user?: string;
}

/** What is wrong with one, as a sentence; undefined for nothing. */
export function checkShare({ path, tag }: ShareOption): string | undefined {
  if (path === "") return "a share has no path";
  const length = new TextEncoder().encode(tag).length;
  if (length < 1 || length > MOUNT_TAG_MAX) {
    return `share ${path}: its tag has to have 1 to ${MOUNT_TAG_MAX} bytes`;
  }
  return undefined;
}

/** "tag=path,ro,allow=GLOB,deny=GLOB,user=NAME". @returns a sentence when it is wrong. */
export function parseShare(text: string): ShareOption | string {
  const [first, ...rest] = text.split(",");
  const [, tag, path] = /^([^=]+)=(.+)$/.exec(first) ?? [];
  if (tag === undefined) return "it is no share such as home=/home/web,ro,allow=*.txt.";
  const allow: string[] = [];
  const deny: string[] = [];
  const share: ShareOption = { path, tag, readOnly: false, allow, deny };
  for (const word of rest) {
    const [, what, value] = /^(allow|deny|user)=(.+)$/.exec(word) ?? [];
    if (word === "ro" || word === "rw") share.readOnly = word === "ro";
    else if (what === "allow") allow.push(value);
    else if (what === "deny") deny.push(value);
    else if (what === "user") share.user = value;
    else return `${word} is none of ro, rw, allow=GLOB, deny=GLOB, user=NAME.`;
  }
  const wrong = checkShare(share);
  return wrong === undefined ? share : `${wrong}.`;
}
