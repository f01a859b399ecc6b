import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readCpio } from "./cpio.ts";
import * as guests from "./index.ts";
import type { Guest } from "./index.ts";
import { initramfs } from "./initramfs.ts";

const isGuest = (value: unknown): value is Guest =>
  typeof value === "object" && value !== null && "kernel" in value;
const all = Object.values(guests).filter(isGuest);

for (const guest of all) {
  const missing = guest.missing();
  if (missing) console.log(`skipped: ${guest.name}: ${missing}`);

  test.skipIf(missing !== undefined)(`${guest.name} has its files`, async () => {
    const head = readFileSync(await guest.kernel());
    if (guest.format === "linux") expect(head.toString("latin1", 0x202, 0x206)).toBe("HdrS");
    if (guest.format === "vmlinux" || guest.format === "pvh")
      expect(head.toString("latin1", 0, 5)).toBe("\x7fELF\x02");
    if (guest.format === "firmware") expect(head.length % 65536).toBe(0);
    if (guest.initrd)
      for (const { path, mode } of readCpio(readFileSync(await guest.initrd())))
        if (path === "init") expect(mode).toBe(0o100755);
  });
}

test("guests' names are their own", () => {
  expect(new Set(all.map(({ name }) => name)).size).toBe(all.length);
});

test.skipIf(guests.linuxAmd64.missing() !== undefined)(
  "an initramfs is what was asked for",
  async () => {
    const what = {
      init: "#!/bin/sh\necho up\n",
      files: { "etc/motd": { data: "hello", mode: 0o644 }, "job/run": new Uint8Array([1, 2]) },
    };
    const archive = await initramfs(what);
    const entries = new Map([...readCpio(archive)].map((entry) => [entry.path, entry]));
    const text = (path: string) => new TextDecoder().decode(entries.get(path)!.data);
    expect(text("init")).toBe(what.init);
    expect(text("etc/motd")).toBe("hello");
    expect(text("bin/sh")).toBe("busybox");
    expect(entries.get("etc/motd")!.mode).toBe(0o100644);
    expect(entries.get("job/run")!.mode).toBe(0o100755);
    expect(entries.get("dev/console")!.device).toEqual([5, 1]);
    expect(Buffer.compare(archive, await initramfs(what))).toBe(0);
  },
);

test("a derived file is made once, whole or not at all", async () => {
  const folder = mkdtempSync(join(tmpdir(), "derive-"));
  try {
    const path = join(folder, "deep/file");
    const failing = guests.derive(path, () => Promise.reject(new Error("no")));
    await expect(failing).rejects.toThrow("no");
    expect(readdirSync(folder)).toEqual([]);
    for (const content of ["first", "second"])
      expect(await guests.derive(path, () => Buffer.from(content))).toBe(path);
    expect(readFileSync(path, "utf8")).toBe("first");
    expect(readdirSync(join(folder, "deep"))).toEqual(["file"]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
