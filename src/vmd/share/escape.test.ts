/**
 * Ways out of a share, tried on a real directory tree: outside of it lies a secret, in it what the
 * whitelist denies.
 */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { Files } from "./files.ts";
import type { SharePolicy } from "./server.ts";
import { Client, Folder, openRoot, setattr } from "./testing.ts";

const SECRET = "the secret";
const isRoot = process.geteuid!() === 0;
let folder: Folder;
let clients: Client[] = [];

beforeEach(() => {
  folder = new Folder();
  mkdirSync(folder.at("outside"));
  writeFileSync(folder.at("outside/secret"), SECRET);
  mkdirSync(folder.at("root/open/deep"), { recursive: true });
  mkdirSync(folder.at("root/closed"));
  writeFileSync(folder.at("root/open/file"), "open");
  writeFileSync(folder.at("root/open/key.pem"), SECRET);
  writeFileSync(folder.at("root/closed/secret"), SECRET);
});

afterEach(() => {
  for (const client of clients) client[Symbol.dispose]();
  clients = [];
  folder[Symbol.dispose]();
});

const share = (policy?: SharePolicy): Client => {
  const client = new Client(folder.at("root"), policy);
  clients.push(client);
  return client;
};
const at = (...names: string[]) => folder.at("root", ...names);

