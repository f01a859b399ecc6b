/** A share in a process of its own, confined; and what it can't do from inside. */
import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { root } from "../../vmm/root.ts";
import { pollInput } from "../channel.ts";
import { ownConfinement } from "../confinement.ts";
import { NineP } from "../virtio/9p.ts";
import { MockDriver } from "../virtio/mock-driver.ts";
import { ShareClient } from "./client.ts";
import {
  decodeReply,
  encodeRequest,
  NONE,
  type RequestKind,
  type RequestOf,
  VERSION,
} from "./messages.ts";
import type { SharePolicy } from "./server.ts";
import { openShareRoot, shareConfinement, ShareError, ShareHost } from "./share-host.ts";
import { Folder } from "./testing.ts";

setDefaultTimeout(60_000);
const isRoot = process.geteuid!() === 0;

let folder: Folder;
let host: ShareHost | undefined;

beforeEach(() => {
  folder = new Folder();
  chmodSync(folder.path, 0o755);
  mkdirSync(folder.at("root"));
  writeFileSync(folder.at("outside"), "the secret");
  writeFileSync(folder.at("root/file"), "hello");
  // The process is somebody else.
  const { uid, gid } = ownConfinement();
  if (isRoot) for (const path of ["root", "root/file"]) chownSync(folder.at(path), uid!, gid!);
});

afterEach(async () => {
  host?.stop();
  await host?.ended;
  host = undefined;
  folder[Symbol.dispose]();
});

function start(policy: SharePolicy = {}, confine = ownConfinement()): ShareHost {
  host = new ShareHost({ name: "test", root: openShareRoot(folder.at("root")), policy, confine });
  return host;
}

const buffer = new Uint8Array(2 ** 20);

/** One request and its reply. */
function ask<K extends RequestKind>(client: ShareClient, kind: K, values: RequestOf<K>) {
  client.send(encodeRequest(buffer, kind, 5, values).slice());
  let reply: ReturnType<typeof decodeReply> | undefined;
  while (reply === undefined && !client.gone) {
    client.receive((bytes) => {
      reply = decodeReply(bytes.slice());
    });
    // What waits for room is sent when there is some.
    if (reply === undefined) pollInput(client.descriptor, client.backlog > 0 ? 1 : 10_000);
  }
  return reply;
}

const attach = (client: ShareClient, msize = 2 ** 20) => {
  ask(client, "version", { msize, version: VERSION });
  return ask(client, "attach", { fid: 0, afid: NONE, uname: "", aname: "", n_uname: 0 });
};

