import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Dictionary, DictionaryError, parseDictionary, readDictionary } from "./dictionary.ts";
import { Random } from "./random.ts";

const SEED = 20261130;
const text = (bytes: Uint8Array) => String.fromCharCode(...bytes);

describe("a dictionary file", () => {
  test("has names, levels, comments and escapes", () => {
    const file = [
      "# words of PNG",
      "",
      'header_png="\\x89PNG\\x0d\\x0a"',
      'IHDR@2 = "IHDR"',
      '"\\"quoted\\\\\\""',
      ' x.y-1="=" ',
    ].join("\n");
    expect(parseDictionary(file, "png.dict").map(text)).toEqual([
      "\x89PNG\r\n",
      "IHDR",
      '"quoted\\"',
      "=",
    ]);
  });

  test.each([
    ['ok="a"\nnothing', 'd:2: this is no name="value".'],
    ['a="b\\q"', 'd:1: "\\\\" is no \\xNN, \\\\ or \\".'],
    ['a="b"c"', 'd:1: "\\"" is no \\xNN, \\\\ or \\".'],
    ['\na=""', "d:2: the token is empty."],
    [`a="${"x".repeat(129)}"`, "d:1: the token has more than 128 bytes."],
  ])("that is wrong is told by its line: %j", (file, message) => {
    expect(() => parseDictionary(file, "d")).toThrow(new DictionaryError(message));
  });

  test("that can't be read is told", () => {
    expect(() => readDictionary("/nonexistent.dict")).toThrow(
      /^can't read the dictionary \/nonexistent\.dict: /,
    );
  });

  test("gives any bytes back", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 128 }), (bytes) => {
        const escaped = [...bytes].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`);
        expect(parseDictionary(`a="${escaped.join("")}"`, "d")).toEqual([bytes]);
      }),
      { seed: SEED },
    );
  });
});

describe("tokens that are found", () => {
  test("give way to others, those of the file don't", () => {
    const random = new Random(SEED);
    const dictionary = new Dictionary([Uint8Array.of(1, 2), Uint8Array.of(1, 2)]);
    expect(dictionary.size).toBe(1);
    for (let i = 0; i < 5000; i++) dictionary.add(Uint8Array.of(9, i, i >> 8), random);
    expect(dictionary.size).toBe(513);
    const seen = new Set<string>();
    for (let i = 0; i < 20_000; i++) seen.add(dictionary.pick(random)!.toHex());
    expect(seen.has("0102")).toBe(true);
    expect(seen.size).toBe(513);
  });

  test("are words, no single bytes", () => {
    const dictionary = new Dictionary();
    dictionary.add(Uint8Array.of(1), new Random(1));
    dictionary.add(new Uint8Array(129), new Random(1));
    expect(dictionary.size).toBe(0);
    expect(dictionary.pick(new Random(1))).toBeUndefined();
  });
});
