/** Whatever bytes a guest sends: an answer, of the request's tag, that fits. Nothing outside happens. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import fc from "fast-check";
import {
  decodeReply,
  encodeRequest,
  NONE,
  type RequestKind,
  type RequestOf,
  tagOf,
  VERSION,
} from "./messages.ts";
import { Client, Folder, setattr } from "./testing.ts";

setDefaultTimeout(120_000);
const RUNS = 20_000;
const MSIZE = 8192;

let folder: Folder;
let client: Client;

beforeAll(() => {
  folder = new Folder();
  mkdirSync(folder.at("outside"));
  writeFileSync(folder.at("outside/secret"), "the secret");
  mkdirSync(folder.at("root/a/b"), { recursive: true });
  mkdirSync(folder.at("root/denied"));
  writeFileSync(folder.at("root/denied/secret"), "the secret");
  writeFileSync(folder.at("root/a/f"), "file");
  symlinkSync("../outside", folder.at("root/link"));
  const policy = { deny: ["denied", "**/*secret*"], symlinks: true };
  client = new Client(folder.at("root"), policy, MSIZE);
});

afterAll(() => {
  client[Symbol.dispose]();
  folder[Symbol.dispose]();
});

const fid = fc.oneof({ weight: 8, arbitrary: fc.nat(5) }, fc.constantFrom(NONE, 6, 7));
const name = fc.oneof(
  fc.constantFrom(
    "a",
    "b",
    "f",
    "link",
    "denied",
    "secret",
    "..",
    ".",
    "",
    "x",
    "a/b",
    "../outside",
  ),
  fc.string({ unit: fc.nat(255).map((code) => String.fromCharCode(code)), maxLength: 8 }),
);
const u32 = fc.oneof(fc.nat(0o7777), fc.nat(0xffffffff));
const u64 = fc.oneof(
  fc.bigInt(0n, 100n),
  fc.constantFrom(2n ** 31n, 2n ** 32n, 2n ** 62n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 1n),
  fc.bigInt(0n, 2n ** 64n - 1n),
);
// No sizes that fill the disk.
const size = fc.oneof(fc.bigInt(0n, 100_000n), fc.constantFrom(2n ** 63n, 2n ** 64n - 1n));
const flags = fc.oneof(fc.constantFrom(0, 1, 2, 3, 0o1002, 0o200, 0o2001), u32);

const kinds: { [K in RequestKind]: fc.Arbitrary<RequestOf<K>> } = {
  version: fc.record({ msize: fc.constant(MSIZE), version: fc.constant(VERSION) }),
  auth: fc.record({ afid: fid, uname: name, aname: name, n_uname: u32 }),
  attach: fc.record({
    fid: fc.nat(5),
    afid: fc.constant(NONE),
    uname: name,
    aname: fc.constantFrom("", "/", "a"),
    n_uname: u32,
  }),
  flush: fc.record({ oldtag: fc.nat(0xffff) }),
  walk: fc.record({ fid, newfid: fid, wname: fc.array(name, { maxLength: 16 }) }),
  read: fc.record({ fid, offset: u64, count: u32 }),
  write: fc.record({ fid, offset: size, data: fc.uint8Array({ maxLength: 100 }) }),
  clunk: fc.record({ fid }),
  remove: fc.record({ fid }),
  statfs: fc.record({ fid }),
  lopen: fc.record({ fid, flags }),
  lcreate: fc.record({ fid, name, flags, mode: u32, gid: u32 }),
  symlink: fc.record({ dfid: fid, name, symtgt: name, gid: u32 }),
  mknod: fc.record({ dfid: fid, name, mode: u32, major: u32, minor: u32, gid: u32 }),
  rename: fc.record({ fid, dfid: fid, name }),
  readlink: fc.record({ fid }),
  getattr: fc.record({ fid, request_mask: u64 }),
  setattr: fc
    .tuple(fid, fc.nat(0x1ff), u32, size, u64, u64)
    .map(([fid, valid, mode, size, atime_sec, atime_nsec]) =>
      // The owner can always come back in.
      setattr(fid, { valid, mode: mode | 0o700, size, atime_sec, atime_nsec }),
    ),
  xattrwalk: fc.record({ fid, newfid: fid, name }),
  xattrcreate: fc.record({ fid, name, attr_size: u64, flags: u32 }),
  readdir: fc.record({ fid, offset: u64, count: u32 }),
  fsync: fc.record({ fid, datasync: u32 }),
  lock: fc.record({
    fid,
    type: fc.nat(255),
    flags,
    start: u64,
    length: u64,
    proc_id: u32,
    client_id: name,
  }),
  getlock: fc.record({
    fid,
    type: fc.nat(255),
    start: u64,
    length: u64,
    proc_id: u32,
    client_id: name,
  }),
  link: fc.record({ dfid: fid, fid, name }),
  mkdir: fc.record({ dfid: fid, name, mode: u32, gid: u32 }),
  renameat: fc.record({ olddirfid: fid, oldname: name, newdirfid: fid, newname: name }),
  unlinkat: fc.record({ dirfd: fid, name, flags: fc.constantFrom(0, 0x200, 0x400) }),
};

