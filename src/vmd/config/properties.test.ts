/** Properties of vm.conf's parser: files by the thousand, wrong ones and right ones. */
import { afterAll, expect, test } from "bun:test";
import fc from "fast-check";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../../vmm/root.ts";
import { cleanUp, config, file, parse } from "./testing.ts";

afterAll(cleanUp);

const SEED = 20261128;

const words = [
  ..."vm switch boot disk memory owner interface local allow instance { } , = \n \n".split(" "),
  ...[
    "enable",
    "disable",
    "up",
    "format",
    "device",
    "lladdr",
    "locked",
    "staggered start parallel",
  ],
  ...['"web"', "'x'", "$m", "1G", "10.0.0.0/8", "include", "#", "\\\n", '"', "\\", "\r\n", "\0"],
  ...["m = ", "vm x {\n", 'include "vm.conf"\n', "}\n", "tap0", "alice:staff", "$", "\u{1f680}"],
];

/** Parses; any error is a sentence about a line that there is. */
function check(text: string): void {
  const lines = text.split("\n").length;
  const { config: found, errors, warnings } = parse(text, { m: "interface tap" });
  expect(found === undefined).toBe(errors.length > 0);
  for (const message of [...errors, ...warnings]) {
    expect(message.file).toBe(file);
    expect(message.line).toBeGreaterThanOrEqual(1);
    expect(message.line).toBeLessThanOrEqual(lines);
    // oxlint-disable-next-line no-control-regex
    expect(message.message).toMatch(/^[^\x00-\x1f]+$/);
  }
}

test("5,000 files of words in any order", () => {
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fc.constantFrom(...words), fc.string()), { maxLength: 60 }),
      fc.constantFrom(" ", "", "\n"),
      (parts, glue) => check(parts.join(glue)),
    ),
    { seed: SEED, numRuns: 5000 },
  );
}, 120_000);

test("5,000 changes of a right file", () => {
  const example = readFileSync(join(root, "examples/vm.conf"), "utf8");
  const by = fc.oneof(fc.string({ maxLength: 8 }), fc.constantFrom(...words));
  const change = fc.tuple(fc.nat(example.length), fc.nat(40), by);
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
      let text = example;
      for (const [at, cut, put] of changes) text = text.slice(0, at) + put + text.slice(at + cut);
      check(text);
    }),
    { seed: SEED, numRuns: 5000 },
  );
}, 120_000);

const name = fc.stringMatching(/^[a-z][a-z0-9._-]{0,20}$/);
const group = fc.stringMatching(/^[a-z]{1,15}$/);
const path = fc.stringMatching(/^\/[a-z0-9/ ."'\\#{},=$]{1,30}$/);
const maybe = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined });
const lladdr = fc
  .array(fc.nat(255), { minLength: 6, maxLength: 6 })
  .map((bytes) => bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(":"));

const network = fc.record({
  name,
  enable: fc.boolean(),
  group: maybe(group),
  interface: fc.constantFrom("bridge0", "veb12"),
  lockedLladdr: fc.boolean(),
  rdomain: maybe(fc.nat(255)),
  up: fc.boolean(),
});
const card = fc.record({
  local: fc.boolean(),
  tap: maybe(fc.nat(99).map((unit) => `tap${unit}`)),
  group: maybe(group),
  lladdr: maybe(lladdr),
  lockedLladdr: fc.boolean(),
  rdomain: maybe(fc.nat(255)),
  // By its number.
  switch: maybe(fc.nat(3)),
  up: fc.boolean(),
});
const owner = fc.constantFrom(
  ["alice", { user: "alice", uid: 1000 }],
  ["root:wheel", { user: "root", group: "wheel", uid: 0, gid: 0 }],
  [":staff", { group: "staff", gid: 50 }],
  ["7:8", { user: "7", group: "8", uid: 7, gid: 8 }],
) as fc.Arbitrary<[string, object]>;
const rights = fc.record({
  ...{ boot: fc.boolean(), cpus: fc.boolean(), cdrom: fc.boolean(), disk: fc.boolean() },
  ...{ instance: fc.boolean(), interface: fc.boolean(), memory: fc.boolean() },
  owner: maybe(owner),
});
const limits = fc
  .record({
    bytes: maybe(fc.integer({ min: 1, max: 2 ** 40 })),
    burst: maybe(fc.integer({ min: 1, max: 2 ** 40 })),
    operations: maybe(fc.integer({ min: 1, max: 999_999_999 })),
  })
  .filter((one) => Object.values(one).some((value) => value !== undefined));
