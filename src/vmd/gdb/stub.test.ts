import { expect, test } from "bun:test";
import fc from "fast-check";
import { CPU_LAYOUT } from "../../vmm/cpu-codec.ts";
import { type Breakpoint, BreakKind } from "../../vmm/engine.ts";
import { encodePacket, PACKET_MAX, PacketReader } from "./packet.ts";
import { REGISTER_COUNT } from "./registers.ts";
import { GdbStub } from "./stub.ts";
import type { DebugTarget, Outcome } from "./target.ts";

/** 64 KiB of memory at 0x1000, seen at the same addresses; what was done to it. */
class FakeTarget implements DebugTarget {
  readonly cpu = new DataView(new ArrayBuffer(CPU_LAYOUT.size));
  readonly memory = new Uint8Array(0x10000).map((_, i) => i);
  readonly done: string[] = [];
  breakpoints: readonly Breakpoint[] = [];
  outcome: Outcome = "done";

  constructor() {
    this.cpu.setUint8(CPU_LAYOUT.sregs + 19, 1); // 64-bit code
  }
  readRegisters(): DataView {
    return this.cpu;
  }
  writeRegisters(): void {
    this.done.push("registers");
  }
  readMemory(address: bigint, length: number, physical: boolean): Uint8Array {
    if (physical) this.done.push("physical");
    const at = Number(address) - 0x1000;
    return at < 0 ? new Uint8Array() : this.memory.slice(at, at + length);
  }
  writeMemory(address: bigint, bytes: Uint8Array): boolean {
    const at = Number(address) - 0x1000;
    if (at < 0 || at + bytes.length > this.memory.length) return false;
    this.memory.set(bytes, at);
    return true;
  }
  setBreakpoints(breakpoints: readonly Breakpoint[]): Outcome {
    if (this.outcome === "done") this.breakpoints = breakpoints;
    return this.outcome;
  }
  resume(step: boolean): void {
    this.done.push(step ? "step" : "continue");
  }
  reset(): void {
    this.done.push("reset");
  }
  kill(): void {
    this.done.push("kill");
  }
  describe(): string {
    return "all registers";
  }
}

function session() {
  const target = new FakeTarget();
  let sent = "";
  const stub = new GdbStub(
    target,
    false,
    (bytes) => (sent += Buffer.from(bytes).toString("latin1")),
  );
  const raw = (text: string | Uint8Array) => {
    sent = "";
    const interrupted = stub.received(
      typeof text === "string" ? Buffer.from(text, "latin1") : text,
    );
    return { sent, interrupted };
  };
  /** The reply's data; undefined when there is none. */
  const ask = (data: string) => {
    const replies: string[] = [];
    new PacketReader().read(Buffer.from(raw(encodePacket(data)).sent, "latin1"), (one) => {
      if (one.kind === "packet") replies.push(one.data);
    });
    return replies[0];
  };
  return { target, stub, raw, ask, sent: () => sent };
}

test("packets are acknowledged until both agree not to", () => {
  const { raw } = session();
  expect(raw("$qC#b4").sent).toBe("+$QC01#f5");
  expect(raw("$qC#b5").sent).toBe("-");
  expect(raw("-").sent).toBe("$QC01#f5");
  expect(raw("$QStartNoAckMode#b0").sent).toBe("+$OK#9a");
  expect(raw("+$qC#b4").sent).toBe("$QC01#f5");
});

test("behind the end of a session nothing is answered nor acknowledged", () => {
  expect(session().raw("$k#6b$qC#b4-").sent).toBe("+");
  expect(session().raw("$D#44$qC#b4").sent).toBe("+$OK#9a");
});

test("what it can do", () => {
  const { ask } = session();
  expect(ask("qSupported:multiprocess+;swbreak+")?.split(";")).toEqual([
    "PacketSize=4000",
    "qXfer:features:read+",
    "QStartNoAckMode+",
    "vContSupported+",
    "swbreak+",
    "hwbreak+",
  ]);
  expect(ask("vMustReplyEmpty")).toBe("");
  expect(ask("qAttached")).toBe("1");
  expect(ask("vCont?")).toBe("vCont;c;C;s;S");
  expect(ask("?")).toBe("T05thread:01;");
  expect(ask("qfThreadInfo")).toBe("m01");
  expect(ask("qsThreadInfo")).toBe("l");
  expect(ask("Hg0")).toBe("OK");
  expect(ask("!")).toBe("");
});

test("a target that goes backwards says so, and where its history ends", () => {
  const { ask, stub, target, sent, raw } = session();
  expect(ask("bs")).toBe("");
  expect(ask("bc")).toBe("");
  Object.assign(target, {
    resumeBack: (step: boolean) => target.done.push(step ? "step back" : "continue back"),
  });
  expect(ask("qSupported:swbreak+")).toEndWith(";hwbreak+;ReverseStep+;ReverseContinue+");
  expect(ask("bx")).toBe("");
  expect(ask("bs")).toBeUndefined();
  expect(stub.running).toBe(true);
  raw("");
  stub.stopped({ kind: "step" });
  expect(sent()).toContain("$T05thread:01;#");
  expect(ask("bc")).toBeUndefined();
  raw("");
  stub.stopped({ kind: "history", at: "begin" });
  expect(sent()).toContain("$T05replaylog:begin;thread:01;#");
  expect(ask("?")).toBe("T05replaylog:begin;thread:01;");
  expect(target.done).toEqual(["step back", "continue back"]);
});

