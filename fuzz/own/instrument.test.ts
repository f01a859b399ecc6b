import { expect, test } from "bun:test";
import { instrument } from "./instrument.ts";

const lines = (source: string) => instrument(source, "x.ts", 100, "c").lines;

/** What a function gives, its source instrumented, and which of its blocks it entered. */
function run(source: string, ...args: unknown[]) {
  const { code } = instrument(source, "x.ts", 0, "c");
  const body = code.replace(/^import [^;]*;/, "").replace("export default", "return");
  const hits: number[] = [];
  const compares: unknown[] = [];
  const sizes: unknown[] = [];
  const names = {
    $hit: (place: number) => void hits.push(place),
    $allocate: (width: number, length: unknown) => {
      sizes.push([width, length]);
      return length;
    },
    $tracing: true,
    $choose: (_: number, value: unknown, cases: unknown[]) => {
      compares.push([value, cases]);
      return value;
    },
    ...Object.fromEntries(
      (
        [
          ["eq", (a, b) => a === b],
          ["ne", (a, b) => a !== b],
          ["lt", (a, b) => a < b],
          ["le", (a, b) => a <= b],
          ["gt", (a, b) => a > b],
          ["ge", (a, b) => a >= b],
        ] as [string, (a: number, b: number) => boolean][]
      ).map(([name, compare]) => [
        `$${name}`,
        (_: number, a: number, b: number) => {
          compares.push([a, b]);
          return compare(a, b);
        },
      ]),
    ),
  };
  const script = new Bun.Transpiler({ loader: "ts" }).transformSync(`(() => {${body}})()`);
  // oxlint-disable-next-line no-new-func
  const made = new Function(...Object.keys(names), `return ${script}`)(...Object.values(names));
  return { result: made(...args), hits, compares, sizes };
}

test("both sides of what branches are places, on their lines", () => {
  const source = `function f(a: number) {
  if (a > 5) return 1;
  for (const one of [a]) g(one);
  switch (a) {
    case 3:
      return 2;
    default:
      return a ? 4 : 5;
  }
}
`;
  // The function, then, else, loop, two cases, and both values.
  expect(lines(source)).toEqual([1, 2, 2, 3, 6, 8, 8, 8]);
});

test("what is made for a pool that is empty, and how it is made, is no place", () => {
  const source = `class A {
  constructor() {
    this.b = 1;
  }
  take() {
    return this.pool.pop() ?? new A();
  }
}
`;
  expect(lines(source)).toEqual([5]);
});

test("it does what it did", () => {
  const source = `export default function f(a: number, b?: string): unknown {
  let text = "";
  if (a === 7) text += "seven";
  else if (a > 7) text += "more"; else text += "less";
  for (let i = 0; i < a; i++) if (i % 2) text += i;
  do text += "!"; while (text.length < 3);
  const g = (x: number) => x === a && b !== undefined ? { x } : (b ?? "none");
  switch (text.length) {
    case 3: text += "three"; break;
    case -1: return 0;
    default: { text += "other"; }
  }
  try { if (a < 0) throw new Error("negative"); } catch { text += "caught"; }
  return [text, g(a), new Uint8Array(a > 0 ? a : 0).length, new Map([[1, 2]]).size];
}`;
  const plain = new Bun.Transpiler({ loader: "ts" }).transformSync(
    `(() => {${source.replace("export default", "return")}})()`,
  );
  // oxlint-disable-next-line no-new-func
  const original = new Function(`return ${plain}`)();
  for (const args of [[7], [9, "b"], [0], [-3, "x"], [3]] as const) {
    expect(run(source, ...args).result).toEqual(original(...args));
  }
});

test("an else that isn't there is a place, too", () => {
  const source = "export default (a: number) => { if (a > 5) a++; return a; }";
  expect(run(source, 9).hits).toEqual([0, 1]);
  expect(run(source, 1).hits).toEqual([0, 2]);
});

test("comparisons tell what they compare, but for what coverage tells", () => {
  const source = `export default (a: number, b: unknown) => {
  if (a === 0x1234 && b !== undefined && typeof b === "string" && b === "magic") return 1;
  switch (a) { case 5: case K.SIX: return 2; default: return 3; }
  }
  const K = { SIX: 6 };`;
  const body = source
    .replace("export default", "const K = { SIX: 6 };\nexport default")
    .replace(/\n {2}const K = .*$/, "");
  expect(run(body, 0x1234, "other").compares).toEqual([
    [0x1234, 0x1234],
    ["other", "magic"],
    [0x1234, [5, 6]],
  ]);
  expect(run(body, 6, undefined).result).toBe(2);
});

test("what takes a length tells it", () => {
  const source = `export default (n: number) => [
    new Uint8Array(n), new Float64Array(2 * n), new Uint8Array([1, 2]), "x".repeat(n),
    Array.from({ length: n }, () => 0), new Map(), new Date(n),
  ].length`;
  expect(run(source, 4).sizes).toEqual([
    [1, 4],
    [8, 8],
    [1, 4],
    [8, 4],
  ]);
});

test("a file that can't be read is named", () => {
  expect(() => instrument("const = 1", "bad.ts", 0, "c")).toThrow("bad.ts");
});
