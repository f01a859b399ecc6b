/** Names of any bytes, the longest ones, and deep trees. */
import { afterEach, beforeEach, expect, describe, test } from "bun:test";
import { mkdirSync, readdirSync } from "node:fs";
import type { SharePolicy } from "./server.ts";
import { Client, Folder } from "./testing.ts";

let folder: Folder;
let clients: Client[] = [];

beforeEach(() => {
  folder = new Folder();
  mkdirSync(folder.at("root/one"), { recursive: true });
  mkdirSync(folder.at("root/two"));
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