test("registers, one and all", () => {
  const { ask, target } = session();
  expect(ask("P0=1122334455667788")).toBe("OK");
  expect(target.cpu.getBigUint64(0, true)).toBe(0x8877665544332211n);
  expect(ask("p0")).toBe("1122334455667788");
  expect(ask("P7=0010000000000000")).toBe("OK");
  expect(target.cpu.getBigUint64(48, true)).toBe(0x1000n); // rsp
  const all = ask("g")!;
  expect(all.slice(0, 16)).toBe("1122334455667788");
  expect(ask(`G${"ff".repeat(8)}${all.slice(16)}`)).toBe("OK");
  expect(ask("p0")).toBe("ffffffffffffffff");
  expect(ask(`p${REGISTER_COUNT.toString(16)}`)).toBe("E16");
  expect(ask("P0=11")).toBe("E16");
  expect(ask("G00")).toBe("E16");
});

test("every register comes back as it was written", () => {
  const { ask, target } = session();
  // KERNEL_GS_BASE
  target.cpu.setUint32(CPU_LAYOUT.msrCount, 1, true);
  target.cpu.setUint32(CPU_LAYOUT.msrs, 0xc0000102, true);
  fc.assert(
    fc.property(
      fc.nat(REGISTER_COUNT - 1),
      fc.uint8Array({ minLength: 16, maxLength: 16 }),
      (n, v) => {
        const name = n.toString(16);
        const width = ask(`p${name}`)!.length;
        // Selectors have 16 bits, tags no values of their own.
        const narrow = /^(1[2-9a-f]|2[0-7])$/.test(name) ? "0" : undefined;
        const value =
          narrow === undefined
            ? Buffer.from(v).toString("hex").slice(0, width)
            : narrow.repeat(width);
        expect(ask(`P${name}=${value}`)).toBe("OK");
        target.cpu.setUint8(CPU_LAYOUT.sregs + 19, 1);
        expect(ask(`p${name}`)).toBe(value);
      },
    ),
  );
});

test("outside of 64-bit code, 32 bits of eight registers", () => {
  const { ask, target } = session();
  ask("P0=1122334455667788");
  ask("P8=1122334455667788");
  target.cpu.setUint8(CPU_LAYOUT.sregs + 19, 0);
  expect(ask("p0")).toBe("1122334400000000");
  expect(ask("p8")).toBe("0000000000000000");
  // What is written back whole doesn't lose what isn't shown.
  expect(ask(`G${ask("g")}`)).toBe("OK");
  target.cpu.setUint8(CPU_LAYOUT.sregs + 19, 1);
  expect(ask("p8")).toBe("1122334455667788");
});

test("memory: read, written in both forms; what isn't there", () => {
  const { ask, target } = session();
  expect(ask("m1001,3")).toBe("010203");
  expect(ask("m10fff,4")).toBe("ff");
  expect(ask("m0,4")).toBe("E0e");
  expect(ask("m1000,0")).toBe("");
  expect(ask("M1000,2:abcd")).toBe("OK");
  expect(ask("X1002,2:}\x03}]")).toBe("OK");
  expect(ask("X1002,0:")).toBe("OK");
  expect([...target.memory.slice(0, 4)]).toEqual([0xab, 0xcd, 0x23, 0x7d]);
  expect(ask("M0,1:00")).toBe("E0e");
  expect(ask("M1000,2:ab")).toBe("E16");
  expect(ask("mzz,1")).toBe("E16");
  expect(ask("m1000,ffffffff")!.length).toBeLessThanOrEqual(PACKET_MAX);
  expect(ask("Qqemu.PhyMemMode:1")).toBe("OK");
  expect(ask("qqemu.PhyMemMode")).toBe("1");
  ask("m1000,1");
  expect(target.done).toEqual(["physical"]);
});

test("breakpoints: of each kind, watchpoints first, once each", () => {
  const { ask, target } = session();
  const execute = { kind: BreakKind.EXECUTE, address: 0x1000n, length: 1 };
  expect(ask("Z0,1000,1")).toBe("OK");
  expect(ask("Z1,1000,1")).toBe("OK");
  expect(ask("Z2,2000,4")).toBe("OK");
  expect(ask("Z3,3000,8")).toBe("OK");
  expect(ask("Z4,4000,1")).toBe("OK");
  expect(target.breakpoints.map(({ kind }) => kind)).toEqual([1, 2, 3, 0]);
  expect(ask("z0,1000,1")).toBe("OK");
  expect(target.breakpoints.at(-1)).toMatchObject(execute);
  expect(ask("z1,1000,1")).toBe("OK");
  expect(target.breakpoints).toHaveLength(3);
  expect(ask("Z5,1000,1")).toBe("");
  expect(ask("Z0,nonsense")).toBe("E16");
  target.outcome = "unsupported";
  expect(ask("Z3,5000,4")).toBe("");
  target.outcome = "full";
  expect(ask("Z1,5000,1")).toBe("E1c");
});

