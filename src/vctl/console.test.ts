import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { EscapeFilter } from "./console.ts";

/** What of a text reaches the guest, and the commands in it. */
function typed(...pieces: string[]): [string, ...string[]] {
  const filter = new EscapeFilter();
  const results = pieces.map((piece) => filter.filter(Buffer.from(piece, "latin1")));
  const forward = Buffer.concat(results.map((result) => result.forward)).toString("latin1");
  return [forward, ...results.flatMap((result) => result.commands)];
}

describe("escapes at the start of a line", () => {
  test.each([
    ["~.", ["", "end"]],
    ["~?", ["", "help"]],
    ["~~", ["~"]],
    ["~~.", ["~."]],
    ["~x", ["~x"]],
    ["ls\r~.", ["ls\r", "end"]],
    ["ls\n~?", ["ls\n", "help"]],
    ["~?~.", ["", "help", "end"]],
    ["~?ls", ["ls", "help"]],
    ["~x~.", ["~x~."]],
    ["~\r~.", ["~\r", "end"]],
    ["a~.", ["a~."]],
    ["a~.\r", ["a~.\r"]],
    ["~~\r~.", ["~\r", "end"]],
  ] as [string, [string, ...string[]]][])("%j", (text, wanted) => {
    expect(typed(text)).toEqual(wanted);
    // A byte at a time is the same.
    expect(typed(...text)).toEqual(wanted);
  });
});

test("a tilde waits for what comes after it", () => {
  expect(typed("~")).toEqual([""]);
  expect(typed("~", "a")).toEqual(["~a"]);
});

test("bytes that are no text pass", () => {
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i).filter((byte) => byte !== 0x7e);
  expect([...new EscapeFilter().filter(bytes).forward]).toEqual([...bytes]);
});

test("how the bytes are cut into pieces doesn't matter, and without tildes all pass", () => {
  const texts = fc.array(fc.constantFrom("~", ".", "?", "\r", "\n", "a", "\x1b"), {
    maxLength: 30,
  });
  fc.assert(
    fc.property(texts, fc.nat(), (characters, seed) => {
      const text = characters.join("");
      const cut = text.length === 0 ? 0 : seed % text.length;
      const whole = typed(text);
      expect(typed(text.slice(0, cut), text.slice(cut))).toEqual(whole);
      expect(typed(...text)).toEqual(whole);
      if (!text.includes("~")) expect(whole).toEqual([text]);
    }),
    { seed: 1, numRuns: 1000 },
  );
});
