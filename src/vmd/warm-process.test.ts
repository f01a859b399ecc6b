/** Which process that waits is whose. */
import { expect, test } from "bun:test";
import { closeSync, openSync, readdirSync } from "node:fs";
import type { PrepareMessage, StartMessage } from "./vm-messages.ts";
import { checkVmOptions } from "./vm-options.ts";
import { type Prepared, type WarmOptions, WarmPool, WarmProcess } from "./warm-process.ts";

/** For the pool to start processes, ms. */
const FILLED = 300;

const start: StartMessage = {
  kind: "start",
  options: checkVmOptions({ name: "one", kernel: "/dev/null" }),
  files: { disks: [], interfaces: [], shares: [] },
  terminal: false,
  attached: [],
};
const message: PrepareMessage = { kind: "prepare", start };
const file = () => openSync("/dev/null", "r");
const open = () => readdirSync("/proc/self/fd").length;

/** A process of which nothing is but what it was told. */
class Idle {
  readonly ready = true;
  alive = true;
  order = 0;
  discarded = false;
  readonly machine: boolean;

  constructor({ machine = false }: WarmOptions = {}) {
    this.machine = machine;
  }

  prepare({ order = 0 }: Prepared): void {
    this.order = order;
  }

  wanted(): void {}

  discard(): void {
    this.discarded = true;
  }
}

/** @param fails whether none can be prepared */
function pool(fails = false): { pool: WarmPool; made: Idle[] } {
  const made: Idle[] = [];
  const make = (options?: WarmOptions) => {
    const one = new Idle(options);
    if (fails) {
      one.prepare = () => {
        throw new Error("no descriptors");
      };
    }
    made.push(one);
    return one as unknown as WarmProcess;
  };
  return { pool: new WarmPool(undefined, make), made };
}

test("who goes on from earlier changes gets none that has later ones", async () => {
  using all = pool().pool;
  const prepare = (order: number | undefined) => {
    all.want(2, "unicorn", { key: "t", message, files: [file()], order });
    return Bun.sleep(FILLED);
  };
  await prepare(5);
  expect(all.take({ key: "t", order: 4 })).toMatchObject({ machine: false });
  expect(all.take({ key: "t" })).toMatchObject({ machine: false });
  expect(all.take({ key: "u", order: 9 })).toMatchObject({ machine: false });
  expect(all.take({ key: "t", order: 5 })).toMatchObject({ machine: true, order: 5 });
  expect(all.take({ key: "t", order: 7 })).toMatchObject({ machine: true, order: 5 });
  await prepare(undefined);
  expect(all.take({ key: "t" })).toMatchObject({ machine: true, order: 0 });
  expect(all.take({ key: "t", order: 4 })).toMatchObject({ machine: true, order: 0 });
});

test("what can't be prepared is discarded, and leaves nothing open", async () => {
  const before = open();
  const { pool: all, made } = pool(true);
  all.want(2, "unicorn", { key: "t", message, files: [file(), file()] });
  await Bun.sleep(FILLED);
  expect(made.map(({ discarded }) => discarded)).toEqual([true]);
  expect(all.take({ key: "t" })).toMatchObject({ machine: false });
  all[Symbol.dispose]();
  all.want(2, "unicorn", { key: "t", message, files: [file()] });
  await Bun.sleep(FILLED);
  expect(made.length).toBe(2);
  expect(open()).toBe(before);
});

test("a process that can't be given all files is given none", () => {
  const given = file();
  const one = new WarmProcess(undefined);
  const before = open();
  expect(() => one.prepare({ key: "t", message, files: [given, 9999] })).toThrow();
  expect(open()).toBe(before);
  one.discard();
  closeSync(given);
});
