/**
 * The process of a share. It is told on descriptor 3 what of which directory it serves, confines
 * itself to that, and serves it to the one client at the other end of its socket. It ends when that
 * is gone, or whoever started it.
 */
import { NativeError, processLibrary, ptr, shareLibrary } from "../../vmm/native.ts";
import { Channel } from "../channel.ts";
import { confine } from "../confine.ts";
import { SandboxError } from "../sandbox.ts";
import { Refusal } from "./errno.ts";
import { Files } from "./files.ts";
import { Server, type SharePolicy } from "./server.ts";
import type { FromShare, ToShare } from "./share-messages.ts";
import { MessageStream } from "./stream.ts";
import { GlobError } from "./whitelist.ts";

const CHANNEL = 3;
const INPUT = 1;
const ROOM = 2;

/** A directory that can't be shared so. */
class ShareProcessError extends Error {
  override name = "ShareProcessError";
}

// File systems where a name is found by others, too: msdos, exfat, ntfs, ntfs3, hfs, hfsplus, smb,
// cifs, smb2. A denied one would be.
const CASELESS = new Set([
  0x4d44, 0x2011bab0, 0x5346544e, 0x7366746e, 0x4244, 0x482b, 0x517b, 0xff534d42, 0xfe534d42,
]);

function checkNames(files: Files, { allow = [], deny = [] }: SharePolicy): void {
  const [type] = files.space();
  if (allow.length + deny.length > 0 && CASELESS.has(Number(BigInt.asUintN(32, type)))) {
    throw new ShareProcessError(
      "its file system has several names for a file, so allow and deny would not hold",
    );
  }
}

/** Sleeps until the socket has what is waited for. Ends with whoever started this. */
function wait(channel: Channel, descriptor: number, event: number): void {
  const events = Int32Array.of(INPUT, event);
  processLibrary().vmm_poll(ptr(Int32Array.of(channel.descriptor, descriptor)), ptr(events), 2, -1);
  if (events[0] !== 0 && channel.receive() === "end") process.exit(0);
}

function serve(channel: Channel, server: Server, descriptor: number): never {
  const stream = new MessageStream(descriptor);
  for (;;) {
    const request = stream.next();
    if (request !== undefined) stream.send(server.handle(request));
    else if (!stream.ended) wait(channel, descriptor, INPUT);
    // Who doesn't take replies can't make requests.
    while (stream.backlog > 0 && !stream.ended) {
      wait(channel, descriptor, ROOM);
      stream.flush();
    }
    if (stream.ended) process.exit(0);
  }
}

function main(): void {
  const channel = new Channel(CHANNEL);
  let received = channel.receive();
  while (received === "none") {
    channel.wait();
    received = channel.receive();
  }
  if (received === "end") process.exit(0);
  const { policy, confine: confinement } = JSON.parse(received.text) as ToShare;
  const [root, descriptor] = received.descriptors;
  try {
    shareLibrary();
    // The guest has said which permissions are kept from whom.
    process.umask(0);
    const files = new Files(root);
    checkNames(files, policy);
    const server = new Server(files, policy);
    const tree = { root, writable: policy.readonly !== true };
    const unconfined = confine(confinement, "share", tree);
    channel.send({ kind: "serving", unconfined } satisfies FromShare);
    serve(channel, server, descriptor);
  } catch (error) {
    const expected = [NativeError, SandboxError, GlobError, Refusal, ShareProcessError];
    const message = expected.some((kind) => error instanceof kind)
      ? (error as Error).message
      : `internal error: ${(error as Error).stack ?? error}`;
    channel.send({ kind: "failed", message } satisfies FromShare);
    process.exit(1);
  }
}

main();
