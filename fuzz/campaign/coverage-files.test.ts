import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { drcov } from "./drcov.ts";
import { lcov } from "./lcov.ts";

const SEED = 20261130;

/**
 * Reads a file as Lighthouse's reader of drcov does, word by word. What it needs of which line:
 *
 * 1. what is behind ":" is 2; 2. a ":"; 3. of what is behind ": " two parts with ", " between them, each
 * two words: a version that it knows, 2 to 5, and how many modules there are; 4. one ": ".
 *
 * For each module a line of parts with ", " between them: a decimal number, which the records name, three
 * hexadecimal ones (base, end, entry), and the path, of which the last part counts, and of that the file's
 * name: by that a module is found. With seven parts the fifth and sixth are numbers, too.
 *
 * Then a line whose second part behind ": " is a number and one word. Then so many records without any
 * space: offset u32, size u16, module u16, little-endian; "module id" there would be text. An address is
 * the offset and where the disassembler has the module's first byte.
 */
function readDrcov(file: Uint8Array) {
  const text = new TextDecoder("latin1").decode(file);
  const match =
    /^DRCOV VERSION: 2\nDRCOV FLAVOR: drcov\nModule Table: version 2, count (\d+)\nColumns: id, base, end, entry, path\n([^]*?)BB Table: (\d+) bbs\n/.exec(
      text,
    )!;
  const [head, count, table, bbs] = match;
  const modules = table.trimEnd().split("\n").filter(Boolean);
  expect(modules.length).toBe(Number(count));
  const view = new DataView(file.buffer, head.length);
  expect(view.byteLength).toBe(8 * Number(bbs));
  const blocks = Array.from({ length: Number(bbs) }, (_, i) => ({
    offset: view.getUint32(8 * i, true),
    size: view.getUint16(8 * i + 4, true),
    id: view.getUint16(8 * i + 6, true),
  }));
  const columns = modules.map((line) => line.trim().split(", "));
  for (const [index, [id, base, end, entry, ...path]] of columns.entries()) {
    expect(id).toBe(String(index));
    for (const number of [base, end, entry]) expect(number).toMatch(/^0x[0-9a-f]{16}$/);
    expect(path).toHaveLength(1);
  }
  return { modules: columns, blocks };
}

const kernel = { path: "/boot/vmlinux", base: 0xffffffff81000000n, end: 0xffffffff82000000n };
const program = { path: "parser, with, commas", base: 0x400000n, end: 0x500000n };

describe("drcov", () => {
  test("has modules with their places, and blocks in them", () => {
    const file = drcov(
      [kernel, program],
      [
        { address: 0x400010n, size: 7 },
        { address: 0xffffffff81000123n, size: 300 },
        { address: 0x400010n, size: 7 },
        { address: 0x10n, size: 4 },
        { address: 0x500000n, size: 4 },
      ],
    );
    const { modules, blocks } = readDrcov(file);
    expect(modules[0]).toEqual([
      "0",
      "0xffffffff81000000",
      "0xffffffff82000000",
      "0x0000000000000000",
      "/boot/vmlinux",
    ]);
    expect(modules[1][4]).toBe("parser_ with_ commas");
    expect(blocks).toEqual([
      { offset: 0x10, size: 7, id: 1 },
      { offset: 0x123, size: 300, id: 0 },
    ]);
  });

  test("covers each byte of large blocks, and no other", () => {
    const block = fc.record({
      address: fc.bigInt({ min: 0x3ffff0n, max: 0x500010n }),
      size: fc.nat(200_000),
    });
    fc.assert(
      fc.property(fc.array(block, { maxLength: 4 }), (given) => {
        const total = given
          .filter(({ address }) => address >= program.base && address < program.end)
          .filter(({ address, size }, i, all) => {
            const first = all.findIndex((one) => one.address === address && one.size === size);
            return first === i;
          })
          .reduce((sum, { size }) => sum + size, 0);
        const { blocks } = readDrcov(drcov([program], given));
        const parts = blocks.reduce((sum, { size }) => sum + size, 0);
        // Parts of two blocks can be the same one.
        expect(parts).toBeLessThanOrEqual(total);
        if (given.length <= 1) expect(parts).toBe(total);
      }),
      { seed: SEED },
    );
  });
});

test("lcov has lines, functions and branches, counted", () => {
  const text = lcov([
    {
      path: "src/parse.ts",
      lines: new Map([
        [12, 0],
        [3, 5],
      ]),
      functions: [
        { name: "parse", line: 3, count: 5 },
        { name: "never", line: 12, count: 0 },
      ],
      branches: [
        { line: 3, block: 0, branch: 0, count: 5 },
        { line: 3, block: 0, branch: 1, count: 0 },
        { line: 12, block: 0, branch: 0 },
      ],
    },
    { path: "src/empty.ts", lines: new Map() },
  ]);
  expect(text).toBe(`TN:
SF:src/parse.ts
FN:3,parse
FN:12,never
FNDA:5,parse
FNDA:0,never
FNF:2
FNH:1
BRDA:3,0,0,5
BRDA:3,0,1,0
BRDA:12,0,0,-
BRF:3
BRH:1
DA:3,5
DA:12,0
LF:2
LH:1
end_of_record
TN:
SF:src/empty.ts
LF:0
LH:0
end_of_record
`);
});