describe("out of the root", () => {
  test("`..` stays at the root", () => {
    const client = share();
    const fid = client.walk("../../../open");
    expect(client.error("walk", { fid, newfid: 90, wname: ["..", "..", "..", "outside"] })).toBe(
      "done",
    );
    expect(client.error("clunk", { fid: 90 })).toBe("EBADF");
    expect(client.tryWalk("../outside")).toBe("ENOENT");
    expect(client.tryWalk("open/../../outside")).toBe("ENOENT");
    const up = client.walk("..");
    expect(client.ask("getattr", { fid: up, request_mask: 0n }).qid).toEqual(
      client.ask("getattr", { fid: 0, request_mask: 0n }).qid,
    );
  });

  test("names with slashes, of nothing, or dots are none", () => {
    const client = share();
    const out = [folder.at("outside/secret"), "../outside", "open/file", "/", "", ".", "a\0b"];
    for (const name of out) {
      expect(client.error("walk", { fid: 0, newfid: 90, wname: [name] })).toBe("EINVAL");
      expect(client.tryCreate("lcreate", "", name)).toBe("EINVAL");
      expect(client.tryCreate("mkdir", "", name)).toBe("EINVAL");
      const from = { olddirfid: 0, oldname: "open", newdirfid: 0, newname: name };
      expect(client.error("renameat", from)).toBe("EINVAL");
      const to = { olddirfid: 0, oldname: name, newdirfid: 0, newname: "x" };
      expect(client.error("renameat", to)).toBe("EINVAL");
      expect(client.error("unlinkat", { dirfd: 0, name, flags: 0 })).toBe("EINVAL");
      const fid = client.walk("open/file");
      expect(client.error("link", { dfid: 0, fid, name })).toBe("EINVAL");
    }
    for (const name of ["..", "../x"]) {
      expect(client.tryCreate("lcreate", "open", name)).toBe("EINVAL");
      expect(client.tryCreate("mkdir", "open", name)).toBe("EINVAL");
      expect(client.error("unlinkat", { dirfd: 0, name, flags: 0x200 })).toBe("EINVAL");
    }
  });

  test("native code resolves nothing else either", () => {
    const files = new Files(openRoot(at()));
    symlinkSync("../outside", at("way"));
    for (const path of ["..", "../outside", "open/../../outside", folder.at("outside"), "/"]) {
      expect(() => files.status(path)).toThrow("errno 13");
      expect(() => files.open(path, 0)).toThrow("errno 13");
    }
    expect(() => files.status("way/secret")).toThrow("errno 40");
    expect(() => files.unlink("way/secret", false)).toThrow(/errno (20|40)/);
    expect(() => files.mkdir("way/new", 0o755)).toThrow(/errno (20|40)/);
    expect(() => files.rename("open/file", "way/file")).toThrow(/errno (20|40)/);
    expect(existsSync(folder.at("outside/secret"))).toBe(true);
  });

  test.each(["../outside", "outside", "/etc", "."])(
    "a link to %s is a link, and no way",
    (target) => {
      symlinkSync(target.replace(/^outside$/, folder.at("outside")), at("way"));
      const client = share();
      const { qid } = client.ask("getattr", { fid: client.walk("way"), request_mask: 0n });
      expect(qid.type).toBe(2);
      expect(client.tryWalk("way/secret")).toBe("ENOENT");
      const { wqid } = client.ask("walk", { fid: 0, newfid: 90, wname: ["way", "secret"] });
      expect(wqid).toHaveLength(1);
      expect(client.error("walk", { fid: client.walk("way"), newfid: 91, wname: ["secret"] })).toBe(
        "ENOTDIR",
      );
      expect(client.error("lopen", { fid: client.walk("way"), flags: 0 })).toBe("ELOOP");
      expect(client.error("lopen", { fid: client.walk("way"), flags: 0o200000 })).toBe("ELOOP");
      expect(client.tryCreate("lcreate", "", "way")).toBe("ELOOP");
      expect(client.tryCreate("lcreate", "way", "new")).toBe("ELOOP");
      expect(client.tryCreate("mkdir", "way", "new")).toBeOneOf(["ELOOP", "ENOTDIR"]);
      expect(client.trySetattr("way", { valid: 8, size: 0n })).toBe("ELOOP");
    },
  );

  test("a directory that becomes a link under a fid is no way", () => {
    const client = share();
    const fid = client.walk("open");
    const inner = client.walk("open/file");
    const listed = client.open("open");
    renameSync(at("open"), folder.at("gone"));
    symlinkSync("../outside", at("open"));
    writeFileSync(folder.at("outside/file"), SECRET);
    expect(client.error("walk", { fid, newfid: 90, wname: ["secret"] })).toBe("ENOTDIR");
    expect(client.error("lopen", { fid: inner, flags: 0 })).toBe("ELOOP");
    expect(client.error("getattr", { fid: inner, request_mask: 0n })).toBe("ELOOP");
    expect(client.error("mkdir", { dfid: fid, name: "new", mode: 0o755, gid: 0 })).toBeOneOf([
      "ELOOP",
      "ENOTDIR",
    ]);
    expect(client.error("unlinkat", { dirfd: fid, name: "secret", flags: 0 })).toBeOneOf([
      "ELOOP",
      "ENOTDIR",
    ]);
    expect(client.error("lcreate", { fid, name: "new", flags: 1, mode: 0o644, gid: 0 })).toBe(
      "ELOOP",
    );
    // What is open isn't there any more, so neither are its entries.
    expect(client.error("readdir", { fid: listed, offset: 0n, count: 8192 })).toBe("ENOENT");
    expect(readdirSync(folder.at("outside")).sort()).toEqual(["file", "secret"]);
  });

  test("a directory that is moved out of the root takes its fids nowhere", () => {
    const client = share();
    const fid = client.walk("open/deep");
    const listed = client.open("open");
    renameSync(at("open"), folder.at("outside/open"));
    expect(client.error("walk", { fid, newfid: 90, wname: ["..", "..", "secret"] })).toBe("ENOENT");
    expect(client.error("readdir", { fid: listed, offset: 0n, count: 8192 })).toBe("ENOENT");
    expect(client.error("mkdir", { dfid: fid, name: "x", mode: 0o755, gid: 0 })).toBe("ENOENT");
    expect(client.error("walk", { fid, newfid: 91, wname: [".."] })).toBe("ENOENT");
  });

  test("while the host swaps a directory and a link, only one of them is ever read", async () => {
    mkdirSync(at("a"));
    writeFileSync(at("a/secret"), "inside");
    symlinkSync("../outside", at("evil"));
    const script = `const { renameSync } = require("node:fs");
      const end = performance.now() + 1500;
      while (performance.now() < end) {
        renameSync("a", "hold"); renameSync("evil", "a"); renameSync("a", "evil"); renameSync("hold", "a");
      }`;
    const child = Bun.spawn([process.execPath, "-e", script], { cwd: at(), stderr: "inherit" });
    const client = share();
    const seen = new Map<string, number>();
    let done = false;
    void child.exited.then(() => (done = true));
    for (let round = 0; !done; round++) {
      for (let i = 0; i < 200; i++) {
        let result: string;
        try {
          result = client.read("a/secret");
        } catch (error) {
          result = (error as Error).message.replace(/^T\w+: /, "");
        }
        seen.set(result, (seen.get(result) ?? 0) + 1);
        client.tryCreate("lcreate", "", "x");
        const wname = ["a", "secret", "..", "..", "a"];
        client.send("walk", { fid: 0, newfid: 1_000_000 + round * 200 + i, wname });
      }
      await Bun.sleep(0);
    }
    expect(await child.exited).toBe(0);
    expect(seen.has(SECRET)).toBe(false);
    expect(seen.get("inside") ?? 0).toBeGreaterThan(0);
    expect(seen.get("inside")).not.toBe([...seen.values()].reduce((sum, n) => sum + n));
    expect(readdirSync(folder.at("outside"))).toEqual(["secret"]);
  }, 20_000);

  test.skipIf(!isRoot)("a mount in the share is not part of it", () => {
    mkdirSync(at("mounted"));
    const mounted = Bun.spawnSync(["mount", "-t", "tmpfs", "none", at("mounted")]);
    if (mounted.exitCode !== 0) return;
    try {
      writeFileSync(at("mounted/secret"), SECRET);
      const client = share();
      expect(client.tryWalk("mounted")).toBe("EACCES");
      expect(client.tryWalk("mounted/secret")).toBe("EACCES");
      expect(client.list("")).toContain("mounted");
    } finally {
      Bun.spawnSync(["umount", at("mounted")]);
    }
  });
});

