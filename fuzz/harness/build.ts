/** Programs for a bare machine, from C: what this folder's README says by hand. */
import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";

const FLAGS = [
  ..."-O2 -g -std=gnu11 -Wall -Wextra -ffreestanding -fno-pic -no-pie -nostdlib -static".split(" "),
  ..."-mno-red-zone -fno-stack-protector -fno-omit-frame-pointer".split(" "),
  `-Wl,-T,${join(import.meta.dir, "link.ld")},--build-id=none,-z,noexecstack`,
  ..."-z max-page-size=4096".split(" "),
];

/** Why none can be built here, as a sentence; undefined: they can. */
export function buildMissing(): string | undefined {
  return Bun.which("gcc") === null ? "there is no gcc" : undefined;
}

/**
 * Builds a program of these C files, to be booted as a kernel.
 * @param out where it goes
 * @param more words for gcc
 * @throws Error with what the compiler said
 */
export function buildBare(
  sources: readonly string[],
  out: string,
  more: readonly string[] = [],
): string {
  mkdirSync(dirname(out), { recursive: true });
  const files = [join(import.meta.dir, "start.S"), ...sources];
  const command = ["gcc", ...FLAGS, ...more, `-I${import.meta.dir}`, "-o", out, ...files];
  const { exitCode, stderr } = Bun.spawnSync(command);
  if (exitCode !== 0) throw new Error(`${out}:\n${stderr.toString()}`);
  return out;
}

/** The parser that fuzzers are compared with: tlv.c, in a machine of its own. */
export const TLV_SOURCES = ["guest.c", "tlv.c"].map((file) => join(import.meta.dir, file));