const machine = fc.record({
  name,
  enable: fc.boolean(),
  boot: maybe(path),
  bootDevice: maybe(fc.constantFrom("cdrom", "disk", "net")),
  cdrom: maybe(path),
  cpus: maybe(fc.constant(1)),
  disks: fc.array(
    fc.record({ path, format: maybe(fc.constantFrom("raw", "qcow2")), limits: maybe(limits) }),
    { maxLength: 4 },
  ),
  interfaces: fc.array(card, { maxLength: 4 }),
  memory: maybe(fc.integer({ min: 1, max: 2 ** 17 })),
  owner: maybe(owner),
  instances: maybe(rights),
  initrd: maybe(path),
  append: maybe(fc.stringMatching(/^[ -~]{0,50}$/)),
  modules: fc.array(path, { maxLength: 3 }),
  engine: maybe(fc.constantFrom("auto", "kvm", "unicorn")),
  portable: maybe(fc.record({ tscKhz: maybe(fc.integer({ min: 100_000, max: 8_000_000 })) })),
  devices: fc.shuffledSubarray(["balloon", "console"]),
  shares: fc.uniqueArray(
    fc.record({
      path,
      tag: fc.stringMatching(/^[a-z0-9_.]{1,20}$/),
      readOnly: fc.boolean(),
      allow: fc.array(path, { maxLength: 2 }),
      deny: fc.array(path, { maxLength: 2 }),
    }),
    { selector: ({ tag }) => tag, maxLength: 4 },
  ),
});
type Network = typeof network extends fc.Arbitrary<infer T> ? T : never;
type Card = typeof card extends fc.Arbitrary<infer T> ? T : never;
type Machine = typeof machine extends fc.Arbitrary<infer T> ? T : never;

/** Writes data as a file: in parts that a macro holds, in pieces, on one line or on several. */
class Writer {
  readonly #style: Iterator<number>;
  macros = "";

  constructor(style: Iterator<number>) {
    this.#style = style;
  }

  #choose(count: number): number {
    return (this.#style.next().value as number) % count;
  }

  /** A string: quoted, in two pieces, or a macro. */
  string(value: string): string {
    const quote = (text: string) => `"${text.replaceAll(/[\\"]/g, "\\$&")}"`;
    const half = Math.floor(value.length / 2);
    switch (this.#choose(3)) {
      case 0:
        return `${quote(value.slice(0, half))} \\\n  ${quote(value.slice(half))}`;
      case 1: {
        // What a macro holds is read as words: quotes in quotes keep it one.
        const macro = `m${this.macros.length}`;
        this.macros += `${macro} = ${quote(quote(value))}\n`;
        return `$${macro}`;
      }
      default:
        return quote(value);
    }
  }

