import { describe, expect, test } from "bun:test";
import { ExitReason, exitName, fatalExit, RunPage, SYNC_REGS } from "./exit.ts";
import { MachineImage } from "./image.ts";

const image = new MachineImage([{ base: 0, size: 0x3000, readonly: false }]);

/** A run page of zeroes. */
function page(): { run: RunPage; view: DataView } {
  image.memory.fill(0, 0x3000, 0);
  const run = new RunPage(image.memory.pointer(0, 0x3000), 0x3000);
  return { run, view: new DataView(run.buffer) };
}

describe("fields lie where linux/kvm.h has them", () => {
  test("head", () => {
    const { run, view } = page();
    view.setUint32(8, ExitReason.IO, true);
    view.setUint8(12, 1);
    view.setUint8(13, 1);
    expect([run.reason, run.readyForInterrupt, run.interruptsEnabled]).toEqual([2, true, true]);
    run.requestInterruptWindow = true;
    expect(run.u8[0]).toBe(1);
    run.requestInterruptWindow = false;
    expect(run.u8[0]).toBe(0);
    expect(run.immediateExit).toBe(false);
    run.u8[1] = 1;
    expect(run.immediateExit).toBe(true);
  });

  test("io", () => {
    const { run, view } = page();
    view.setUint8(32, 1);
    view.setUint8(33, 2);
    view.setUint16(34, 0x3f8, true);
    view.setUint32(36, 7, true);
    view.setBigUint64(40, 0x1000n, true);
    expect([run.ioDirection, run.ioSize, run.ioPort, run.ioCount, run.ioData]).toEqual([
      1, 2, 0x3f8, 7, 0x1000,
    ]);
  });

  test("mmio, with addresses beyond 4 GiB", () => {
    const { run, view } = page();
    view.setBigUint64(32, 0xf_fee0_0030n, true);
    view.setUint32(48, 4, true);
    view.setUint8(52, 1);
    expect([run.mmioAddress, run.mmioLength, run.mmioIsWrite]).toEqual([0xf_fee0_0030, 4, true]);
  });

  test("msr", () => {
    const { run, view } = page();
    view.setUint32(44, 0xc0000080, true);
    view.setBigUint64(48, 0x123456789n, true);
    expect([run.msrIndex, run.msrData]).toEqual([0xc0000080, 0x123456789n]);
    run.msrData = 2n ** 64n - 1n;
    run.msrError = true;
    expect([run.msrData, run.u8[32]]).toEqual([2n ** 64n - 1n, 1]);
  });

  test("registers", () => {
    const { run, view } = page();
    run.syncRegisters = SYNC_REGS.REGS | SYNC_REGS.SREGS;
    expect(run.view.getBigUint64(288, true)).toBe(3n);
    view.setBigUint64(304 + 128, 0xffffffff81000000n, true);
    expect(run.rip).toBe(0xffffffff81000000n);
    expect(run.registers.getBigUint64(128, true)).toBe(run.rip);
  });
});

test("names", () => {
  expect([0, 2, 5, 6, 7, 8, 10, 17].map(exitName)).toEqual([
    "UNKNOWN",
    "IO",
    "HLT",
    "MMIO",
    "IRQ_WINDOW_OPEN",
    "SHUTDOWN",
    "INTR",
    "INTERNAL_ERROR",
  ]);
  expect(exitName(42)).toBe("exit 42");
});

test("what a machine goes on from is not fatal, all else says why", () => {
  const { run, view } = page();
  const fatal = (reason: number) => {
    view.setUint32(8, reason, true);
    return fatalExit(run);
  };
  const { IO, HLT, MMIO, IRQ_WINDOW_OPEN, SHUTDOWN, INTR, RDMSR, WRMSR } = ExitReason;
  for (const reason of [IO, HLT, MMIO, IRQ_WINDOW_OPEN, SHUTDOWN, INTR, RDMSR, WRMSR]) {
    expect(fatal(reason)).toBeUndefined();
  }
  view.setUint32(32, 1, true);
  expect(fatal(ExitReason.INTERNAL_ERROR)).toBe(
    "internal error 1: the host's KVM can't emulate the instruction",
  );
  view.setUint32(32, 99, true);
  expect(fatal(ExitReason.INTERNAL_ERROR)).toBe("internal error 99: unknown to vmd");
  view.setBigUint64(32, 0x80000021n, true);
  expect(fatal(ExitReason.FAIL_ENTRY)).toMatch(/refused to enter .*0x80000021/);
  expect(fatal(ExitReason.UNKNOWN)).toBe("unexpected UNKNOWN exit");
  expect(fatal(77)).toBe("unexpected exit 77 exit");
});
