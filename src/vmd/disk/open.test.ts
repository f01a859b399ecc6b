/** Formats, bases and descriptors. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import {
  statSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createQcow2, createRaw } from "./create.ts";
import { DiskError } from "./error.ts";
import { detectFormat, diskFromFiles, openDisk, openDiskFiles, parseDiskArgument } from "./open.ts";
import { emptyImage } from "./testing.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "open-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function file(name: string, content: Uint8Array | string): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

/** How many descriptors of this process are files of ours. */
function openDescriptors(): number {
  return readdirSync("/proc/self/fd").filter((descriptor) => {
    try {
      return readlinkSync(`/proc/self/fd/${descriptor}`).startsWith(folder);
    } catch {
      return false; // the one that lists the folder is closed by now
    }
  }).length;
}

test("a disk argument may say its format", () => {
  expect(parseDiskArgument("raw:a.qcow2")).toEqual({ path: "a.qcow2", format: "raw" });
  expect(parseDiskArgument("qcow2:/x/raw:y")).toEqual({ path: "/x/raw:y", format: "qcow2" });
  expect(parseDiskArgument("x/raw:y")).toEqual({ path: "x/raw:y" });
});

test("a format is found by magic number, then extension; else it is raw", () => {
  const image = emptyImage(2 ** 20, 16);
  expect(detectFormat(file("magic.raw", image))).toBe("qcow2");
  expect(detectFormat(file("plain.img", "QFI"))).toBe("raw");
  expect(detectFormat(file("new.QCOW2", ""))).toBe("qcow2");
  expect(detectFormat(file("new.RAW", ""))).toBe("raw");
  expect(detectFormat("/nonexistent/x.qcow2")).toBe("qcow2");
  expect(detectFormat("/nonexistent/x")).toBe("raw");
  expect(detectFormat(folder)).toBe("raw");
});

test("a raw disk is its file", () => {
  const path = join(folder, "disk.raw");
  createRaw(path, 100_001);
  expect(statSync(path).mode & 0o777).toBe(0o600 & ~process.umask());
  const disk = openDisk(path);
  expect(disk.size).toBe(100_001);
  disk.write(99_999, Uint8Array.of(7, 8));
  expect(() => disk.write(100_000, Uint8Array.of(7, 8))).toThrow(
    new DiskError(`${path}: 0x186a0 + 0x2 reaches beyond the end of the disk`),
  );
  disk.close();
  const again = openDisk(path, { readOnly: true });
  const into = new Uint8Array(3);
  again.read(99_998, into);
  expect([...into]).toEqual([0, 7, 8]);
  expect(() => again.write(0, into)).toThrow(new DiskError(`${path}: the disk is read-only`));
  again.close();
});

test("what can't be opened is said in one sentence, and leaves nothing open", () => {
  const fifo = join(folder, "fifo");
  Bun.spawnSync(["mkfifo", fifo]);
  const cases: [string, Parameters<typeof openDisk>[1], string][] = [
    [join(folder, "none"), {}, "No such file or directory"],
    [folder, {}, "Is a directory"],
    [folder, { readOnly: true }, "Is a directory"],
    [fifo, {}, "neither a regular file nor a block device"],
    ["/dev/null", {}, "neither a regular file nor a block device"],
    [file("text.qcow2", "text"), {}, "header: the file is too short"],
    [file("text", "text"), { format: "qcow2" }, "header: the file is too short"],
  ];
  const before = openDescriptors();
  for (const [path, options, sentence] of cases) {
    expect(() => openDisk(path, options)).toThrow(new DiskError(`${path}: ${sentence}`));
  }
  expect(openDescriptors()).toBe(before);
});

