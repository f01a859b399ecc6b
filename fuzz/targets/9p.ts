import {
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Files } from "../../src/vmd/share/files.ts";
import {
  decodeReply,
  encodeRequest,
  NONE,
  type RequestKind,
  type RequestOf,
  tagOf,
  VERSION,
} from "../../src/vmd/share/messages.ts";
import { Server } from "../../src/vmd/share/server.ts";
import { setattr } from "../../src/vmd/share/testing.ts";
import { Choices } from "../own/choices.ts";
import { must, type Target } from "../own/target.ts";

const O_PATH = 0o10000000;
const MSIZE = 8192;
const SECRET = "the secret";
const EIO = 5;
/** Bytes of a message, without its size. */
const MESSAGE_MAX = 255;

// In memory where that can be: no disk is waited for, and a directory has the same order each time.
const MEMORY = "/dev/shm";
const folder = mkdtempSync(join(existsSync(MEMORY) ? MEMORY : tmpdir(), "fuzz-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
mkdirSync(join(folder, "outside"));
writeFileSync(join(folder, "outside/secret"), SECRET);
const root = join(folder, "root");

/** The shared directory, as new. */
function fresh(): void {
  rmSync(root, { recursive: true, force: true });
  mkdirSync(join(root, "a/b"), { recursive: true });
  mkdirSync(join(root, "denied"));
  writeFileSync(join(root, "denied/secret"), SECRET);
  writeFileSync(join(root, "a/f"), "file");
  symlinkSync("../outside", join(root, "link"));
}

const buffer = new Uint8Array(65536);

function message<K extends RequestKind>(kind: K, values: RequestOf<K>): Uint8Array {
  const bytes = encodeRequest(buffer, kind, 7, values).slice();
  must(bytes.length - 4 <= MESSAGE_MAX, "a seed is too long");
  return bytes;
}

/** Messages as an input has them: a length, and all behind the message's own size. */
function sequence(...messages: Uint8Array[]): Uint8Array {
  return Uint8Array.from(messages.flatMap((one) => [one.length - 4, ...one.subarray(4)]));
}

const walk = (newfid: number, ...wname: string[]) => message("walk", { fid: 0, newfid, wname });

export const target: Target = {
  name: "9p",
  about: "a share's server: an answer of the request's tag, that fits, and nothing hidden is told",
  maxInput: 1024,
  *seeds() {
    const f = walk(1, "a", "f");
    const open = message("lopen", { fid: 1, flags: 2 });
    const all = [
      [message("getattr", { fid: 1, request_mask: 0x3fffn })],
      [message("setattr", setattr(1, { valid: 8, size: 10n }))],
      [open, message("read", { fid: 1, offset: 0n, count: 100 })],
      [open, message("write", { fid: 1, offset: 2n, data: new Uint8Array(9) })],
      [open, message("fsync", { fid: 1, datasync: 0 })],
      [message("remove", { fid: 1 })],
      [message("link", { dfid: 0, fid: 1, name: "l" })],
      [message("rename", { fid: 1, dfid: 0, name: "r" })],
      [message("statfs", { fid: 0 }), message("clunk", { fid: 1 })],
    ];
    for (const one of all) yield sequence(f, ...one);
    yield sequence(walk(2, "a"), message("lopen", { fid: 2, flags: 0 }), readdir(2), readdir(2));
    yield sequence(walk(3), create(3, "new"), message("write", { fid: 3, offset: 0n, data: SIX }));
    yield sequence(message("mkdir", { dfid: 0, name: "d", mode: 0o755, gid: 0 }), walk(4, "d"));
    yield sequence(walk(5, "link"), message("readlink", { fid: 5 }), walk(6, "link", "secret"));
    yield sequence(walk(7, "denied"), walk(8, "a", "..", ".."), create(0, "secret"));
    yield sequence(message("symlink", { dfid: 0, name: "s", symtgt: "a/f", gid: 0 }), walk(9, "s"));
    yield sequence(
      message("renameat", { olddirfid: 0, oldname: "a", newdirfid: 0, newname: "z" }),
      message("unlinkat", { dirfd: 0, name: "z", flags: 0x200 }),
    );
    yield sequence(message("mknod", { dfid: 0, name: "n", mode: 0, major: 1, minor: 3, gid: 0 }));
  },
  run(input) {
    fresh();
    const descriptor = openSync(root, constants.O_DIRECTORY | O_PATH);
    const server = new Server(new Files(descriptor), {
      deny: ["denied", "**/*secret*"],
      symlinks: true,
    });
    try {
      server.handle(message("version", { msize: MSIZE, version: VERSION }));
      server.handle(message("attach", { fid: 0, afid: NONE, uname: "", aname: "", n_uname: 0 }));
      converse(server, new Choices(input));
    } finally {
      server[Symbol.dispose]();
      closeSync(descriptor);
    }
    must(
      readFileSync(join(folder, "outside/secret"), "latin1") === SECRET,
      "a file outside changed",
    );
    must(readdirSync(join(folder, "outside")).length === 1, "a file outside came, or went");
    must(readdirSync(join(root, "denied")).join() === "secret", "a hidden directory changed");
  },
};

function converse(server: Server, choices: Choices): void {
  for (let count = 0; count < 32 && !choices.ended; count++) {
    const length = choices.u8();
    const body = choices.take(length);
    const request = new Uint8Array(4 + body.length);
    request.set(body, 4);
    // Its own size, but for short ones.
    new DataView(request.buffer).setUint32(0, length < 3 ? length : request.length, true);
    const reply = server.handle(request);
    must(reply.length <= MSIZE, `a reply of ${reply.length} bytes`);
    const decoded = decodeReply(reply);
    must(decoded.tag === tagOf(request), `tag ${tagOf(request)} is answered as ${decoded.tag}`);
    must(!Buffer.from(reply).includes(SECRET), "what is hidden was told");
    // Nothing here fails but by a mistake of the server's.
    must(decoded.kind !== "lerror" || decoded.ecode !== EIO, "an error that no rule is behind");
    must(server.fids < 1000, "fids without a bound");
  }
}

const SIX = new Uint8Array(6).fill(0x61);

function readdir(fid: number): Uint8Array {
  return message("readdir", { fid, offset: 0n, count: 500 });
}

function create(fid: number, name: string): Uint8Array {
  return message("lcreate", { fid, name, flags: 2, mode: 0o644, gid: 0 });
}
