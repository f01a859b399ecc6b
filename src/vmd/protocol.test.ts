/** Requests as lines: what is taken, what is refused, and that nothing else happens. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { LONGEST_REQUEST, parseRequest, ProtocolError } from "./protocol.ts";

setDefaultTimeout(60_000);

const line = (body: object) => JSON.stringify({ version: 1, id: 1, ...body });

function refusal(text: string): ProtocolError {
  try {
    parseRequest(text);
  } catch (error) {
    if (error instanceof ProtocolError) return error;
    throw error;
  }
  throw new Error(`${text} was taken`);
}

describe("requests that are taken", () => {
  test.each([
    [{ request: "hello" }, { request: "hello" }],
    [{ request: "status" }, { request: "status", running: false }],
    [
      { request: "stop", vm: 3 },
      { request: "stop", vm: 3, force: false, wait: false },
    ],
    [{ request: "reset" }, { request: "reset", what: "all" }],
    [
      { request: "exits", vm: "web" },
      { request: "exits", vm: "web", time: 1000 },
    ],
  ])("%j", (body, wanted) => {
    expect(parseRequest(line(body))).toEqual({ id: 1, body: wanted as never });
  });

  test("start, with everything", () => {
    const start = {
      request: "start",
      vm: "a.b-c_9",
      kernel: "/k",
      initrd: "/i",
      memory: 2 ** 29,
      disks: [{ path: "/d", format: "qcow2" }, { path: "/e" }],
      interfaces: [{ switch: "s" }, { local: true }],
      bits: 32,
      engine: "auto",
    };
    const { body } = parseRequest(line(start));
    expect(body).toMatchObject({ ...start, interfaces: [{ local: false }, { local: true }] });
  });
});

describe("requests that are refused", () => {
  test.each([
    ["", "a request is a line of JSON"],
    ["{", "a request is a line of JSON"],
    ["[]", "a request is a JSON object"],
    ["null", "a request is a JSON object"],
    ["{}", "a request has an id, an integer"],
    ['{"id":1.5}', "a request has an id, an integer"],
    ['{"id":1}', "this is version 1 of the protocol"],
    ['{"id":1,"version":2,"request":"status"}', "this is version 1 of the protocol"],
    [line({}), "unknown request"],
    [line({ request: "frob" }), "unknown request"],
    [line({ request: "toString" }), "unknown request"],
    [line({ request: "__proto__" }), "unknown request"],
    [line({ request: "stop", vm: "" }), "vm: missing VM name"],
    [line({ request: "stop", vm: "-x" }), "vm: invalid VM name"],
    [line({ request: "stop", vm: "x".repeat(64) }), "vm: name too long"],
    [line({ request: "stop", vm: "12" }), "vm: invalid VM name"],
    [line({ request: "start", vm: "x", kernel: "relative" }), /^kernel: /],
    [
      line({ request: "start", vm: "x", disks: Array.from({ length: 5 }, () => ({ path: "/d" })) }),
      /too many disks/,
    ],
    [line({ request: "start", vm: "x", unknown: 1 }), /unknown/],
    [line({ request: "start", vm: "x", memory: 1 }), /^memory: /],
    [line({ request: "log", level: "loud" }), /^level: /],
  ])("%s", (text, message) => {
    const { message: said } = refusal(text);
    if (typeof message === "string") expect(said).toBe(message);
    else expect(said).toMatch(message);
    expect(said).not.toContain("\n");
  });
});

const names = [
  "request",
  "vm",
  "kernel",
  "disks",
  "memory",
  "interfaces",
  "force",
  "what",
  "level",
];
const requests = ["start", "stop", "status", "console", "load", "reset", "log", "exits", "wait"];

test("10,000 requests of any shape are taken or refused, nothing else", () => {
  const body = fc.dictionary(fc.constantFrom(...names, "x"), fc.jsonValue({ maxDepth: 3 }), {
    maxKeys: 8,
  });
  const request = fc.record({
    version: fc.constantFrom(1, 1, 1, 2, "1", null),
    id: fc.oneof(fc.constant(1), fc.jsonValue({ maxDepth: 1 })),
    request: fc.oneof(fc.constantFrom(...requests), fc.string()),
  });
  fc.assert(
    fc.property(body, request, fc.boolean(), fc.string(), (rest, head, damaged, noise) => {
      let text = JSON.stringify({ ...rest, ...head });
      if (damaged) {
        const at = noise.length % text.length;
        text = text.slice(0, at) + noise + text.slice(at + 1);
      }
      let taken;
      try {
        taken = parseRequest(text);
      } catch (error) {
        expect(error).toBeInstanceOf(ProtocolError);
        expect((error as Error).message.length).toBeLessThan(1000);
        return;
      }
      expect(
        requests.concat("hello", "show", "pause", "unpause", "metrics", "reload", "registers"),
      ).toContain(taken.body.request);
      // What was taken says the same again.
      expect(parseRequest(line(taken.body)).body).toEqual(taken.body);
    }),
    { seed: 20261128, numRuns: 10_000 },
  );
});

test("valid starts survive the way through", () => {
  const path = fc.string({ minLength: 1, maxLength: 100 }).map((text) => `/${text}`);
  const start = fc.record(
    {
      vm: fc.stringMatching(/^[A-Za-z][A-Za-z0-9._-]{0,20}$/),
      kernel: path,
      initrd: path,
      cmdline: fc.string({ maxLength: 1000, unit: "grapheme" }),
      memory: fc.integer({ min: 2 ** 20, max: 2 ** 37 }),
      disks: fc.array(fc.record({ path }), { maxLength: 4 }),
      engine: fc.constantFrom("auto", "kvm", "unicorn"),
    },
    { requiredKeys: ["vm"] },
  );
  fc.assert(
    fc.property(start, (options) => {
      const text = line({ request: "start", ...options });
      expect(text.length).toBeLessThan(LONGEST_REQUEST);
      expect(parseRequest(text).body).toMatchObject(options);
    }),
    { seed: 20261128, numRuns: 2000 },
  );
});

test("what is said of a request is one line, and not long", () => {
  for (const name of ["a\u001b[31m\n\u009b", "x".repeat(5000)]) {
    for (const body of [
      { request: "hello", [name]: 1 },
      { request: "start", vm: 1, gdb: { [name]: 1 } },
    ]) {
      const { message, id } = refusal(line(body));
      expect(id).toBe(1);
      expect(message.length).toBeLessThan(600);
      // oxlint-disable-next-line no-control-regex
      expect(message).not.toMatch(/[\x00-\x1f\x7f-\x9f]/);
    }
  }
});
