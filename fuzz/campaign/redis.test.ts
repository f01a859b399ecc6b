import { afterEach, describe, expect, test } from "bun:test";
import { RedisClient } from "bun";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Verdict } from "../executor.ts";
import { readBundles } from "./bundle.ts";
import { crashKey, inputName } from "./crash.ts";
import { CampaignFolder } from "./folder.ts";
import { RedisLink } from "./redis.ts";

const COMMAND = ["redis-server", "valkey-server"].find((name) => Bun.which(name) !== null);
if (COMMAND === undefined)
  console.log("Exchange by Redis isn't tested: there is no redis-server and no valkey-server.");

const TESTING = join(import.meta.dir, "testing.ts");
const undo: (() => unknown)[] = [];

afterEach(async () => {
  for (const one of undo.splice(0).reverse()) await one();
});

function place(): string {
  const path = mkdtempSync(join(tmpdir(), "fuzz-redis-"));
  undo.push(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

function freePort(): number {
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = listener;
  listener.stop(true);
  return port;
}

/** A server that can be killed and started again, with what it had or empty. */
class Server {
  readonly port = freePort();
  readonly url = `redis://127.0.0.1:${this.port}`;
  private readonly folder = place();
  private process: Bun.Subprocess | undefined;

  constructor(private readonly keeps: boolean) {
    undo.push(() => this.kill());
  }

  async start(): Promise<void> {
    const settings = ["--port", String(this.port), "--bind", "127.0.0.1", "--dir", this.folder];
    const store = ["--save", "", "--appendonly", this.keeps ? "yes" : "no"];
    this.process = Bun.spawn([COMMAND!, ...settings, ...store], { stdout: "ignore" });
    await until(async () => {
      const client = new RedisClient(this.url, { autoReconnect: false });
      try {
        return (await client.send("PING", [])) === "PONG";
      } catch {
        return false;
      } finally {
        client.close();
      }
    });
  }

  async kill(): Promise<void> {
    this.process?.kill("SIGKILL");
    await this.process?.exited;
    this.process = undefined;
  }

  /** Names of a stream's messages. */
  async names(stream: string): Promise<string[]> {
    const client = new RedisClient(this.url);
    try {
      const messages = (await client.send("XRANGE", [stream, "-", "+"])) as [string, string[]][];
      return messages.map(([, fields]) => fields[1]);
    } finally {
      client.close();
    }
  }
}

async function until(what: () => boolean | Promise<boolean>, seconds = 40): Promise<void> {
  for (let i = 0; i < seconds * 20; i++) {
    if (await what()) return;
    await Bun.sleep(50);
  }
  throw new Error(`it didn't come about in ${seconds} s`);
}

/** A machine's folder and its link. */
function machine(url: string) {
  const folder = new CampaignFolder(place());
  const link = new RedisLink(folder, { url, group: "g", origin: { target: "tlv" } });
  undo.push(() => link.close());
  return { folder, link };
}

function put(folder: CampaignFolder, ...bytes: number[]): string {
  const input = Uint8Array.from(bytes);
  const name = inputName(input);
  folder.put(name, input);
  return name;
}

const report = { kind: "panic", text: "it was said.", stack: ["magic", "records"] };
const crash = {
  ...{ key: crashKey(Verdict.CRASH, report), verdict: Verdict.CRASH, report },
  ...{ input: Uint8Array.of(6, 6, 6), seed: 1, run: 99 },
};

const sorted = (folder: CampaignFolder) => folder.names().sort();

describe.skipIf(COMMAND === undefined)("machines exchange through a server", () => {
  test("inputs and crashes, each once", async () => {
    const server = new Server(false);
    await server.start();
    const [one, other] = [machine(server.url), machine(server.url)];
    for (let i = 0; i < 300; i++) put(one.folder, 1, i, i >> 8);
    const same = put(one.folder, 7);
    put(other.folder, 7);
    put(other.folder, 8);
    const finds = one.folder.finds({ target: "tlv" });
    finds.crashed!(crash);
    await one.link.sync();
    await other.link.sync();
    await one.link.sync();
    expect(sorted(one.folder)).toEqual(sorted(other.folder));
    expect(sorted(one.folder).length).toBe(302);
    expect(other.link.status).toBe("exchange: 1 sent, 301 received");
    const [bundle] = readBundles(other.folder.crashes);
    expect(bundle.report).toMatchObject({ key: crash.key, kind: "panic", seed: 1, run: 99 });
    expect(bundle.minimised).toBeUndefined();
    // Small inputs follow later.
    finds.minimised!({ ...crash, minimised: Uint8Array.of(6) });
    await one.link.sync();
    await other.link.sync();
    expect([...readBundles(other.folder.crashes)[0].minimised!]).toEqual([6]);
    const names = await server.names("g:inputs");
    expect(names.length).toBe(302);
    expect(new Set(names).size).toBe(302);
    expect(names).toContain(same);
    // What came from elsewhere is for the workers to be seen.
    expect(other.folder.arrived().length).toBe(300);
  }, 30_000);

  for (const keeps of [true, false]) {
    test(`a server that comes back ${keeps ? "with what it had" : "empty"} loses nothing`, async () => {
      const server = new Server(keeps);
      await server.start();
      const [one, other] = [machine(server.url), machine(server.url)];
      put(one.folder, 1);
      await one.link.sync();
      await server.kill();
      put(one.folder, 2);
      put(other.folder, 3);
      await Promise.all([one.link.sync(), other.link.sync()]);
      expect(one.link.status).toStartWith(`exchange: 127.0.0.1:${server.port}: `);
      await server.start();
      for (const { link } of [one, other, one, other]) await link.sync();
      expect(sorted(one.folder)).toEqual(sorted(other.folder));
      expect(sorted(one.folder).length).toBe(3);
      const names = await server.names("g:inputs");
      expect([...names].sort()).toEqual(sorted(one.folder));
    }, 30_000);
  }

  test("what isn't what it says is left out", async () => {
    const server = new Server(false);
    await server.start();
    const client = new RedisClient(server.url);
    const add = (stream: string, name: string, data: string) =>
      client.send("XADD", [stream, "*", "name", name, "data", data]);
    await add("g:inputs", "../../etc/passwd", "AAAA");
    await add("g:inputs", inputName(Uint8Array.of(1)), Uint8Array.of(2).toBase64());
    await add("g:inputs", inputName(Uint8Array.of(1)), "***");
    await client.send("XADD", ["g:inputs", "*", "other", "field"]);
    await add("g:crashes", "../x", "{}");
    await add("g:crashes", "../../x/minimised", "AAAA");
    await add("g:crashes", crash.key, "no JSON");
    const data = { ...report, ending: "crash", seed: 1, run: 1, input: "AAAA" };
    await add("g:crashes", "panic-0123456789abcdef", JSON.stringify(data));
    await add("g:inputs", inputName(Uint8Array.of(5)), Uint8Array.of(5).toBase64());
    client.close();
    const { folder, link } = machine(server.url);
    await link.sync();
    expect(link.status).toBe("exchange: 0 sent, 1 received");
    expect(folder.names()).toEqual([inputName(Uint8Array.of(5))]);
    expect(folder.keys()).toEqual({ crashes: [], hangs: [] });
  }, 30_000);

  test("a password isn't shown", async () => {
    const { link } = machine(`redis://user:secret@127.0.0.1:${freePort()}`);
    await link.sync();
    expect(link.status).toStartWith("exchange: 127.0.0.1:");
    expect(link.status).not.toContain("secret");
  });

  test("whole campaigns do, while a worker and the server are killed", async () => {
    const server = new Server(false);
    await server.start();
    const places = [place(), place()];
    const children = places.map((path, seed) => campaign(path, server.url, seed + 1));
    const folders = places.map((path) => new CampaignFolder(path));
    await until(() => folders.every((folder) => folder.names().length > 20));
    const [victim] = childrenOf(children[0].pid);
    process.kill(victim, "SIGKILL");
    await server.kill();
    const before = folders.map((folder) => folder.names());
    await Bun.sleep(1500);
    await server.start();
    await Bun.sleep(4000);
    // One ends before the other: what it found last is there for that.
    children[0].kill("SIGTERM");
    expect(await children[0].exited).toBe(0);
    const [first, second] = folders;
    await until(() => {
      const all = new Set(second.names());
      return first.names().every((name) => all.has(name));
    });
    children[1].kill("SIGTERM");
    expect(await children[1].exited).toBe(0);
    for (const [i, folder] of folders.entries()) {
      const names = new Set(folder.names());
      for (const name of before[i]) expect(names.has(name)).toBe(true);
      const files = readdirSync(folder.queue).filter((name) => !name.startsWith("."));
      expect(files.sort()).toEqual(sorted(folder));
    }
    // All that the first had, the second has, and the server has each once.
    const all = new Set(folders[1].names());
    for (const name of folders[0].names()) expect(all.has(name)).toBe(true);
    expect(folders[1].keys().crashes).toEqual(expect.arrayContaining(folders[0].keys().crashes));
    const names = await server.names("inputs-group:inputs");
    expect(new Set(names)).toEqual(all);
    expect(names.length).toBe(all.size);
  }, 60_000);
});

/** A campaign of two workers in a process of its own. */
function campaign(folder: string, url: string, seed: number): Bun.Subprocess {
  const module = (name: string) => JSON.stringify(join(import.meta.dir, name));
  const script = `
    const { fuzz } = await import(${module("run.ts")});
    const { RedisLink } = await import(${module("redis.ts")});
    const origin = { target: "tlv" };
    const { failure } = await fuzz({ folder: ${JSON.stringify(folder)}, target: "tlv", workers: 2,
      opening: { module: ${JSON.stringify(TESTING)} }, seed: ${seed}, json: true,
      link: (folder) => new RedisLink(folder,
        { url: ${JSON.stringify(url)}, group: "inputs-group", origin }) });
    if (failure !== undefined) console.error(failure);
    process.exit(failure === undefined ? 0 : 1);`;
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "ignore" });
  undo.push(async () => {
    child.kill("SIGTERM");
    await child.exited;
  });
  return child;
}

function childrenOf(pid: number): number[] {
  const { stdout } = Bun.spawnSync(["cat", `/proc/${pid}/task/${pid}/children`]);
  return stdout.toString().trim().split(" ").map(Number);
}
