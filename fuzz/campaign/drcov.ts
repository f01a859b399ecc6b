/** Covered blocks in DynamoRIO's drcov format, version 2: what Lighthouse, Cartographer and their like read. */

/** A program, a kernel or a library, where it lies in memory. */
export interface Module {
  readonly path: string;
  /** Its first byte, from which readers count, and the first one behind it. */
  readonly base: bigint;
  readonly end: bigint;
}

export interface Block {
  readonly address: bigint;
  /** Bytes. */
  readonly size: number;
}

/** Bytes of a record: offset in the module (4), size (2), module (2). */
const RECORD = 8;
/** A record's largest size: larger blocks become several. */
const MAX_SIZE = 0xffff;
const MAX_OFFSET = 0xffff_ffffn;

const hex = (value: bigint) => `0x${value.toString(16).padStart(16, "0")}`;

/** Readers cut a line at each comma, and count the pieces: with seven they take two of them for numbers. */
const plain = (path: string) => path.replaceAll(/[,\r\n]/g, "_");

/** Whole file. Blocks outside of all modules are left out, and each block is there once. */
export function drcov(modules: readonly Module[], blocks: Iterable<Block>): Uint8Array {
  const records = new Map<string, readonly [offset: number, size: number, id: number]>();
  for (const { address, size } of blocks) {
    const id = modules.findIndex(({ base, end }) => address >= base && address < end);
    if (id < 0) continue;
    for (let done = 0; done < size; done += MAX_SIZE) {
      const offset = address + BigInt(done) - modules[id].base;
      if (offset > MAX_OFFSET) break;
      const part = Math.min(MAX_SIZE, size - done);
      records.set(`${id}:${offset}:${part}`, [Number(offset), part, id]);
    }
  }
  const table = modules.map(
    ({ path, base, end }, id) => ` ${id}, ${hex(base)}, ${hex(end)}, ${hex(0n)}, ${plain(path)}`,
  );
  const head = [
    "DRCOV VERSION: 2",
    "DRCOV FLAVOR: drcov",
    `Module Table: version 2, count ${modules.length}`,
    "Columns: id, base, end, entry, path",
    ...table,
    `BB Table: ${records.size} bbs`,
  ];
  const text = new TextEncoder().encode(`${head.join("\n")}\n`);
  const file = new Uint8Array(text.length + RECORD * records.size);
  file.set(text);
  const view = new DataView(file.buffer, text.length);
  let at = 0;
  for (const [offset, size, id] of records.values()) {
    view.setUint32(at, offset, true);
    view.setUint16(at + 4, size, true);
    view.setUint16(at + 6, id, true);
    at += RECORD;
  }
  return file;
}