const buffer = new Uint8Array(65536);
const request = fc.oneof(
  ...Object.entries(kinds).map(([kind, values]) =>
    fc
      .tuple(values as fc.Arbitrary<never>, fc.nat(0xffff))
      .map(([values, tag]) => encodeRequest(buffer, kind as RequestKind, tag, values).slice()),
  ),
);

/** What becomes of a message's bytes. */
const mutation = fc.record({
  at: fc.nat(),
  value: fc.nat(255),
  how: fc.constantFrom("none", "none", "none", "none", "byte", "cut", "longer", "sized cut"),
});

function mutate(
  message: Uint8Array,
  { at, value, how }: { at: number; value: number; how: string },
): Uint8Array {
  const place = at % message.length;
  if (how === "byte") message[place] = value;
  if (how === "longer") return new Uint8Array([...message, value]);
  if (!how.endsWith("cut")) return message;
  const cut = message.slice(0, place);
  if (how === "sized cut" && cut.length >= 4) new DataView(cut.buffer).setUint32(0, place, true);
  return cut;
}

function check(message: Uint8Array): boolean {
  const reply = client.server.handle(message);
  expect(reply.length).toBeLessThanOrEqual(MSIZE);
  const decoded = decodeReply(reply);
  expect(decoded.tag).toBe(tagOf(message));
  expect(Buffer.from(reply).includes("the secret")).toBe(false);
  return decoded.kind !== "lerror";
}

const attach = () => {
  client.ask("version", { msize: MSIZE, version: VERSION });
  client.ask("attach", { fid: 0, afid: NONE, uname: "", aname: "", n_uname: 0 });
  // Some are there, some open; if what they are of is still there.
  const walk = (newfid: number, ...wname: string[]) =>
    client.send("walk", { fid: 0, newfid, wname });
  walk(1, "a");
  walk(2, "a", "f");
  walk(3, "a");
  walk(4);
  client.send("lcreate", { fid: 4, name: "f", flags: 2, mode: 0o600, gid: 0 });
  client.send("lopen", { fid: 3, flags: 0 });
};

/** The messages before may have put something else in its place. */
function renewFolder(path: string): void {
  if (lstatSync(path, { throwIfNoEntry: false })?.isDirectory() === true) return;
  rmSync(path, { recursive: true, force: true });
  mkdirSync(path);
}

describe(`${RUNS} messages`, () => {
  test("of any bytes", () => {
    attach();
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (message) => {
        const sized = message.slice();
        if (sized.length >= 4) new DataView(sized.buffer).setUint32(0, sized.length, true);
        check(message);
        check(sized);
      }),
      { numRuns: RUNS / 2 },
    );
  });

  test("of every kind, as they should be or not", () => {
    let done = 0;
    let sent = 0;
    fc.assert(
      fc.property(
        fc.array(fc.tuple(request, mutation), { minLength: 10, maxLength: 10 }),
        (messages) => {
          attach();
          for (const path of ["root/a", "root/a/b"]) renewFolder(folder.at(path));
          for (const [message, change] of messages) {
            sent++;
            if (check(mutate(message, change))) done++;
          }
        },
      ),
      { numRuns: RUNS / 10 },
    );
    expect(sent).toBeGreaterThanOrEqual(RUNS);
    // They are not all refused.
    expect(done).toBeGreaterThan(RUNS / 20);
    expect(readdirSync(folder.at("outside"))).toEqual(["secret"]);
    expect(readFileSync(folder.at("outside/secret"), "utf8")).toBe("the secret");
    expect(readdirSync(folder.at("root/denied"))).toEqual(["secret"]);
    expect(readdirSync(folder.path).sort()).toEqual(["outside", "root"]);
  });
});