test("it goes on, and stops", () => {
  const { ask, stub, sent, target, raw } = session();
  ask("QStartNoAckMode");
  ask("qSupported:swbreak+;hwbreak+");
  ask("Z0,1000,1");
  ask("Z2,2000,4");
  expect(ask("vCont;c:1")).toBeUndefined();
  expect(stub.running).toBe(true);
  expect(raw("\x03").interrupted).toBe(true);
  stub.stopped({ kind: "interrupt" });
  expect(sent()).toContain("$T02thread:01;#");
  expect(raw("\x03").interrupted).toBe(false);
  // One that comes too late doesn't stop what it is told next.
  expect(raw("\x03$s#73").interrupted).toBe(false);
  expect(stub.running).toBe(true);
  expect(target.done.at(-1)).toBe("step");
  stub.stopped({ kind: "step" });
  ask("c2000");
  expect(target.cpu.getBigUint64(128, true)).toBe(0x2000n);
  stub.stopped({ kind: "breakpoint", breakpoint: { kind: 0, address: 0x1000n, length: 1 } });
  expect(sent()).toContain("T05swbreak:;thread:01;");
  ask("C05");
  stub.stopped({ kind: "watchpoint", breakpoint: { kind: 1, address: 0x2000n, length: 4 } });
  expect(sent()).toContain("T05watch:2000;thread:01;");
  expect(ask("?")).toBe("T05watch:2000;thread:01;");
  expect(target.done.filter((what) => what !== "registers")).toEqual([
    "continue",
    "step",
    "continue",
    "continue",
  ]);
});

test("while it runs, nothing is answered", () => {
  const { ask, stub, sent } = session();
  ask("c");
  expect(ask("g")).toBeUndefined();
  stub.exited(3);
  expect(sent()).toContain("$W03#");
});

test("detach takes breakpoints away and goes on; kill doesn't", () => {
  const { ask, target, stub } = session();
  ask("Z0,1000,1");
  expect(ask("D")).toBe("OK");
  expect(target.breakpoints).toEqual([]);
  expect(target.done).toEqual(["continue"]);
  expect(stub.gone).toBe(true);
  const other = session();
  expect(other.ask("k")).toBeUndefined();
  expect(other.target.done).toEqual(["kill"]);
});

test("monitor", () => {
  const { ask, target } = session();
  const monitor = (text: string) => {
    const reply = ask(`qRcmd,${Buffer.from(text).toString("hex")}`)!;
    return Buffer.from(reply, "hex").toString();
  };
  expect(monitor("help")).toContain("info registers");
  expect(monitor("info  registers")).toBe("all registers\n");
  expect(monitor("phys on")).toContain("on");
  expect(monitor("phys")).toContain("on");
  expect(monitor("x")).toContain("no such command");
  monitor("reset");
  expect(target.done).toEqual(["reset"]);
  expect(ask("qRcmd,zz")).toBe("E16");
});

test("the description comes in pieces, and names every register", () => {
  const { ask } = session();
  let text = "";
  for (;;) {
    const part = ask(`qXfer:features:read:target.xml:${text.length.toString(16)},400`)!;
    text += part
      .slice(1)
      .replaceAll(/\}(.)/g, (_, c: string) => String.fromCharCode(c.charCodeAt(0) ^ 32));
    if (part[0] === "l") break;
  }
  expect(text).toContain("<architecture>i386:x86-64</architecture>");
  expect(text.match(/<reg /g)).toHaveLength(REGISTER_COUNT);
  expect(ask("qXfer:features:read:other.xml:0,10")).toBe("E00");
  expect(ask("qXfer:memory-map:read::0,10")).toBe("");
});

test("whatever a client sends, it is answered or not, and the next packet is read", () => {
  const command = fc.oneof(
    fc.string({ unit: "binary-ascii", maxLength: 60 }),
    fc
      .tuple(fc.constantFrom(..."gGpPmMXZzcsCSDvqQHT?!"), fc.string({ maxLength: 40 }))
      .map(([first, rest]) => first + rest),
    fc
      .tuple(
        fc.constantFrom("m", "M", "X", "Z0,", "z2,", "p", "P", "qRcmd,"),
        fc.stringMatching(/^[0-9a-f]{0,20}[,:=;]?[0-9a-f]{0,9}[:;]?[0-9a-f]{0,8}$/),
      )
      .map(([first, rest]) => first + rest),
  );
  fc.assert(
    fc.property(fc.array(command, { maxLength: 20 }), (commands) => {
      const { ask, stub, sent } = session();
      for (const data of commands) {
        if (stub.gone) return;
        ask(data);
        expect(sent().length).toBeLessThanOrEqual(PACKET_MAX + 5);
        stub.stopped({ kind: "interrupt" });
      }
      if (!stub.gone) expect(ask("qC")).toBe("QC01");
    }),
    { numRuns: 500 },
  );
});