test("a chain of images is open descriptors, which another process can have", () => {
  const base = join(folder, "chain.raw");
  createRaw(base, 2 ** 20);
  const middle = join(folder, "middle.qcow2");
  createQcow2(middle, 2 ** 20, { base: { path: base, format: "raw" } });
  const top = join(folder, "top.qcow2");
  createQcow2(top, 2 ** 20, { base: { path: middle, format: "qcow2" } });
  const before = openDescriptors();
  const files = openDiskFiles(top);
  expect(files.map(({ format }) => format)).toEqual(["qcow2", "qcow2", "raw"]);
  expect(openDescriptors()).toBe(before + 3);
  const disk = diskFromFiles(files);
  disk.write(0, Uint8Array.of(1));
  disk.close();
  expect(openDescriptors()).toBe(before);
  // One descriptor too few or too many contradicts the headers.
  expect(() => diskFromFiles(openDiskFiles(middle).slice(0, 1))).toThrow(/its base, .* not given/);
  const extra = [...openDiskFiles(base), ...openDiskFiles(base)];
  expect(() => diskFromFiles(extra)).toThrow(/is based on no other image, but one is given/);
  expect(() => diskFromFiles([])).toThrow(new DiskError("disk: 1 to 16 images make a disk"));
  expect(openDescriptors()).toBe(before + 1); // the base that slice left out
});

test("bases: their names count from the image's folder, through links", () => {
  mkdirSync(join(folder, "store"));
  mkdirSync(join(folder, "links"));
  createRaw(join(folder, "store/b.raw"), 2 ** 20);
  const image = join(folder, "store/i.qcow2");
  createQcow2(image, 2 ** 20, { base: { path: join(folder, "store/b.raw"), format: "raw" } });
  writeFileSync(image, emptyImage(2 ** 20, 16, { name: "b.raw", format: "raw" }));
  symlinkSync(image, join(folder, "links/i.qcow2"));
  openDisk(join(folder, "links/i.qcow2")).close();
});

test("a base that is missing, wrong or its own is named", () => {
  const before = openDescriptors();
  const on = (name: string, format: string) => emptyImage(2 ** 20, 16, { name, format });
  const missing = file("missing.qcow2", on("gone.raw", "raw"));
  expect(() => openDisk(missing)).toThrow(
    new DiskError(`${join(folder, "gone.raw")}: No such file or directory`, "ENOENT"),
  );
  const vmdk = file("vmdk.qcow2", on("x.vmdk", "vmdk"));
  expect(() => openDisk(vmdk)).toThrow(
    new DiskError(`${vmdk}: backing format: "vmdk" is neither raw nor qcow2`),
  );
  const loop = file("loop.qcow2", on("loop.qcow2", "qcow2"));
  expect(() => openDisk(loop)).toThrow(
    new DiskError(`${loop}: more than 16 images are based on one another`),
  );
  expect(openDescriptors()).toBe(before);
});

test("a new image replaces nothing", () => {
  const path = file("present.raw", "kept");
  for (const create of [createRaw, createQcow2]) {
    expect(() => create(path, 2 ** 20)).toThrow(new DiskError(`${path}: File exists`, "EEXIST"));
  }
  expect(() => createQcow2(join(folder, "huge.qcow2"), 2 ** 52)).toThrow(/too many for qcow2/);
});

/** A loop device over a file, or why there can be none. */
function loopDevice(path: string): { device?: string; why?: string } {
  if (Bun.which("losetup") === null) return { why: "there is no losetup" };
  const { exitCode, stdout, stderr } = Bun.spawnSync(["losetup", "-f", "--show", path]);
  if (exitCode !== 0) return { why: stderr.toString().trim() };
  return { device: stdout.toString().trim() };
}

test("a block device is a raw disk of its size, and no qcow2 image", () => {
  const path = file("device.img", emptyImage(2 ** 20, 16));
  const { device, why } = loopDevice(path);
  if (device === undefined) {
    console.log(`disks on block devices not tested: ${why}`);
    return;
  }
  try {
    const disk = openDisk(device, { format: "raw" });
    expect(disk.size).toBe(4 * 65536);
    disk.write(disk.size - 2, Uint8Array.of(1, 2));
    disk.close();
    expect([...readFileSync(path).subarray(-2)]).toEqual([1, 2]);
    expect(() => openDisk(device)).toThrow(
      new DiskError(`${device}: a qcow2 image must be a regular file`),
    );
  } finally {
    Bun.spawnSync(["losetup", "-d", device]);
  }
});
