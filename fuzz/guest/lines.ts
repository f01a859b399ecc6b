/** From a guest's addresses to lines of its sources, by addr2line of binutils and the ELF file's DWARF. */
import { lcov, type SourceFile } from "../campaign/index.ts";
import { FuzzError } from "./machine.ts";

/** Addresses that addr2line is given at once. */
const PIECE = 4096;

/**
 * A tracefile of the lines that begin blocks, each with how many of the inputs entered it.
 * @param blocks linear addresses; counts of inputs
 * @throws FuzzError
 */
export function linesOf(elf: string, blocks: ReadonlyMap<bigint, number>): string {
  if (Bun.which("addr2line") === null) {
    throw new FuzzError("there is no addr2line (Debian package binutils), which knows lines");
  }
  const addresses = [...blocks.keys()];
  const files = new Map<string, Map<number, number>>();
  for (let at = 0; at < addresses.length; at += PIECE) {
    const piece = addresses.slice(at, at + PIECE);
    const places = placesOf(elf, piece);
    places.forEach((place, index) => {
      const [, path, line] = /^(.+):(\d+)(?: |$)/.exec(place) ?? [];
      if (path === undefined || path === "??" || line === "0") return;
      const lines = files.get(path) ?? new Map<number, number>();
      files.set(path, lines);
      const count = blocks.get(piece[index]) ?? 0;
      lines.set(Number(line), Math.max(count, lines.get(Number(line)) ?? 0));
    });
  }
  if (files.size === 0)
    throw new FuzzError(`${elf}: it doesn't say which lines its code comes from`);
  return lcov(Array.from(files, ([path, lines]): SourceFile => ({ path, lines })));
}

function placesOf(elf: string, addresses: readonly bigint[]): string[] {
  const { exitCode, stdout, stderr } = Bun.spawnSync(["addr2line", "-e", elf], {
    stdin: Buffer.from(addresses.map((address) => `0x${address.toString(16)}\n`).join("")),
  });
  if (exitCode !== 0) throw new FuzzError(`${elf}: ${stderr.toString().trim().split("\n")[0]}`);
  return stdout.toString().trimEnd().split("\n");
}
