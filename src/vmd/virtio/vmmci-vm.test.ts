/** vmmci from a VM's outside, and a daemon's: small guests that ask, answer and announce. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { Trace } from "../../vmm/trace.ts";
import { TestDaemon, until } from "../daemon/testing.ts";
import { follow } from "../follow.ts";
import { replay } from "../replay.ts";
import { Vm, type VmOptions } from "../vm.ts";

setDefaultTimeout(60_000);

let vmd: TestDaemon;
/** Takes all features, says "d", acknowledges; for the time says "t"; asked to go, "a", and resets. */
let driver = "";
/** Says a thousand times that it shuts down, and resets: it reboots, as OpenBSD does it. */
let restless = "";
/** Says that it shuts down, and spins. */
let halted = "";

beforeAll(async () => {
  vmd = await TestDaemon.start({ args: ["-v"] });
  driver = vmd.firmware(
    "driver",
    "ba 04 10 66 b8 07 00 00 00 66 ef ba 12 10 b0 07 ee b0 64 ba f8 03 ee ba 14 10 66 ed 3c 02 " +
      "72 f7 66 ef b0 74 77 ed ba f8 03 b0 61 ee b0 fe e6 64 f4",
  );
  restless = vmd.firmware(
    "restless",
    "ba 14 10 b9 e8 03 66 b8 01 00 00 00 66 ef e2 fc b0 fe e6 64 f4",
  );
  halted = vmd.firmware("halted", "ba 14 10 66 b8 01 00 00 00 66 ef eb fe");
});

afterAll(() => vmd[Symbol.asyncDispose]());

const options = (kernel: string): VmOptions => ({ kernel, memory: "1M", engine: "unicorn" });

/** A VM, and the kinds of its events. */
async function start(kernel: string): Promise<{ vm: Vm; events: string[] }> {
  const vm = await Vm.start(options(kernel));
  const events: string[] = [];
  vm.onEvent(({ kind }) => events.push(kind));
  return { vm, events };
}

describe("a VM", () => {
  test("asked to shut down ends by its guest's reset", async () => {
    const { vm, events } = await start(driver);
    await using _ = vm;
    await vm.console.expect("d");
    expect(await vm.shutdown()).toBe(true);
    await vm.console.expect("a");
    expect((await vm.ended).kind).toBe("reset");
    expect(events).toEqual(["acknowledged"]);
  });

  test("asked to reset starts again, and can be asked to go then", async () => {
    const { vm, events } = await start(driver);
    await using _ = vm;
    await vm.console.expect("d");
    expect(await vm.shutdown({ reset: true })).toBe(true);
    await vm.console.expect("ad");
    expect(events).toEqual(["acknowledged", "rebooted"]);
    expect(await vm.shutdown()).toBe(true);
    expect((await vm.ended).kind).toBe("reset");
  });

  test("asked to go while it is paused goes, though it is asked for the time on waking", async () => {
    const { vm } = await start(driver);
    await using _ = vm;
    await vm.console.expect("d");
    vm.pause();
    expect(await vm.shutdown()).toBe(true);
    vm.unpause();
    await vm.console.expect("a");
    expect((await vm.ended).kind).toBe("reset");
  });

  test("unpaused asks for the time to be set, but not in a run that repeats", async () => {
    const { vm, events } = await start(driver);
    await using _ = vm;
    await vm.console.expect("d");
    vm.pause();
    vm.unpause();
    await vm.console.expect("t");
    expect(events).toEqual([]);

    await using repeats = await Vm.start({ ...options(driver), virtualTime: true });
    await repeats.console.expect("d");
    repeats.pause();
    repeats.unpause();
    await repeats.shutdown();
    await repeats.ended;
    expect(repeats.console.pending).toBe("a");
  });

  test("whose guest reboots by itself goes on; a thousand announcements are one", async () => {
    const { vm, events } = await start(restless);
    await using _ = vm;
    await until(() => events.length >= 6, 20_000);
    await vm.stop();
    const kinds = ["shutting-down", "rebooted"];
    expect(events).toEqual(events.map((_kind, i) => kinds[i % 2]));
  });
});

describe("a trace of a guest that was asked", () => {
  for (const virtualTime of [false, true]) {
    test(`is replayed, and followed, with ${virtualTime ? "virtual" : "real"} time`, async () => {
      const path = join(vmd.folder, `asked-${virtualTime}`);
      await using vm = await Vm.start({ ...options(driver), virtualTime, traceExits: path });
      await vm.console.expect("d");
      vm.pause();
      vm.unpause();
      expect(await vm.shutdown({ reset: true })).toBe(true);
      await vm.console.expect("ad");
      expect(await vm.shutdown()).toBe(true);
      expect((await vm.ended).kind).toBe("reset");
      const trace = Trace.open(path);
      const asked = [...trace.records()].filter(({ kind }) => kind === "request");
      expect(asked).toMatchObject([{ command: 2 }, { command: 2 }]);
      expect(replay(trace).difference).toBeUndefined();
      expect(follow(trace, "unicorn")).toMatchObject({ difference: undefined, failed: false });
    });
  }
});

describe("the daemon", () => {
  const run = (name: string, kernel: string) =>
    vmd.vctl(["start", "--engine", "unicorn", "-m", "1M", "-b", kernel, name]);

  test("lets a guest reboot that announces its shutdown first", async () => {
    await run("restless", restless);
    // Its rule for guests that reset too often is what ends this one.
    await vmd.logs(/restless: warning: 3 resets within/);
    await until(
      () => /restless: stopped/.test(vmd.log),
      20_000,
      () => vmd.log,
    );
    expect(vmd.log).toContain("restless: the guest shuts down");
    expect(vmd.log).not.toMatch(/restless: .*terminated/);
  });

  test("ends a guest that announces its shutdown, and then halts, after three seconds", async () => {
    const before = performance.now();
    await run("halted", halted);
    await vmd.logs(/halted: the guest did neither reset nor power off: terminated/);
    expect(performance.now() - before).toBeGreaterThan(2900);
    await until(
      () => /halted: stopped/.test(vmd.log),
      20_000,
      () => vmd.log,
    );
  });
});
