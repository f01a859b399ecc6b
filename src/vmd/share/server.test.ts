/** The server against the protocol, on a real directory. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { Files } from "./files.ts";
import { OPEN_MAX } from "./fids.ts";
import { decodeReply, encodeRequest, MSIZE_MAX, NONE, VERSION } from "./messages.ts";
import { Server } from "./server.ts";
import { Client, Folder, openRoot, parseEntries, setattr } from "./testing.ts";

let folder: Folder;
let client: Client;

beforeEach(() => {
  folder = new Folder();
  mkdirSync(folder.at("dir/sub"), { recursive: true });
  writeFileSync(folder.at("file"), "hello");
  writeFileSync(folder.at("dir/inner"), "inside");
  symlinkSync("dir/inner", folder.at("link"));
  client = new Client(folder.path);
});

afterEach(() => {
  client[Symbol.dispose]();
  folder[Symbol.dispose]();
});

describe("a session", () => {
  const bare = () => new Server(new Files(openRoot(folder.path)));
  const buffer = new Uint8Array(8192);
  const version = (server: Server, msize: number, version: string) =>
    decodeReply(server.handle(encodeRequest(buffer, "version", 0xffff, { msize, version })));

  test("begins with a version", () => {
    const server = bare();
    const attach = { fid: 0, afid: NONE, uname: "", aname: "", n_uname: 0 };
    const early = server.handle(encodeRequest(buffer, "attach", 1, attach));
    expect(decodeReply(early)).toMatchObject({ kind: "lerror", ecode: 71, tag: 1 });
    expect(version(server, 2 ** 31, VERSION)).toMatchObject({ msize: MSIZE_MAX, version: VERSION });
    expect(version(server, 9000, VERSION)).toMatchObject({ msize: 9000, tag: 0xffff });
    expect(version(server, 8191, VERSION)).toMatchObject({ kind: "lerror", ecode: 90 });
    expect(version(server, 9000, "9P2000.u")).toMatchObject({ version: "unknown" });
    expect(version(server, 9000, "9P2000.L.x")).toMatchObject({ version: "unknown" });
    expect(decodeReply(server.handle(encodeRequest(buffer, "attach", 1, attach))).kind).toBe(
      "lerror",
    );
  });

  test("ends with the next version: its fids are gone", () => {
    client.open("file");
    expect(client.server.fids).toBe(2);
    client.ask("version", { msize: 8192, version: VERSION });
    expect(client.server.fids).toBe(0);
    expect(client.error("clunk", { fid: 0 })).toBe("EBADF");
  });

  test("has no authentication, and one tree", () => {
    const attach = { fid: 50, afid: NONE, uname: "root", aname: "", n_uname: 0 };
    expect(client.error("attach", attach)).toBe("done");
    expect(client.error("attach", attach)).toBe("EINVAL");
    expect(client.error("attach", { ...attach, fid: 51, aname: "/etc" })).toBe("ENOENT");
    expect(client.error("attach", { ...attach, fid: 51, afid: 0 })).toBe("EOPNOTSUPP");
    expect(client.error("auth", { afid: 1, uname: "", aname: "", n_uname: 0 })).toBe("EOPNOTSUPP");
  });

  test("a message longer than agreed upon is refused, and replies never are", () => {
    client.ask("version", { msize: 8192, version: VERSION });
    const attach = { fid: 0, afid: NONE, uname: "", aname: "", n_uname: 0 };
    client.ask("attach", attach);
    writeFileSync(folder.at("big"), Buffer.alloc(100_000, "x"));
    const fid = client.open("big", 2);
    expect(client.error("write", { fid, offset: 0n, data: new Uint8Array(8192) })).toBe("EMSGSIZE");
    const { data } = client.ask("read", { fid, offset: 0n, count: 0xffffffff });
    expect(data.length).toBe(8192 - 11);
  });
});

describe("walks", () => {
  test("qids are of directories, files and links", () => {
    const { wqid } = client.ask("walk", { fid: 0, newfid: 9, wname: ["dir", "inner"] });
    expect(wqid.map(({ type }) => type)).toEqual([0x80, 0]);
    expect(Number(wqid[1].path)).toBe(statSync(folder.at("dir/inner")).ino);
    expect(client.ask("walk", { fid: 0, newfid: 8, wname: ["link"] }).wqid[0].type).toBe(2);
  });

  test("that get nowhere are errors; that get somewhere have no fid", () => {
    expect(client.error("walk", { fid: 0, newfid: 9, wname: ["nothing"] })).toBe("ENOENT");
    const { wqid } = client.ask("walk", { fid: 0, newfid: 9, wname: ["dir", "nothing", "x"] });
    expect(wqid).toHaveLength(1);
    expect(client.error("clunk", { fid: 9 })).toBe("EBADF");
    expect(client.error("walk", { fid: 0, newfid: 9, wname: ["file", ".."] })).toBe("done");
    expect(client.error("clunk", { fid: 9 })).toBe("EBADF");
  });

  test("a fid's number is used once, or walks itself", () => {
    const fid = client.walk("dir");
    expect(client.error("walk", { fid: 0, newfid: fid, wname: [] })).toBe("EINVAL");
    expect(client.error("walk", { fid: 0, newfid: NONE, wname: [] })).toBe("EINVAL");
    expect(client.error("walk", { fid, newfid: fid, wname: ["inner"] })).toBe("done");
    client.ask("lopen", { fid, flags: 0 });
    expect(client.error("walk", { fid, newfid: fid, wname: [] })).toBe("EINVAL");
    expect(client.error("walk", { fid, newfid: 70, wname: [] })).toBe("done");
    expect(client.error("lopen", { fid: 70, flags: 0 })).toBe("done");
  });
});

describe("files", () => {
  test("are made, written, read, cut and synced", () => {
    const fid = client.create("dir", "new", { mode: 0o640 });
    expect(client.write(fid, "0123456789")).toBe(10);
    expect(client.write(fid, "ab", 20n)).toBe(2);
    expect(client.error("fsync", { fid, datasync: 0 })).toBe("done");
    expect(client.error("fsync", { fid, datasync: 1 })).toBe("done");
    expect(client.error("setattr", setattr(fid, { valid: 8, size: 12n }))).toBe("done");
    expect(readFileSync(folder.at("dir/new"), "latin1")).toBe("0123456789\0\0");
    expect(statSync(folder.at("dir/new")).mode & 0o7777).toBe(0o640 & ~process.umask());
    const { data } = client.ask("read", { fid, offset: 8n, count: 100 });
    expect(Buffer.from(data).toString("latin1")).toBe("89\0\0");
    expect(client.ask("read", { fid, offset: 2n ** 40n, count: 100 }).data).toHaveLength(0);
    expect(client.error("read", { fid, offset: 2n ** 63n, count: 100 })).toBe("EINVAL");
    const data1 = Uint8Array.of(1);
    expect(client.error("write", { fid, offset: 2n ** 63n, data: data1 })).toBe("EFBIG");
    expect(client.error("write", { fid, offset: 2n ** 64n - 1n, data: data1 })).toBe("EFBIG");
    expect(client.error("setattr", setattr(fid, { valid: 8, size: 2n ** 63n }))).toBe("EFBIG");
  });

  test("are open for what they were opened for", () => {
    const reader = client.open("file");
    expect(client.error("write", { fid: reader, offset: 0n, data: Uint8Array.of(1) })).toBe(
      "EBADF",
    );
    const writer = client.open("file", 1);
    expect(client.error("read", { fid: writer, offset: 0n, count: 1 })).toBe("EBADF");
    const closed = client.walk("file");
    expect(client.error("read", { fid: closed, offset: 0n, count: 1 })).toBe("EBADF");
    expect(client.error("lopen", { fid: reader, flags: 0 })).toBe("EINVAL");
    expect(client.error("lopen", { fid: closed, flags: 3 })).toBe("EINVAL");
    expect(client.error("lopen", { fid: client.walk("dir"), flags: 1 })).toBe("EISDIR");
    expect(client.error("lopen", { fid: client.walk("link"), flags: 0 })).toBe("ELOOP");
    const directory = client.open("dir");
    expect(client.error("read", { fid: directory, offset: 0n, count: 1 })).toBe("EISDIR");
    expect(client.error("readdir", { fid: reader, offset: 0n, count: 100 })).toBe("ENOTDIR");
  });

  test("are truncated, appended to, and made once, as flags say", () => {
    client.open("file", 1 | 0o1000);
    expect(statSync(folder.at("file")).size).toBe(0);
    const fid = client.open("file", 1 | 0o2000);
    client.write(fid, "ab");
    client.write(fid, "cd");
    expect(readFileSync(folder.at("file"), "utf8")).toBe("abcd");
    const again = { fid: client.walk(""), name: "file", flags: 2 | 0o200, mode: 0o644, gid: 0 };
    expect(client.error("lcreate", again)).toBe("EEXIST");
    expect(client.error("lcreate", { ...again, flags: 2 })).toBe("done");
  });

  test("live on without a name while they are open", () => {
    const fid = client.open("file", 2);
    expect(client.tryUnlink("file")).toBe("done");
    writeFileSync(folder.at("file"), "another");
    expect(Number(client.ask("getattr", { fid, request_mask: 0x7ffn }).size)).toBe(5);
    client.write(fid, "HELLO");
    expect(client.error("setattr", setattr(fid, { valid: 8 | 1, size: 2n, mode: 0o600 }))).toBe(
      "done",
    );
    expect(readFileSync(folder.at("file"), "utf8")).toBe("another");
    const reader = client.open("file");
    client.tryUnlink("file");
    writeFileSync(folder.at("file"), "third");
    expect(client.error("setattr", setattr(reader, { valid: 8, size: 1n }))).toBe("EINVAL");
    expect(readFileSync(folder.at("file"), "utf8")).toBe("third");
  });

  test("set-id bits are dropped", () => {
    client.create("", "program", { mode: 0o6755 });
    client.tryCreate("mkdir", "", "folder");
    expect(client.trySetattr("program", { valid: 1, mode: 0o6711 })).toBe("done");
    expect(client.trySetattr("folder", { valid: 1, mode: 0o7777 })).toBe("done");
    expect(statSync(folder.at("program")).mode & 0o7777).toBe(0o711);
    expect(statSync(folder.at("folder")).mode & 0o7777).toBe(0o1777);
  });

  test("no more are open than the process may have", () => {
    const fids = Array.from({ length: OPEN_MAX }, () => client.open("file"));
    const fid = client.walk("file");
    expect(client.error("lopen", { fid, flags: 0 })).toBe("EMFILE");
    client.ask("clunk", { fid: fids[0] });
    expect(client.error("lopen", { fid, flags: 0 })).toBe("done");
  });

  test("fids are limited by what they take", () => {
    let result = "done";
    let made = 0;
    for (; result === "done" && made < 10 ** 6; made++) {
      result = client.error("walk", { fid: 0, newfid: 1000 + made, wname: [] });
    }
    expect(result).toBe("ENFILE");
    expect(made).toBeGreaterThan(200_000);
    expect(client.tryWalk("file")).toBe("ENFILE");
    client.ask("clunk", { fid: 1000 });
    client.ask("clunk", { fid: 1001 });
    expect(client.tryWalk("file")).toBe("done");
  });
});

describe("attributes", () => {
  test("are the file's", () => {
    const { fid } = { fid: client.walk("file") };
    const got = client.ask("getattr", { fid, request_mask: 0x7ffn });
    const is = statSync(folder.at("file"), { bigint: true });
    expect([got.size, got.nlink, got.mtime_sec, got.blksize]).toEqual([
      is.size,
      is.nlink,
      is.mtimeNs / 1_000_000_000n,
      is.blksize,
    ]);
    expect([got.mode, got.uid, got.gid]).toEqual([Number(is.mode), Number(is.uid), Number(is.gid)]);
    expect(got.qid.path).toBe(is.ino);
    expect(got.valid).toBe(0x7ffn);
  });

  test("times are set to what is said, to now, or left", () => {
    const set = { valid: 0x10 | 0x80, atime_sec: 1000n, atime_nsec: 5n };
    const before = statSync(folder.at("file"), { bigint: true });
    expect(client.trySetattr("file", set)).toBe("done");
    const after = statSync(folder.at("file"), { bigint: true });
    expect([after.atimeNs, after.mtimeNs]).toEqual([1_000_000_000_005n, before.mtimeNs]);
    expect(client.trySetattr("file", { valid: 0x20 | 0x100, mtime_sec: 7n })).toBe("done");
    expect(statSync(folder.at("file"), { bigint: true }).mtimeNs).toBe(7_000_000_000n);
    expect(client.trySetattr("file", { valid: 0x20 })).toBe("done");
    expect(Date.now() - statSync(folder.at("file")).mtimeMs).toBeLessThan(60_000);
    expect(client.trySetattr("file", { ...set, atime_nsec: 0x3fffffffn })).toBe("EINVAL");
    expect(client.trySetattr("file", { ...set, atime_sec: 2n ** 62n })).toBe("EINVAL");
    expect(client.trySetattr("link", set)).toBe("done");
    expect(statSync(folder.at("dir/inner")).atimeMs).not.toBe(1_000_000);
  });

  test("nobody gives files away", () => {
    const { uid, gid } = statSync(folder.at("file"));
    expect(client.trySetattr("file", { valid: 2, uid: uid + 1 })).toBe("EPERM");
    expect(client.trySetattr("file", { valid: 4, gid: gid + 1 })).toBe("EPERM");
    expect(client.trySetattr("file", { valid: 6, uid, gid })).toBe("done");
    expect(client.trySetattr("file", { valid: 6, uid: NONE, gid: NONE })).toBe("done");
    expect(client.trySetattr("link", { valid: 1, mode: 0o777 })).toBe("EPERM");
  });

  test("of the file system", () => {
    const space = client.ask("statfs", { fid: 0 });
    expect(space.type).toBe(0x01021997);
    expect(space.namelen).toBe(255);
    expect(space.blocks > 0n && space.bsize > 0).toBe(true);
  });

  test("there are no extended ones", () => {
    expect(client.error("xattrwalk", { fid: 0, newfid: 5, name: "user.x" })).toBe("EOPNOTSUPP");
    const create = { fid: 0, name: "user.x", attr_size: 1n, flags: 0 };
    expect(client.error("xattrcreate", create)).toBe("EOPNOTSUPP");
  });
});

describe("directories", () => {
  test("are listed, in pieces, with what each entry is", () => {
    for (let i = 0; i < 500; i++) writeFileSync(folder.at(`dir/file ${i}`), "");
    const names = client.list("dir", 300);
    expect(names).toHaveLength(502);
    expect(new Set(names).size).toBe(502);
    const fid = client.open("");
    const entries = parseEntries(client.ask("readdir", { fid, offset: 0n, count: 8192 }).data);
    const types = Object.fromEntries(entries.map(({ name, type }) => [name, type]));
    expect(types).toEqual({ ".": 4, "..": 4, dir: 4, file: 8, link: 10 });
    // Nothing is above the root.
    const inode = (name: string) => entries.find((entry) => entry.name === name)?.qid;
    expect(inode("..")).toBe(inode("."));
    const [, second] = entries;
    const rest = parseEntries(
      client.ask("readdir", { fid, offset: second.next, count: 8192 }).data,
    );
    expect(rest.map(({ name }) => name)).toEqual(entries.slice(2).map(({ name }) => name));
  });

  test("no entry is cut, and no offset hurts", () => {
    const fid = client.open("");
    expect(client.error("readdir", { fid, offset: 0n, count: 20 })).toBe("EINVAL");
    for (const offset of [1n, 12345n, 2n ** 31n, 2n ** 62n, 2n ** 63n, 2n ** 64n - 1n]) {
      expect(client.error("readdir", { fid, offset, count: 8192 })).toBeOneOf(["done", "EINVAL"]);
    }
  });

  test("are made, renamed with the fids below them, and removed", () => {
    expect(client.tryCreate("mkdir", "dir", "new")).toBe("done");
    const inner = client.walk("dir/inner");
    const open = client.open("dir/inner");
    expect(client.tryRename("dir", "moved")).toBe("done");
    expect(client.error("lopen", { fid: inner, flags: 0 })).toBe("done");
    expect(client.ask("read", { fid: open, offset: 0n, count: 9 }).data).toHaveLength(6);
    expect(client.tryUnlink("moved/new")).toBe("EISDIR");
    expect(client.tryUnlink("moved", 0x200)).toBe("ENOTEMPTY");
    expect(client.tryUnlink("moved/new", 0x200)).toBe("done");
    expect(client.tryUnlink("moved/inner", 0x400)).toBe("EINVAL");
  });

  test("Trename and Tremove take fids", () => {
    const fid = client.walk("file");
    expect(client.error("rename", { fid, dfid: client.walk("dir"), name: "there" })).toBe("done");
    expect(client.read("dir/there")).toBe("hello");
    expect(client.error("remove", { fid })).toBe("done");
    expect(client.tryWalk("dir/there")).toBe("ENOENT");
    const full = client.walk("dir");
    expect(client.error("remove", { fid: full })).toBe("ENOTEMPTY");
    expect(client.error("clunk", { fid: full })).toBe("EBADF");
    expect(client.error("remove", { fid: client.walk("dir/sub") })).toBe("done");
  });
});

test("hard links, symbolic links and nodes", () => {
  const dfid = client.walk("dir");
  expect(client.error("link", { dfid, fid: client.walk("file"), name: "same" })).toBe("done");
  expect(statSync(folder.at("dir/same")).nlink).toBe(2);
  expect(client.error("link", { dfid, fid: client.walk("dir"), name: "folder" })).toBe("EPERM");
  expect(client.error("link", { dfid, fid: client.walk("link"), name: "link" })).toBe("EPERM");
  expect(client.readlink("link")).toBe("dir/inner");
  expect(client.error("readlink", { fid: client.walk("file") })).toBe("EINVAL");
  expect(client.tryCreate("symlink", "", "another")).toBe("EPERM");
  const node = { dfid, name: "node", mode: 0o100644, major: 0, minor: 0, gid: 0 };
  expect(client.error("mknod", node)).toBe("EPERM");
});

test("locks are the guest's own affair; there is never anything to flush", () => {
  const fid = client.open("file", 2);
  const lock = { fid, type: 1, start: 0n, length: 0n, proc_id: 7, client_id: "guest" };
  expect(client.ask("lock", { ...lock, flags: 0 }).status).toBe(0);
  expect(client.ask("getlock", lock)).toMatchObject({ type: 2, proc_id: 7, client_id: "guest" });
  expect(client.error("lock", { ...lock, fid: 0, flags: 0 })).toBe("EBADF");
  expect(client.error("flush", { oldtag: 77 })).toBe("done");
});

test("a read-only share refuses every write", () => {
  using client = new Client(folder.path, { readonly: true });
  const dfid = client.walk("dir");
  expect(client.error("lopen", { fid: client.walk("file"), flags: 1 })).toBe("EROFS");
  expect(client.error("lopen", { fid: client.walk("file"), flags: 2 })).toBe("EROFS");
  expect(client.error("lopen", { fid: client.walk("file"), flags: 0o1000 })).toBe("EROFS");
  expect(client.tryCreate("lcreate", "", "new")).toBe("EROFS");
  expect(client.tryCreate("lcreate", "", "file")).toBe("EROFS");
  expect(client.tryCreate("mkdir", "", "new")).toBe("EROFS");
  expect(client.tryUnlink("file")).toBe("EROFS");
  expect(client.tryUnlink("dir", 0x200)).toBe("EROFS");
  expect(client.tryRename("file", "other")).toBe("EROFS");
  expect(client.error("rename", { fid: client.walk("file"), dfid, name: "x" })).toBe("EROFS");
  expect(client.error("link", { dfid, fid: client.walk("file"), name: "x" })).toBe("EROFS");
  expect(client.error("remove", { fid: client.walk("file") })).toBe("EROFS");
  for (const valid of [0, 1, 2, 8, 0x10, 0x20]) {
    expect(client.trySetattr("file", { valid })).toBe("EROFS");
  }
  const fid = client.open("file");
  expect(client.error("write", { fid, offset: 0n, data: Uint8Array.of(1) })).toBe("EROFS");
  expect(client.error("setattr", setattr(fid, { valid: 8 }))).toBe("EROFS");
  expect(client.read("file")).toBe("hello");
  expect(client.list("")).toEqual(["dir", "file", "link"]);
});
