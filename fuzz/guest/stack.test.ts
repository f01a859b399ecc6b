import { describe, expect, test } from "bun:test";
import { panicLine, plain, printedStack } from "./stack.ts";

// As Linux 6.1 prints them.
const OOPS = `[    1.283120] BUG: kernel NULL pointer dereference, address: 0000000000000001
[    1.283200] #PF: supervisor read access in kernel mode
[    1.283300] Oops: 0000 [#1] PREEMPT SMP NOPTI
[    1.283400] RIP: 0010:simple_fill_super+0x137/0x1d0
[    1.283500] Call Trace:
[    1.283600]  <TASK>
[    1.283700]  mount_bdev+0x184/0x1c0
[    1.283800]  ? tiny_read+0x10/0x10 [tinyfs]
[    1.283900]  legacy_get_tree+0x27/0x50
[    1.284000] ---[ end trace 0000000000000000 ]---
`;
const KILLED = `[    9.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b
[    9.1] Call Trace:
[    9.1]  dump_stack_lvl+0x44/0x5c
[    9.1]  panic+0x107/0x2b7
[    9.1]  do_exit.cold+0x15/0x15
[    9.1] RIP: 0033:0x40164d
[    9.1] ---[ end Kernel panic - not syncing ]---
`;

describe("what a kernel prints", () => {
  test("is a panic by its first line that says so", () => {
    expect(panicLine(OOPS, [])).toBe(
      "BUG: kernel NULL pointer dereference, address: 0000000000000001",
    );
    expect(panicLine(KILLED, [])).toStartWith("Kernel panic - not syncing: Attempted");
    for (const line of [
      "general protection fault, probably for non-canonical address 0x88: 0000 [#1] PREEMPT SMP",
      "kernel BUG at fs/ext4/inode.c:2713!",
      "divide error: 0000 [#1] PREEMPT SMP NOPTI",
      "panic: kernel diagnostic assertion",
    ])
      expect(panicLine(`hello\n[    1.2] ${line}\n`, [])).toBe(line);
  });

  test("is none of a process's fault, or without such a line", () => {
    expect(
      panicLine("traps: dns[1] general protection fault ip:e0e0 sp:7ffc error:0 in dns", []),
    ).toBeUndefined();
    expect(panicLine("dns[1]: segfault at 0 ip 000000000040164d sp 7ffc error 4", [])).toBe(
      undefined,
    );
    expect(panicLine("it broke\n", ["broke"])).toBe("it broke");
  });

  test("has where it was, without frames that are guesses", () => {
    expect(printedStack(OOPS)).toEqual([
      ...["simple_fill_super+0x137", "mount_bdev+0x184", "legacy_get_tree+0x27"],
    ]);
    expect(printedStack(KILLED)).toEqual(["0x40164d", "do_exit.cold+0x15"]);
    const wild = KILLED.replace("0x40164d", "0x61616161").replace(
      "[    9.1] ---",
      "[    9.1] Code: Unable to access opcode bytes at 0x61616137.\n[    9.1] ---",
    );
    expect(printedStack(wild)[0]).toBe("nowhere");
    const forced = KILLED.replace("Attempted to kill init!", "panic forced after error");
    expect(printedStack(forced)).toEqual(["do_exit.cold+0x15"]);
    expect(printedStack("hello")).toEqual([]);
  });

  test("is shown without what a terminal would obey", () => {
    expect(plain("/ # \x1b[6n\x1b]0;title\x07")).toBe("/ # ]0;title");
    expect(plain("a".repeat(300))).toHaveLength(200);
  });
});
