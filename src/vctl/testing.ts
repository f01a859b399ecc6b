/** For tests of commands: vctl as a user runs it, and guests of a few instructions. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";

export const VCTL = join(import.meta.dir, "index.ts");

/** Runs vctl to its end. */
export function vctl(...args: string[]) {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, VCTL, ...args], {
    stdin: "ignore",
    timeout: 60_000,
  });
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
}

/** Firmware of a few real-mode instructions, at the reset vector by a jump; its path. */
export function firmware(folder: string, name: string, code: string): string {
  const bytes = new Uint8Array(4096).fill(0xf4);
  bytes.set(Uint8Array.fromHex(code.replaceAll(" ", "")), 0);
  bytes.set([0xe9, 0x0d, 0xf0], 0xff0); // jmp to offset 0: 0xfff0 + 3 - 0xff3 = 0xf000
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}