describe("what is no file", () => {
  const nodes = ["fifo", "socket", ...(isRoot ? ["null", "disk"] : [])];
  const make = (name: string) => {
    if (name === "fifo") Bun.spawnSync(["mkfifo", at(name)]);
    if (name === "null") Bun.spawnSync(["mknod", "-m", "666", at(name), "c", "1", "3"]);
    if (name === "disk") Bun.spawnSync(["mknod", "-m", "666", at(name), "b", "7", "0"]);
    if (name === "socket") Bun.listen({ unix: at(name), socket: { data: () => {} } }).unref();
  };
  test.each(nodes)("a %s is seen, and never opened", (name) => {
    make(name);
    expect(lstatSync(at(name)).isFile()).toBe(false);
    const client = share();
    expect(client.tryWalk(name)).toBe("done");
    for (const flags of [0, 1, 2, 0o1000, 0o4000]) {
      expect(client.error("lopen", { fid: client.walk(name), flags })).toBe("EACCES");
    }
    expect(client.tryCreate("lcreate", "", name)).toBe("EACCES");
    expect(client.trySetattr(name, { valid: 8, size: 0n })).toBe("EACCES");
    expect(client.trySetattr(name, { valid: 1, mode: 0o777 })).toBe("EPERM");
    expect(client.error("link", { dfid: 0, fid: client.walk(name), name: "same" })).toBe("EPERM");
    expect(client.tryUnlink(name)).toBe("done");
  });
});