  block(head: string, statements: readonly (string | undefined | false)[]): string {
    const given = statements.filter((one) => typeof one === "string");
    const [before, between, after] = [
      ["\n\t", "\n\t", "\n"],
      [" ", ", ", " "],
      [" # a comment\n", "\n\n", ",\n"],
    ][this.#choose(3)];
    return `${head} {${before}${given.join(between)}${after}}`;
  }
}

const optional = (word: string, value: string | number | undefined) =>
  value !== undefined && `${word} ${value}`;

function switchText(writer: Writer, one: Network): string {
  return `${writer.block(`switch ${writer.string(one.name)}`, [
    one.enable ? "enable" : "disable",
    one.group !== undefined && `group ${writer.string(one.group)}`,
    `interface ${one.interface}`,
    one.lockedLladdr && "locked lladdr",
    optional("rdomain", one.rdomain),
    one.up ? "up" : "down",
  ])}\n`;
}

function cardText(writer: Writer, one: Card, names: readonly string[]): string {
  return writer.block(`${one.local ? "local " : ""}interface ${one.tap ?? "tap"}`, [
    one.group !== undefined && `group ${writer.string(one.group)}`,
    (one.lockedLladdr || one.lladdr !== undefined) &&
      `${one.lockedLladdr ? "locked " : ""}lladdr ${one.lladdr ?? ""}`,
    optional("rdomain", one.rdomain),
    one.switch !== undefined &&
      names[one.switch] !== undefined &&
      `switch ${writer.string(names[one.switch])}`,
    one.up ? "up" : "down",
  ]);
}

function vmText(writer: Writer, one: Machine, names: readonly string[]): string {
  const text = (word: string, value: string | undefined) =>
    value !== undefined && `${word} ${writer.string(value)}`;
  const { instances } = one;
  return `${writer.block(`vm ${writer.string(one.name)}`, [
    one.enable ? "enable" : "disable",
    text("boot", one.boot),
    optional("boot device", one.bootDevice),
    text("cdrom", one.cdrom),
    optional("cpus", one.cpus),
    ...one.disks.map((disk) =>
      [
        text("disk", disk.path),
        optional("format", disk.format),
        optional("rate", disk.limits?.bytes),
        optional("burst", disk.limits?.burst),
        optional("operations", disk.limits?.operations),
      ]
        .filter(Boolean)
        .join(" "),
    ),
    ...one.interfaces.map((each) => cardText(writer, each, names)),
    one.memory !== undefined && `memory ${one.memory}M`,
    text("owner", one.owner?.[0]),
    instances !== undefined &&
      writer.block("allow instance", [
        ...(["boot", "cpus", "cdrom", "disk", "instance", "interface", "memory"] as const).filter(
          (right) => instances[right],
        ),
        text("owner", instances.owner?.[0]),
      ]),
    text("initrd", one.initrd),
    text("append", one.append),
    ...one.modules.map((module) => text("module", module)),
    optional("engine", one.engine),
    one.portable && ["portable", optional("tsc", one.portable.tscKhz)].filter(Boolean).join(" "),
    ...one.devices.map((device) => `device ${device}`),
    ...one.shares.map((share) =>
      writer.block(`share ${writer.string(share.path)}`, [
        text("tag", share.tag),
        share.readOnly ? "ro" : "rw",
        ...share.allow.map((glob) => text("allow", glob)),
        ...share.deny.map((glob) => text("deny", glob)),
      ]),
    ),
  ])}\n`;
}

test("2,000 files written from data are read as the data", () => {
  const unique = { selector: (one: { name: string }) => one.name, maxLength: 3 };
  fc.assert(
    fc.property(
      fc.uniqueArray(network, unique),
      fc.uniqueArray(machine, unique),
      fc.infiniteStream(fc.nat(1000)),
      (networks, machines, style) => {
        const writer = new Writer(style);
        const names = networks.map((one) => one.name);
        const parts = [
          ...networks.map((one) => switchText(writer, one)),
          ...machines.map((one) => vmText(writer, one, names)),
        ];
        const { vms, switches } = config(writer.macros + parts.join("\n"));
        const place = { file, line: expect.any(Number) as number };
        expect(switches).toEqual(networks.map((one) => ({ ...one, ...place })));
        expect(vms).toEqual(
          machines.map(({ memory, owner: owned, instances, interfaces, ...one }) => ({
            ...one,
            ...place,
            interfaces: interfaces.map((each) => ({ ...each, switch: names[each.switch ?? 99] })),
            memory: memory === undefined ? undefined : memory * 2 ** 20,
            owner: owned?.[1],
            instances: instances && { ...instances, owner: instances.owner?.[1] },
          })) as typeof vms,
        );
      },
    ),
    { seed: SEED, numRuns: 2000 },
  );
}, 120_000);
