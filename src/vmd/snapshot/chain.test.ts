/** Which snapshots are looked at whole before anything runs. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import {
  closeSync,
  copyFileSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Vm } from "../vm.ts";
import { openSnapshot } from "./chain.ts";

setDefaultTimeout(60_000);

let folder = "";
let firmware = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "chains-"));
  firmware = join(folder, "firmware");
  const bytes = new Uint8Array(4096).fill(0xf4);
  // At the reset vector: a jump to itself.
  bytes.set([0xeb, 0xfe], 4096 - 16);
  writeFileSync(firmware, bytes);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Whether all of a snapshot would be looked at. */
function verifies(path: string): boolean {
  const { inputs } = openSnapshot(path);
  for (const { descriptor } of inputs) closeSync(descriptor);
  return inputs.some(({ verify }) => verify);
}

async function restored(path: string): Promise<void> {
  const vm = await Vm.restore(path);
  await vm.stop();
}

test("a snapshot is looked at whole, once, unless it was written here", async () => {
  const vm = await Vm.start({ kernel: firmware, memory: 2 ** 20, engine: "unicorn" });
  const partial = join(folder, "a.partial");
  const path = join(folder, "a");
  await vm.snapshot(partial, { stop: true });
  await vm.ended;
  // Under which name, is no matter.
  renameSync(partial, path);
  expect(verifies(path)).toBe(false);

  const copy = join(folder, "copy");
  copyFileSync(path, copy);
  expect(verifies(copy)).toBe(true);
  await restored(copy);
  expect(verifies(copy)).toBe(false);
  await restored(copy);

  // Somebody writes into it.
  const file = openSync(copy, "r+");
  writeSync(file, Uint8Array.of(1), 0, 1, statSync(copy).size - 5000);
  closeSync(file);
  const later = Date.now() / 1000 + 1;
  utimesSync(copy, later, later);
  expect(verifies(copy)).toBe(true);
  await expect(restored(copy)).rejects.toThrow("damaged");
  expect(verifies(copy)).toBe(true);
});
