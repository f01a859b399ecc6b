/** vctl create as a user types it: messages, exit codes, files. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDisk } from "../vmd/disk/index.ts";
import { qemuImg, qemuMissing } from "../vmd/disk/testing.ts";

setDefaultTimeout(120_000);
if (qemuMissing !== undefined) console.log(`vctl create beside QEMU skipped: ${qemuMissing}`);

const VCTL = join(import.meta.dir, "index.ts");
const MIB = 2 ** 20;

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "create-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function create(...args: string[]) {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, VCTL, "create", ...args], {
    cwd: folder,
    stdin: "ignore",
    timeout: 60_000,
  });
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
}

const at = (name: string) => join(folder, name);
const made = (text: string) => ({ code: 0, out: "", err: text });
const refused = (text: string) => ({ code: 1, out: "", err: text });

function sizeOf(name: string): number {
  const disk = openDisk(at(name), { readOnly: true });
  disk.close();
  return disk.size;
}

test("an image by its extension or prefix, for its owner alone", () => {
  expect(create("-s", "10M", "a.raw")).toEqual(made("vctl: raw imagefile created\n"));
  expect(create("-s", "10M", "a.img")).toEqual(made("vctl: raw imagefile created\n"));
  expect(create("-s", "1G", "a.QCOW2")).toEqual(made("vctl: qcow2 imagefile created\n"));
  expect(create("-s", "1G", "qcow2:b.img")).toEqual(made("vctl: qcow2 imagefile created\n"));
  expect(create("b.qcow2", "-s", "1G")).toEqual(made("vctl: qcow2 imagefile created\n"));
  expect(create("-s", "1g", "raw:c.qcow2")).toEqual(made("vctl: raw imagefile created\n"));
  expect(statSync(at("a.raw")).size).toBe(10 * MIB);
  expect(statSync(at("a.raw")).blocks).toBe(0);
  expect(sizeOf("b.img")).toBe(2 ** 30);
  expect(statSync(at("c.qcow2")).size).toBe(2 ** 30);
  for (const name of ["a.raw", "a.QCOW2"]) {
    expect(statSync(at(name)).mode & 0o777).toBe(0o600 & ~process.umask());
  }
});

test("sizes are whole megabytes, one at least", () => {
  expect(create("-s", "4.5M", "r.raw")).toEqual(
    made("vctl: disk size rounded to 4.0M\nvctl: raw imagefile created\n"),
  );
  expect(statSync(at("r.raw")).size).toBe(4 * MIB);
  const small = "vctl: disk size must be at least 1MB\n";
  expect(create("-s", "1023K", "x.raw")).toEqual(refused(small));
  expect(create("-s", "0", "x.raw")).toEqual(refused(small));
  expect(create("-s", "lots", "x.raw")).toEqual(refused("vctl: invalid size: lots\n"));
  expect(create("-s", "-1", "x.raw")).toEqual(refused("vctl: invalid size: -1\n"));
  expect(existsSync(at("x.raw"))).toBe(false);
});

test("a missing size or disk gets the usage too", () => {
  const { code, out, err } = create("x.raw");
  expect(err).toStartWith("vctl: could not create x.raw: missing size argument\n");
  expect(err).toContain("usage:\tvctl [-v] create [-b base | -i disk] [-s size] disk\n");
  expect({ code, out }).toEqual({ code: 1, out: "" });
  expect(create("qcow2:x").err).toStartWith("vctl: could not create x: missing size argument\n");
  const none = create("-s", "1G");
  expect(none.err).toContain("usage:\tvctl [-v] create [-b base | -i disk] [-s size] disk\n");
  expect(none.code).toBe(1);
  expect(create("-s", "1G", "a", "b").code).toBe(1);
  expect(existsSync(at("x.raw"))).toBe(false);
});

test("an existing file is kept", () => {
  writeFileSync(at("kept.raw"), "kept");
  const exists = refused("vctl: create imagefile operation failed: File exists\n");
  expect(create("-s", "1M", "kept.raw")).toEqual(exists);
  expect(create("-s", "1M", "qcow2:kept.raw")).toEqual(exists);
  expect(create("-i", "kept.raw", "-s", "1M", "kept.raw")).toEqual(exists);
  expect(readFileSync(at("kept.raw"), "utf8")).toBe("kept");
});

test("what the host refuses is said as it says it", () => {
  const failed = "vctl: create imagefile operation failed: ";
  expect(create("-s", "1M", "none/x.raw")).toEqual(refused(`${failed}No such file or directory\n`));
  expect(create("-s", "1M", "none/x.qcow2").err).toBe(`${failed}No such file or directory\n`);
  expect(create("-s", "1M", "/proc/x.raw").err).toBe(`${failed}No such file or directory\n`);
  expect(create("-s", "1M", `${"x".repeat(300)}.raw`).err).toBe(`${failed}File name too long\n`);
  expect(create("-s", "8000T", "x.raw")).toEqual(refused(`${failed}File too large\n`));
  expect(existsSync(at("x.raw"))).toBe(false);
  expect(create("-s", "8000T", "x.qcow2").err).toMatch(
    /^vctl: x.qcow2: size: \d+ bytes are too many/,
  );
});

test("a base: its size, and a name from the image's folder", () => {
  create("-s", "64M", "base.qcow2");
  create("-s", "8M", "base.raw");
  const done = made("vctl: qcow2 imagefile created\n");
  expect(create("-b", "base.qcow2", "derived.qcow2")).toEqual(done);
  expect(create("-b", "base.qcow2", "-s", "64M", "equal.qcow2")).toEqual(done);
  expect(create("-b", "base.raw", "on-raw.qcow2")).toEqual(done);
  expect(sizeOf("derived.qcow2")).toBe(64 * MIB);
  expect(sizeOf("on-raw.qcow2")).toBe(8 * MIB);
  const base = openDisk(at("base.qcow2"));
  base.write(MIB, Uint8Array.of(1, 2, 3));
  base.close();
  const derived = openDisk(at("derived.qcow2"));
  const into = new Uint8Array(3);
  derived.read(MIB, into);
  derived.close();
  expect([...into]).toEqual([1, 2, 3]);
  if (qemuMissing === undefined) qemuImg(["compare", at("base.qcow2"), at("derived.qcow2")]);

  expect(create("-b", "base.qcow2", "x.raw")).toEqual(
    refused("vctl: base images require qcow2 disk format\n"),
  );
  expect(create("-b", "base.qcow2", "-s", "65M", "x.qcow2")).toEqual(
    refused("vctl: size must be the base's size, 67108864 bytes\n"),
  );
  expect(create("-b", "base.qcow2", "-i", "base.raw", "x.qcow2")).toEqual(
    refused("vctl: conflicting -b and -i arguments\n"),
  );
  expect(create("-b", "none.qcow2", "x.qcow2")).toEqual(
    refused("vctl: none.qcow2: No such file or directory\n"),
  );
  writeFileSync(at("text.qcow2"), "text");
  expect(create("-b", "text.qcow2", "x.qcow2")).toEqual(
    refused("vctl: text.qcow2: header: the file is too short\n"),
  );
  expect(existsSync(at("x.qcow2"))).toBe(false);
});

test("a copy in either format, perhaps larger", () => {
  create("-s", "16M", "source.qcow2");
  const source = openDisk(at("source.qcow2"));
  source.write(5 * MIB + 3, new Uint8Array(100_000).fill(7));
  source.close();
  expect(create("-i", "source.qcow2", "copy.raw")).toEqual(made("vctl: raw imagefile created\n"));
  expect(create("-i", "copy.raw", "-s", "20M", "back.qcow2")).toEqual(
    made("vctl: qcow2 imagefile created\n"),
  );
  expect(statSync(at("copy.raw")).size).toBe(16 * MIB);
  expect(statSync(at("copy.raw")).blocks * 512).toBeLessThan(MIB);
  expect(sizeOf("back.qcow2")).toBe(20 * MIB);
  if (qemuMissing === undefined) {
    qemuImg(["compare", at("source.qcow2"), at("copy.raw")]);
    qemuImg(["compare", at("source.qcow2"), at("back.qcow2")]);
    qemuImg(["check", at("back.qcow2")]);
  }
  expect(create("-i", "source.qcow2", "-s", "15M", "x.raw")).toEqual(
    refused("vctl: size cannot be smaller than input disk size\n"),
  );
  writeFileSync(at("odd.raw"), new Uint8Array(MIB + 1).fill(1));
  expect(create("-i", "odd.raw", "even.qcow2")).toEqual(
    made("vctl: destination size rounded to 2 megabytes\nvctl: qcow2 imagefile created\n"),
  );
  expect(sizeOf("even.qcow2")).toBe(2 * MIB);
  expect(create("-i", "none.raw", "x.raw")).toEqual(
    refused("vctl: none.raw: No such file or directory\n"),
  );
  expect(existsSync(at("x.raw"))).toBe(false);
});

test("a damaged input leaves no partial image", () => {
  create("-s", "64M", "damaged.qcow2");
  const disk = openDisk(at("damaged.qcow2"));
  disk.write(0, new Uint8Array(40 * MIB).fill(1));
  disk.close();
  const { size } = statSync(at("damaged.qcow2"));
  truncateSync(at("damaged.qcow2"), size - 20 * MIB);
  const { code, err } = create("-i", "damaged.qcow2", "x.raw");
  expect(err).toMatch(/^vctl: damaged.qcow2: L2 entry \d+ at 0x\w+: 0x\w+ lies beyond the end/);
  expect(code).toBe(1);
  expect(existsSync(at("x.raw"))).toBe(false);
});

test("a file that may not become so long is removed again", () => {
  writeFileSync(at("long.raw"), new Uint8Array(4 * MIB).fill(1));
  for (const args of ["-s 4M", "-i long.raw"]) {
    for (const name of ["full.raw", "full.qcow2"]) {
      if (args === "-s 4M" && name === "full.qcow2") continue; // it is short
      // The shell's limit is in KiB; without the trap the signal would end vctl.
      const command = `trap '' XFSZ; ulimit -f 1024; '${process.execPath}' '${VCTL}' create ${args} ${name}`;
      const { exitCode, stderr } = Bun.spawnSync(["bash", "-c", command], { cwd: folder });
      expect(stderr.toString()).toBe("vctl: create imagefile operation failed: File too large\n");
      expect(exitCode).toBe(1);
      expect(existsSync(at(name))).toBe(false);
    }
  }
});

test.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)("%s removes a partial copy", async (signal) => {
  const input = at("large.raw");
  if (!existsSync(input)) {
    writeFileSync(input, "x");
    truncateSync(input, 2 ** 40);
  }
  const child = Bun.spawn([process.execPath, VCTL, "create", "-i", "large.raw", "part.raw"], {
    cwd: folder,
    stderr: "pipe",
    stdin: "ignore",
  });
  for (let i = 0; i < 1000 && !existsSync(at("part.raw")); i++) await Bun.sleep(10);
  expect(existsSync(at("part.raw"))).toBe(true);
  await Bun.sleep(100);
  child.kill(signal);
  expect(await new Response(child.stderr).text()).toBe(
    "vctl: create imagefile operation failed: Interrupted system call\n",
  );
  expect(await child.exited).toBe(1);
  expect(existsSync(at("part.raw"))).toBe(false);
});
