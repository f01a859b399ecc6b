/** What a whitelist makes of paths. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { characters, compileName } from "./glob.ts";
import { GlobError, type Verdict, Whitelist } from "./whitelist.ts";

const bytes = (text: string) => Buffer.from(text).toString("latin1");
const matches = (glob: string, name: string) => compileName(glob)(characters(bytes(name)));

describe("a glob over one name", () => {
  test.each<[string, string, boolean]>([
    ["a", "a", true],
    ["a", "b", false],
    ["a", "A", false],
    ["*", "", true],
    ["*", ".hidden", true],
    ["*.c", "main.c", true],
    ["*.c", "main.h", false],
    ["a*b*c", "a-b-b-c", true],
    ["a*b*c", "a-c-b", false],
    ["?", "é", true],
    ["??", "é", false],
    ["[é]", "é", true],
    ["[a-f]", "c", true],
    ["[!a-f]", "c", false],
    ["[^a-f]", "z", true],
    ["[]]", "]", true],
    ["[!]]", "]", false],
    ["[a-]", "-", true],
    ["[\\]]", "]", true],
    ["[[]", "[", true],
    ["\\*", "*", true],
    ["\\*", "a", false],
    ["\\{", "{", true],
    ["caf*", "café", true],
    ["日?語", "日本語", true],
    ["💾", "💾", true],
  ])("%s and %s", (glob, name, is) => {
    expect(matches(glob, name)).toBe(is);
  });

  test("a byte that is no UTF-8 is one of its own", () => {
    const name = "x\xff\xc3\xa9\xe2\x82";
    expect(characters(name)).toEqual([0x78, 0x1100ff, 0xe9, 0x1100e2, 0x110082]);
    expect(compileName("x?é??")(characters(name))).toBe(true);
    expect(compileName("xÿ*")(characters(name))).toBe(false);
    expect(compileName("[!a]*")(characters("\xff"))).toBe(true);
    // Overlong, a surrogate, beyond Unicode.
    expect(characters("\xc0\xaf")).toHaveLength(2);
    expect(characters("\xed\xa0\x80")).toHaveLength(3);
    expect(characters("\xf4\x90\x80\x80")).toHaveLength(4);
  });

  test("characters are what a decoder finds", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme" }), (text) => {
        const expected = [...text].map((character) => character.codePointAt(0) as number);
        expect(characters(bytes(text))).toEqual(expected);
      }),
    );
  });

  test("many stars cost no time", () => {
    const glob = compileName("*a".repeat(60) + "b");
    const name = characters("a".repeat(255));
    const before = performance.now();
    expect(glob(name)).toBe(false);
    expect(performance.now() - before).toBeLessThan(500);
  });

  test.each(["[", "[a", "[!", "a\\", "{a,b}", "[z-a]", "[a\\"])("%s is none", (glob) => {
    expect(() => compileName(glob)).toThrow(GlobError);
  });
});

describe("a path", () => {
  const verdict = (path: string, allow: string[], deny: string[] = []) =>
    new Whitelist({ allow, deny }).of(path).verdict;
  test.each<[string, string[], string[], Verdict]>([
    ["", [], [], "allowed"],
    ["a/b", [], [], "allowed"],
    ["", ["src/**"], [], "passage"],
    ["src", ["src/**"], [], "allowed"],
    ["src/a/b", ["src/**"], [], "allowed"],
    ["srcs", ["src/**"], [], "hidden"],
    ["src/a", ["src/"], [], "allowed"],
    ["src/a", ["src"], [], "hidden"],
    ["src", ["src/*.c"], [], "passage"],
    ["src/a.c", ["src/*.c"], [], "allowed"],
    ["src/a.c/x", ["src/*.c"], [], "hidden"],
    ["src/d/a.c", ["src/*.c"], [], "hidden"],
    ["x", ["**/*.c"], [], "passage"],
    ["x/y/a.c", ["**/*.c"], [], "allowed"],
    ["a.c", ["**/*.c"], [], "allowed"],
    ["a/x/b", ["a/**/b"], [], "allowed"],
    ["a/b", ["a/**/b"], [], "allowed"],
    ["b", ["a/**/b"], [], "hidden"],
    ["a", ["/a"], [], "allowed"],
    ["a", ["./a"], [], "allowed"],
    ["secret", [], ["secret"], "hidden"],
    ["secret/a", [], ["secret"], "hidden"],
    ["a/secret", [], ["secret"], "allowed"],
    ["a/secret/b", [], ["**/secret"], "hidden"],
    ["src/key", ["src/**"], ["**/key"], "hidden"],
    ["src/other", ["src/**"], ["**/key"], "allowed"],
    ["a", ["a"], ["a"], "hidden"],
    ["", [], ["**"], "passage"],
    ["a", [], ["**"], "hidden"],
    ["café", ["caf\u00e9"], [], "allowed"],
  ])("%s with allow %p, deny %p is %s", (path, allow, deny, expected) => {
    expect(verdict(bytes(path), allow, deny)).toBe(expected);
  });

  test.each(["..", "a/../b", "a//b", "", ".", "a\0b"])("glob %p is refused", (glob) => {
    expect(() => new Whitelist({ allow: [glob] })).toThrow(GlobError);
  });

  test("too many are refused", () => {
    expect(() => new Whitelist({ deny: Array(300).fill("a") })).toThrow(GlobError);
  });
});