describe("into what is denied", () => {
  const policy: SharePolicy = { deny: ["closed", "**/*.pem", "open/deep/authorized"] };

  test("it isn't there, by no way", () => {
    const client = share(policy);
    expect(client.list("")).toEqual(["open"]);
    expect(client.list("open")).toEqual(["deep", "file"]);
    for (const path of ["closed", "closed/secret", "open/key.pem", "open/../closed"]) {
      expect(client.tryWalk(path)).toBe("ENOENT");
    }
    expect(client.tryUnlink("closed", 0x200)).toBe("ENOENT");
    expect(client.tryUnlink("open/key.pem")).toBe("ENOENT");
    expect(client.tryRename("open/key.pem", "open/key")).toBe("ENOENT");
    expect(client.tryRename("closed", "opened")).toBe("ENOENT");
    expect(readFileSync(at("open/key.pem"), "utf8")).toBe(SECRET);
  });

  test("it can't be made, whether it is there or not", () => {
    const client = share({ ...policy, symlinks: true });
    for (const name of ["key.pem", "new.pem"]) {
      expect(client.tryCreate("lcreate", "open", name)).toBe("EACCES");
      expect(client.tryCreate("mkdir", "open", name)).toBe("EACCES");
      expect(client.tryCreate("symlink", "open", name)).toBe("EACCES");
      expect(client.tryRename("open/file", `open/${name}`)).toBe("EACCES");
      const fid = client.walk("open/file");
      const dfid = client.walk("open");
      expect(client.error("link", { dfid, fid, name })).toBe("EACCES");
      expect(client.error("rename", { fid, dfid, name })).toBe("EACCES");
    }
    expect(readFileSync(at("open/key.pem"), "utf8")).toBe(SECRET);
    expect(existsSync(at("open/new.pem"))).toBe(false);
  });

  test("no rename of a directory brings it out, or something in", () => {
    const client = share(policy);
    writeFileSync(at("open/deep/authorized"), SECRET);
    // Its name would not be denied there.
    expect(client.tryRename("open/deep", "open/shallow")).toBe("EXDEV");
    expect(client.tryRename("open", "opened")).toBe("EXDEV");
    // And what is made elsewhere would be, here.
    client.ask("mkdir", { dfid: 0, name: "new", mode: 0o755, gid: 0 });
    client.create("new", "authorized");
    expect(client.tryUnlink("open/deep", 0x200)).toBe("ENOTEMPTY");
    expect(client.tryRename("new", "open/deep")).toBe("EXDEV");
    // The same below: a rename as any other.
    expect(client.tryRename("new", "newer")).toBe("done");
    expect(client.tryRename("open/file", "newer/file")).toBe("done");
    expect(readFileSync(at("open/deep/authorized"), "utf8")).toBe(SECRET);
  });

  test("links don't name it", () => {
    const links = {
      key: "open/key.pem",
      up: "open/../closed/secret",
      out: "../outside/secret",
      absolute: "/etc/passwd",
      around: "../root/open/file",
      through: "closed/../open/file",
      fine: "open/./file",
      nowhere: "open/not there",
    };
    for (const [name, target] of Object.entries(links)) symlinkSync(target, at(name));
    symlinkSync("../open/file", at("open/sideways"));
    const client = share(policy);
    const result = (path: string) => {
      const reply = client.send("readlink", { fid: client.walk(path) });
      return reply.kind === "readlink" ? reply.target : reply.kind;
    };
    for (const name of ["key", "up", "out", "absolute", "around", "through"]) {
      expect(result(name)).toBe("lerror");
    }
    expect(result("fine")).toBe("open/./file");
    expect(result("nowhere")).toBe("open/not there");
    expect(result("open/sideways")).toBe("../open/file");
  });

  test("links that guests may make lead nowhere else either", () => {
    const client = share({ ...policy, symlinks: true });
    const make = (name: string, symtgt: string) =>
      client.error("symlink", { dfid: 0, name, symtgt, gid: 0 });
    expect(make("fine", "open/file")).toBe("done");
    expect(client.readlink("fine")).toBe("open/file");
    for (const target of ["closed", "../outside", "/etc/passwd", "", "open/key.pem"]) {
      expect(make("bad", target)).toBe("EACCES");
    }
    expect(make("bad", "a\0b")).toBe("EINVAL");
    expect(make("bad", "a/".repeat(3000))).toBe("ENAMETOOLONG");
    expect(existsSync(at("bad"))).toBe(false);
  });

  test("a hard link of the host's is judged by its own name", () => {
    linkSync(at("open/key.pem"), at("open/public"));
    linkSync(at("open/file"), at("open/file.pem"));
    const client = share(policy);
    expect(client.read("open/public")).toBe(SECRET);
    expect(client.tryWalk("open/file.pem")).toBe("ENOENT");
  });

  test("a fid from before the host renamed reads what its path is", () => {
    const client = share(policy);
    const fid = client.walk("open/file");
    const directory = client.open("open");
    renameSync(at("open"), at("hold"));
    renameSync(at("closed"), at("open"));
    expect(client.error("lopen", { fid, flags: 0 })).toBe("ENOENT");
    // It lists what is called so now, not what was opened.
    expect(client.error("readdir", { fid: directory, offset: 0n, count: 8192 })).toBe("ENOENT");
    expect(client.error("getattr", { fid: client.walk("open/secret"), request_mask: 0n })).toBe(
      "done",
    );
  });
});