describe("a share's process", () => {
  test("serves, as its user, and makes files that are that user's", async () => {
    const { uid = process.geteuid!() } = ownConfinement();
    const share = start();
    expect(await share.serving()).toBe("");
    const client = new ShareClient(share.descriptor);
    expect(attach(client)).toMatchObject({ kind: "attach" });
    ask(client, "walk", { fid: 0, newfid: 1, wname: [] });
    const create = { fid: 1, name: "new", flags: 2, mode: 0o4666, gid: 0 };
    expect(ask(client, "lcreate", create)).toMatchObject({ kind: "lcreate" });
    // As long as messages get: more than a socket holds.
    const data = new Uint8Array(2 ** 20 - 23).fill(65);
    for (let i = 0; i < 3; i++) {
      const offset = BigInt(i * data.length);
      const count = data.length;
      expect(ask(client, "write", { fid: 1, offset, data })).toMatchObject({
        kind: "write",
        count,
      });
      const reply = ask(client, "read", { fid: 1, offset, count });
      expect(reply?.kind === "read" && Buffer.compare(reply.data, data) === 0).toBe(true);
    }
    const made = statSync(folder.at("root/new"));
    expect([made.uid, made.mode & 0o7777, made.size]).toEqual([uid, 0o666, 3 * data.length]);
    expect(ask(client, "mkdir", { dfid: 0, name: "d", mode: 0o755, gid: 0 })).toMatchObject({
      kind: "mkdir",
    });
    const move = { olddirfid: 0, oldname: "new", newdirfid: 0, newname: "moved" };
    expect(ask(client, "renameat", move)).toMatchObject({ kind: "renameat" });
    ask(client, "walk", { fid: 0, newfid: 2, wname: ["d"] });
    const deeper = { olddirfid: 0, oldname: "moved", newdirfid: 2, newname: "moved" };
    expect(ask(client, "renameat", deeper)).toMatchObject({ kind: "renameat" });
    expect(ask(client, "link", { dfid: 0, fid: 1, name: "again" })).toMatchObject({ kind: "link" });
    const set = { fid: 1, valid: 0x1b9, mode: 0o600, uid: 0, gid: 0, size: 10n };
    const times = { atime_sec: 1n, atime_nsec: 0n, mtime_sec: 2n, mtime_nsec: 0n };
    expect(ask(client, "setattr", { ...set, ...times })).toMatchObject({ kind: "setattr" });
    const closed = { ...set, ...times, fid: 2, valid: 0x1b1, mode: 0o700 };
    expect(ask(client, "setattr", closed)).toMatchObject({ kind: "setattr" });
    const now = statSync(folder.at("root/again"));
    expect([now.size, now.mode & 0o777, now.mtimeMs]).toEqual([10, 0o600, 2000]);
    for (const name of ["again"]) {
      expect(ask(client, "unlinkat", { dirfd: 0, name, flags: 0 })).toMatchObject({
        kind: "unlinkat",
      });
    }
    ask(client, "walk", { fid: 0, newfid: 3, wname: [] });
    ask(client, "lopen", { fid: 3, flags: 0 });
    const listed = ask(client, "readdir", { fid: 3, offset: 0n, count: 8192 });
    expect(listed).toMatchObject({ kind: "readdir" });
    expect(ask(client, "statfs", { fid: 0 })).toMatchObject({ kind: "statfs" });
    expect(ask(client, "fsync", { fid: 1, datasync: 0 })).toMatchObject({ kind: "fsync" });
    closeSync(share.descriptor);
    await share.ended;
  });

  test("is confined, in every thread, and sees nothing but its directory", async () => {
    const share = start({ readonly: true });
    expect(await share.serving()).toBe("");
    const status = readFileSync(`/proc/${share.pid}/status`, "utf8");
    expect(status).toMatch(/^Seccomp:\t2$/m);
    expect(status).toMatch(/^NoNewPrivs:\t1$/m);
    expect(status).toMatch(/^CapEff:\t0+$/m);
    if (isRoot) {
      const { uid } = ownConfinement();
      expect(status).toMatch(new RegExp(`^Uid:\t${uid}\t${uid}\t${uid}\t${uid}$`, "m"));
      expect(readlinkSync(`/proc/${share.pid}/root`)).toBe(folder.at("root"));
    }
    const client = new ShareClient(share.descriptor);
    attach(client);
    ask(client, "walk", { fid: 0, newfid: 1, wname: ["file"] });
    expect(ask(client, "lopen", { fid: 1, flags: 0 })).toMatchObject({ kind: "lopen" });
    const unlink = ask(client, "unlinkat", { dirfd: 0, name: "file", flags: 0 });
    expect(unlink).toMatchObject({ kind: "lerror", ecode: 30 });
    closeSync(share.descriptor);
    await share.ended;
  });

  test("ends when what comes is no message, or a share is stopped", async () => {
    const share = start();
    await share.serving();
    const client = new ShareClient(share.descriptor);
    client.send(Uint8Array.of(1, 0, 0, 0, 0, 0, 0));
    await share.ended;
    client.receive(() => {});
    expect(client.gone).toBe(true);
    closeSync(share.descriptor);
    const other = start();
    other.stop();
    await other.ended;
    await expect(other.serving()).rejects.toThrow("share test: its process ended");
    closeSync(other.descriptor);
  });

  test("what can't be shared says so", async () => {
    expect(() => start({ deny: ["["] })).toThrow('glob "[" has a [ without a ]');
    expect(() => openShareRoot(folder.at("nothing"))).toThrow("ENOENT");
    expect(() => openShareRoot(folder.at("outside"))).toThrow("it is no directory");
    expect(() => shareConfinement("nobody of that name")).toThrow(ShareError);
    if (isRoot) expect(shareConfinement("nobody").uid).toBeGreaterThan(0);
  });
});

test("a driver's requests reach the files, by way of the device", async () => {
  const share = start();
  await share.serving();
  const client = new ShareClient(share.descriptor);
  const driver = new MockDriver((transport) => new NineP(transport, "test", client));
  driver.start();
  const [queue] = driver.queues;
  const request = async <K extends RequestKind>(kind: K, values: RequestOf<K>) => {
    queue.add([encodeRequest(buffer, kind, 9, values).slice(), 9000]);
    queue.kick();
    for (;;) {
      driver.transport.poll();
      const [used] = queue.used();
      if (used !== undefined) return decodeReply(used.data.slice(0, used.written));
      pollInput(client.descriptor, 1000);
    }
  };
  await request("version", { msize: 8192, version: VERSION });
  await request("attach", { fid: 0, afid: NONE, uname: "", aname: "", n_uname: 0 });
  await request("walk", { fid: 0, newfid: 1, wname: ["file"] });
  await request("lopen", { fid: 1, flags: 0 });
  const reply = await request("read", { fid: 1, offset: 0n, count: 100 });
  expect(reply).toMatchObject({ kind: "read", tag: 9, data: new TextEncoder().encode("hello") });
  // It dies: the guest has errors, and no wedged queue.
  share.stop();
  await share.ended;
  expect(await request("clunk", { fid: 1 })).toMatchObject({ kind: "lerror", ecode: 5 });
  closeSync(share.descriptor);
});

