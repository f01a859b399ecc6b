/** A share's block in a VM's: a directory, and what of it the guest sees. */
import { basename } from "node:path";
import { GlobError, Whitelist, type WhitelistGlobs } from "../share/whitelist.ts";
import { MOUNT_TAG_MAX } from "../virtio/9p.ts";
import type { ConfigShare } from "./config.ts";
import type { Node } from "./grammar.ts";
import { has, nodes, type Values } from "./values.ts";

const LONGEST_PATH = 1023;

/** Reads a block. Its errors are reported. Without `rw` the guest only reads. */
export function readShare(node: Node, values: Values): ConfigShare {
  const start = { ...values.place };
  const path = values.string(node);
  const whole = values.hasWhole(node, "string");
  if (whole) checkPath(path, values);
  const share: ConfigShare = { path, tag: basename(path), readonly: true, allow: [], deny: [] };
  for (const option of nodes(node, "shareOption")) {
    values.whole(option, () => readOption(share, option, values));
  }
  const length = Buffer.byteLength(share.tag);
  if (length === 0 && whole && path !== "") values.error("a share without a tag", start);
  if (length > MOUNT_TAG_MAX) values.error("share tag too long", start);
  const { allow, deny } = share;
  check({ allow, deny }, values, start);
  return share;
}

function checkPath(path: string, values: Values): void {
  if (path.length > LONGEST_PATH) values.error("share path too long");
  else if (path === "") values.error("missing share path");
  else if (!values.exists(path)) values.error(`share path not found: ${path}`);
}

function readOption(share: ConfigShare, option: Node, values: Values): void {
  if (has(option, "ro") || has(option, "rw")) share.readonly = has(option, "ro");
  else if (has(option, "tagName")) share.tag = values.string(option, "tagName");
  else if (has(option, "userName")) share.user = values.user(values.string(option, "userName"));
  else if (has(option, "allowed")) take(share.allow, values.string(option, "allowed"), values);
  else if (has(option, "denied")) take(share.deny, values.string(option, "denied"), values);
}

// One that can't be read is reported where it is.
function take(globs: string[], glob: string, values: Values): void {
  if (check({ deny: [glob] }, values)) globs.push(glob);
}

function check(globs: WhitelistGlobs, values: Values, place = values.place): boolean {
  try {
    Whitelist.check(globs);
    return true;
  } catch (error) {
    if (!(error instanceof GlobError)) throw error;
    values.error(error.message, place);
    return false;
  }
}