describe("into what isn't allowed", () => {
  const policy: SharePolicy = { allow: ["open/deep/**", "open/*.txt"] };

  test("ways to it can be passed and listed, not changed", () => {
    writeFileSync(at("open/a.txt"), "text");
    writeFileSync(at("open/deep/er"), "deep");
    symlinkSync("open", at("open.link"));
    const client = share(policy);
    expect(client.list("")).toEqual(["open"]);
    expect(client.list("open")).toEqual(["a.txt", "deep"]);
    expect(client.read("open/deep/er")).toBe("deep");
    expect(client.tryCreate("lcreate", "open", "b.txt")).toBe("done");
    expect(client.tryCreate("lcreate", "open", "b.c")).toBe("EACCES");
    expect(client.tryCreate("mkdir", "", "new")).toBe("EACCES");
    expect(client.tryRename("open", "opened")).toBe("EACCES");
    expect(client.tryUnlink("open", 0x200)).toBe("EACCES");
    expect(client.trySetattr("open", { valid: 1, mode: 0 })).toBe("EACCES");
    expect(client.trySetattr("", { valid: 1, mode: 0 })).toBe("EACCES");
    const fid = client.open("open");
    expect(client.error("setattr", setattr(fid, { valid: 1, mode: 0 }))).toBe("EACCES");
    expect(client.error("remove", { fid: client.walk("open") })).toBe("EACCES");
    expect(client.tryRename("open/deep", "open/x.txt")).toBe("EXDEV");
    expect(client.tryRename("open/deep/er", "open/er.txt")).toBe("done");
  });

  test("what would be passed through, and is no directory, isn't there", () => {
    const client = share({ allow: ["open/file/below"] });
    expect(client.list("open")).toEqual([]);
    expect(client.tryWalk("open/file")).toBe("ENOENT");
    symlinkSync("../outside", at("link"));
    const links = share({ allow: ["link/secret"] });
    expect(links.list("")).toEqual([]);
    expect(links.tryWalk("link")).toBe("ENOENT");
    expect(links.tryWalk("link/secret")).toBe("ENOENT");
  });

  test("the root is neither removed nor renamed", () => {
    const client = share();
    expect(client.error("rename", { fid: 0, dfid: client.walk("open"), name: "x" })).toBe("EBUSY");
    expect(client.error("remove", { fid: client.walk("") })).toBe("EBUSY");
    expect(client.error("link", { dfid: 0, fid: 0, name: "x" })).toBe("EPERM");
  });
});

describe("names and depths", () => {
  test("every byte but two can be in a name", () => {
    const client = share({ deny: ["*denied*", "[a]"] });
    for (let code = 1; code < 256; code++) {
      const name = `x${String.fromCharCode(code)}`;
      if (name === "x/") continue;
      expect(client.tryCreate("mkdir", "", name)).toBe("done");
      expect(client.tryWalk(`${name}`)).toBe("done");
    }
    expect(client.list("")).toHaveLength(254 + 2);
    expect(readdirSync(at(), { encoding: "buffer" })).toHaveLength(254 + 2);
    expect(client.tryCreate("mkdir", "", "\xff denied \xfe")).toBe("EACCES");
    expect(client.tryUnlink("x\xff", 0x200)).toBe("done");
  });

  test("names have 255 bytes, paths 4095", () => {
    const client = share();
    const longest = "n".repeat(255);
    expect(client.tryCreate("mkdir", "", longest)).toBe("done");
    expect(client.tryCreate("mkdir", "", `${longest}n`)).toBe("ENAMETOOLONG");
    expect(client.tryWalk("n".repeat(60_000))).toBe("ENAMETOOLONG");
    let path = longest;
    let depth = 1;
    let result = "done";
    for (; depth < 40; depth++) {
      result = client.tryCreate("mkdir", path, longest);
      if (result !== "done") break;
      path = `${path}/${longest}`;
    }
    expect(result).toBe("ENAMETOOLONG");
    expect(path).toHaveLength(4095);
    expect(client.tryCreate("mkdir", path, "x")).toBe("ENAMETOOLONG");
    expect(client.tryWalk(path.slice(0, -256))).toBe("done");
  });

  test("a deep tree is walked, 16 names at a time", () => {
    const client = share();
    let fid = client.walk("");
    for (let depth = 0; depth < 800; depth++) {
      client.ask("mkdir", { dfid: fid, name: "d", mode: 0o755, gid: 0 });
      client.ask("walk", { fid, newfid: fid, wname: ["d"] });
    }
    client.ask("walk", { fid, newfid: fid, wname: Array(16).fill("..") });
    expect(client.list(Array(16).fill("d").join("/"))).toEqual(["d"]);
    expect(client.error("rename", { fid: client.walk("d"), dfid: fid, name: "x" })).toBe("EINVAL");
    Bun.spawnSync(["rm", "-rf", at("d")]);
  });
});

test("a directory is renamed below itself by nobody, and fids follow into new places only", () => {
  const client = share();
  const fid = client.walk("open/file");
  expect(client.tryRename("open", "open/deep/open")).toBe("EINVAL");
  expect(client.error("getattr", { fid, request_mask: 0n })).toBe("done");
  expect(client.tryRename("closed", "open/deep/closed")).toBe("done");
  expect(client.read("open/deep/closed/secret")).toBe(SECRET);
  expect(statSync(at("open/deep/closed")).isDirectory()).toBe(true);
});