/** Tries system calls from inside a share's sandbox; "done", or an errno's name. */
function inside(writable: boolean): Record<string, string> {
  const script = folder.at("inside.ts");
  writeFileSync(
    script,
    `import { dlopen, FFIType, ptr } from "bun:ffi";
     import { enterSandbox } from ${JSON.stringify(join(root, "src/vmd/sandbox.ts"))};
     const { i64, i32, ptr: pointer, cstring } = FFIType;
     const { symbols: c } = dlopen("libc.so.6", {
       syscall: { args: [i64, i64, i64, i64, i64, i64], returns: i64 },
       __errno_location: { args: [], returns: pointer },
       strerrorname_np: { args: [i32], returns: cstring },
     });
     import { toArrayBuffer } from "bun:ffi";
     const fd = ${"3"};
     enterSandbox({ profile: "share", uid: ${isRoot ? "65534" : "undefined"}, gid: ${isRoot ? "65534" : "undefined"},
       tree: { root: fd, writable: ${writable} } });
     const keep = [];
     const text = (s) => { const b = Buffer.from(s + "\\0"); keep.push(b); return ptr(b); };
     const how = (flags, resolve = 0, mode = 0) => { const b = new BigUint64Array([BigInt(flags), BigInt(mode), BigInt(resolve)]); keep.push(b); return ptr(b); };
     const errno = () => String(c.strerrorname_np(new Int32Array(toArrayBuffer(c.__errno_location(), 0, 4))[0]));
     const run = (...args) => Number(c.syscall(...[...args, 0, 0, 0, 0, 0].slice(0, 6))) >= 0 ? "done" : errno();
     const PATH = 0o10000000, BENEATH = 8;
     const results = {
       "read in the tree": run(437, fd, text("file"), how(0), 24),
       "write in the tree": run(437, fd, text("file"), how(1), 24),
       "make in the tree": run(437, fd, text("made"), how(0o101, 0, 0o600), 24),
       "mkdir in the tree": run(258, fd, text("folder"), 0o755),
       "remove in the tree": run(263, fd, text("file2"), 0),
       "chmod": run(91, fd, 0o755),
       "read above": run(437, fd, text("../outside"), how(0), 24),
       "read an absolute path": run(437, fd, text("/etc/passwd"), how(0), 24),
       "look at an absolute path": run(437, fd, text("/etc/passwd"), how(PATH), 24),
       "read by the working directory": run(437, -100, text("file"), how(0), 24),
       "openat": run(257, fd, text("file"), 0),
       "open": run(2, text("/etc/passwd"), 0),
       "mkdir above": run(258, fd, text("../above"), 0o755),
       "make a node": run(259, fd, text("node"), 0o020666, 0x103),
       "make a fifo": run(259, fd, text("fifo"), 0o010666, 0),
       "chown": run(93, fd, 0, 0),
       "socket": run(41, 2, 1, 0),
       "kill": run(62, process.ppid, 0),
       "ioctl": run(16, fd, 0x40086602, 0),
       "name_to_handle_at": run(303, fd, text("file"), text(" ".repeat(200)), text(" ".repeat(8)), 0),
       "setxattr": run(188, text("file"), text("user.x"), text("1"), 1, 0),
       "mmap executable": run(9, 0, 4096, 7, 0x22, -1),
     };
     console.log(JSON.stringify(results));`,
  );
  const fd = openSync(folder.at("root"), 0o10200000);
  const child = Bun.spawnSync([process.execPath, script], {
    stdio: ["ignore", "pipe", "pipe", fd],
    timeout: 30_000,
  });
  closeSync(fd);
  expect(child.stderr.toString()).toBe("");
  return JSON.parse(child.stdout.toString()) as Record<string, string>;
}

const NEVER: Record<string, string> = {
  openat: "EACCES",
  open: "EACCES",
  "read by the working directory": "EPERM",
  "make a node": "EPERM",
  "make a fifo": "EPERM",
  chown: "EPERM",
  socket: "EPERM",
  kill: "EPERM",
  ioctl: "EPERM",
  name_to_handle_at: "EPERM",
  setxattr: "EPERM",
  "mmap executable": "EPERM",
};

describe("from inside", () => {
  beforeEach(() => writeFileSync(folder.at("root/file2"), ""));

  test("a share that may write does so in its tree, and nowhere else", () => {
    const results = inside(true);
    expect(results).toMatchObject(NEVER);
    for (const what of ["read", "write", "make", "mkdir", "remove"]) {
      expect([what, results[`${what} in the tree`]]).toEqual([what, "done"]);
    }
    // The root is its root: there is no above, and no /etc.
    if (isRoot) {
      expect(results["read above"]).toBe("ENOENT");
      expect(results["look at an absolute path"]).toBe("ENOENT");
    } else {
      expect(results["read above"]).toBe("EACCES");
    }
    expect(results["read an absolute path"]).toBeOneOf(["ENOENT", "EACCES"]);
    expect(statSync(folder.at("outside")).isFile()).toBe(true);
  });

  test("one that may only read reads", () => {
    const results = inside(false);
    expect(results).toMatchObject(NEVER);
    expect(results["read in the tree"]).toBe("done");
    for (const what of ["write", "make"]) expect(results[`${what} in the tree`]).toBe("EACCES");
    for (const what of ["mkdir", "remove"]) expect(results[`${what} in the tree`]).toBe("EPERM");
    expect(results.chmod).toBe("EPERM");
    expect(results["mkdir above"]).toBe("EPERM");
  });
});