const name = fc.constantFrom("a", "b", "c");
const path = fc.array(name, { maxLength: 5 }).map((names) => names.join("/"));
const glob = fc
  .array(fc.constantFrom("a", "b", "*", "?", "**", "[ab]"), { minLength: 1, maxLength: 4 })
  .map((names) => names.join("/"));
const globs = fc.array(glob, { maxLength: 3 });

/** The same by a regular expression, for small paths. */
function byExpression(glob: string): RegExp {
  const parts = glob
    .split("/")
    .map((part) =>
      part === "**" ? "(/[^/]+)*" : `/${part.replaceAll("*", "[^/]*").replaceAll("?", "[^/]")}`,
    );
  return new RegExp(`^${parts.join("")}$`);
}

describe("properties", () => {
  test("verdicts are those of regular expressions", () => {
    fc.assert(
      fc.property(globs, globs, path, (allow, deny, path) => {
        const is = (glob: string, path: string) =>
          byExpression(glob).test(path === "" ? "" : `/${path}`);
        const above = path.split("/").map((_, i, names) => names.slice(0, i + 1).join("/"));
        const denied = [...(path === "" ? [] : [""]), ...above].some((one) =>
          deny.some((glob) => is(glob, one)),
        );
        const allowed = !denied && (allow.length === 0 || allow.some((glob) => is(glob, path)));
        const { verdict } = new Whitelist({ allow, deny }).of(path);
        expect(verdict === "allowed").toBe(allowed);
        if (denied && path !== "") expect(verdict).toBe("hidden");
      }),
      { numRuns: 3000 },
    );
  });

  test("what is allowed can be reached: all above it can be passed", () => {
    fc.assert(
      fc.property(globs, globs, path, (allow, deny, path) => {
        const whitelist = new Whitelist({ allow, deny });
        if (whitelist.of(path).verdict === "hidden") return;
        const names = path.split("/");
        for (let i = 0; i < names.length; i++) {
          expect(whitelist.of(names.slice(0, i).join("/")).verdict).not.toBe("hidden");
        }
      }),
      { numRuns: 3000 },
    );
  });

  test("what is the same below is", () => {
    let same = 0;
    fc.assert(
      fc.property(globs, globs, path, path, path, (allow, deny, a, b, below) => {
        const whitelist = new Whitelist({ allow, deny });
        if (!whitelist.sameBelow(whitelist.of(a), whitelist.of(b)) || below === "") return;
        same++;
        const at = (path: string) => whitelist.of(path === "" ? below : `${path}/${below}`).verdict;
        expect(at(a)).toBe(at(b));
      }),
      { numRuns: 5000 },
    );
    expect(same).toBeGreaterThan(500);
  });
});
