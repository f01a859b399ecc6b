/** Which files are looked at before a machine is made of them. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import {
  appendFileSync,
  closeSync,
  copyFileSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { RecordType } from "../../vmm/snapshot/format.ts";
import { SnapshotWriter } from "../../vmm/snapshot/writer.ts";
import { openSnapshot, remember } from "./chain.ts";
import { newId } from "./restored.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "chain-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

function write(name: string, base?: { id: string; path: string }): string {
  const id = newId();
  const parts: Uint8Array[] = [];
  const writer = new SnapshotWriter((bytes) => void parts.push(bytes.slice()));
  writer.json(RecordType.CONFIG, {
    ...{ format: 1, id, base, created: 0, engine: "unicorn", cpuid: [], boot: "", ahead: 0 },
    options: { name: "chained", memory: 2 ** 20 },
    interfaces: [],
  });
  writeFileSync(at(name), Buffer.concat(parts));
  return id;
}

/** Whether each of a snapshot's files is to be looked at; what is told so, where it was used. */
function looksAt(
  name: string,
  { verify, used = false }: { verify?: boolean; used?: boolean } = {},
) {
  const opened = openSnapshot(at(name), { verify });
  for (const { descriptor } of opened.inputs) closeSync(descriptor);
  if (used) opened.used();
  return opened.inputs.map((input) => input.verify);
}

test("one that was written here is known, also when it gets its name", () => {
  write("written.partial");
  const descriptor = openSync(at("written.partial"), "r");
  remember(descriptor);
  closeSync(descriptor);
  expect(looksAt("written.partial")).toEqual([false]);
  renameSync(at("written.partial"), at("written"));
  expect(looksAt("written")).toEqual([false]);
  expect(looksAt("written", { verify: true })).toEqual([true]);
});

test("one that was used is known until it changes; its copy isn't", async () => {
  write("used");
  expect(looksAt("used")).toEqual([true]);
  // Nobody has looked at all of it yet.
  expect(looksAt("used", { verify: false, used: true })).toEqual([false]);
  expect(looksAt("used", { used: true })).toEqual([true]);
  expect(looksAt("used")).toEqual([false]);
  copyFileSync(at("used"), at("copy"));
  expect(looksAt("copy")).toEqual([true]);
  appendFileSync(at("used"), "x");
  expect(looksAt("used", { used: true })).toEqual([true]);
  // Of the same length: only its time is another.
  await Bun.sleep(20);
  writeFileSync(at("used"), readFileSync(at("used")));
  expect(looksAt("used")).toEqual([true]);
});

test("one that changes while it is used is not known", async () => {
  write("changing");
  const opened = openSnapshot(at("changing"));
  for (const { descriptor } of opened.inputs) closeSync(descriptor);
  await Bun.sleep(20);
  writeFileSync(at("changing"), readFileSync(at("changing")));
  opened.used();
  expect(looksAt("changing")).toEqual([true]);
});

test("of a chain each file is known by itself", () => {
  const id = write("base");
  write("link", { id, path: "base" });
  expect(looksAt("base", { used: true })).toEqual([true]);
  expect(looksAt("link", { used: true })).toEqual([false, true]);
  expect(looksAt("link")).toEqual([false, false]);
});
