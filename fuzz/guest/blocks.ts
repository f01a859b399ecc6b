/**
 * Where a guest's blocks of code begin, for engines that can't find out: addresses, a line each, or a
 * file in DynamoRIO's drcov format (version 2), as --drcov writes it.
 */
import { readFileSync } from "node:fs";
import { FuzzError } from "./machine.ts";

/** Bytes of a drcov record: offset in the module (4), size (2), module (2). */
const RECORD = 8;

/** Linear addresses, each once. @throws FuzzError */
export function readBlocks(path: string): bigint[] {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new FuzzError(`${path}: ${(error as Error).message}`);
  }
  const isDrcov = bytes.toString("latin1", 0, 14) === "DRCOV VERSION:";
  const found = isDrcov ? drcovBlocks(bytes) : textBlocks(bytes.toString("latin1"));
  if (found === undefined || found.length === 0) {
    throw new FuzzError(`${path}: no addresses of blocks in it`);
  }
  return [...new Set(found)];
}

function textBlocks(text: string): bigint[] {
  return Array.from(text.matchAll(/^\s*(?:0x)?([0-9a-fA-F]{1,16})\b/gm), ([, digits]) =>
    BigInt(`0x${digits}`),
  );
}

function drcovBlocks(bytes: Buffer): bigint[] | undefined {
  const text = bytes.toString("latin1");
  const table = /BB Table: (\d+) bbs\n/.exec(text);
  if (table === null) return undefined;
  const modules = text.slice(0, table.index).matchAll(/^\s*\d+, 0x([0-9a-f]+), /gm);
  const bases = Array.from(modules, ([, base]) => BigInt(`0x${base}`));
  const start = table.index + table[0].length;
  const count = Math.min(Number(table[1]), Math.floor((bytes.length - start) / RECORD));
  const found: bigint[] = [];
  for (let at = start; at < start + count * RECORD; at += RECORD) {
    const base = bases[bytes.readUInt16LE(at + 6)];
    if (base !== undefined) found.push(base + BigInt(bytes.readUInt32LE(at)));
  }
  return found;
}
