import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { probe } from "../../src/vmm/engine.ts";
import { root } from "../../src/vmm/root.ts";
import { Verdict } from "../executor.ts";
import { buildBare, buildMissing, TLV_SOURCES } from "../harness/build.ts";
import { GuestExecutor } from "./executor.ts";
import type { GuestOptions } from "./options.ts";

const unicorn = probe("unicorn");
const why = unicorn.available ? buildMissing() : unicorn.why;
if (why !== undefined) console.log(`fuzzing guests skipped: ${why}`);
const VCTL = join(root, "src/vctl/index.ts");
const MEMORY = 16 * 2 ** 20;
const KEYED = [0x11, 4, ...new TextEncoder().encode("1YEK")];
const BUG = [...KEYED, 0x22, 2, 0x13, 0x49, 0x33, 1, 8, 0x44, 4, 0xde, 0xc0, 0xad, 0xde];

let folder = "";
let tlv = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "fuzz-guest-"));
  if (why === undefined) tlv = buildBare(TLV_SOURCES, join(folder, "tlv.elf"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function bare(name: string, source: string): string {
  const file = join(folder, `${name}.c`);
  writeFileSync(file, `#include <stdint.h>\n#include "vmd-fuzz.h"\n${source}`);
  return buildBare([file], join(folder, `${name}.elf`));
}

function open(file: string, options: Partial<GuestOptions> = {}) {
  const executor = new GuestExecutor({
    file,
    memory: MEMORY,
    symbols: [file],
    verify: 1,
    ...options,
  });
  return {
    executor,
    run: (bytes: readonly number[]) => executor.run(Uint8Array.from(bytes), bytes.length),
    [Symbol.dispose]: () => executor.close(),
  };
}

function vctl(...args: string[]) {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, VCTL, "fuzz", ...args], {
    cwd: folder,
  });
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
}

describe.skipIf(why !== undefined)("a program on a bare machine", () => {
  test("says where its input is wanted, and runs begin there", () => {
    using m = open(tlv);
    const { executor, run } = m;
    expect(executor.maxInput).toBe(64);
    expect(run([1, 2, 3, 4])).toBe(Verdict.DONE);
    expect(executor.novelty()).toBe(2);
    const hash = executor.coverageHash();
    expect(run([1, 9, 3])).toBe(Verdict.DONE);
    expect(executor.coverageHash()).not.toBe(hash);
    expect(run([1, 2, 3, 4])).toBe(Verdict.DONE);
    expect(executor.coverageHash()).toBe(hash);
    expect(executor.novelty()).toBe(0);
    expect(executor.fidelity).toEqual({ checked: 3, equal: 3 });
  });

  test("reports its bug, with names of where it was", () => {
    using m = open(tlv);
    expect(m.run(BUG)).toBe(Verdict.CRASH);
    const crash = m.executor.crash();
    expect(crash).toMatchObject({ kind: "hypercall", text: "the guest reports 0xb06" });
    expect(crash?.stack.map((frame) => frame.replace(/\+.*/, ""))).toEqual([
      ...["tlv_bug", "tlv_parse", "main", "start64"],
    ]);
    expect(m.run([1])).toBe(Verdict.DONE);
    expect(m.executor.crash()).toBeUndefined();
    expect(m.executor.fidelity).toEqual({ checked: 2, equal: 2 });
  });

  test("its comparisons are told", () => {
    using m = open(tlv);
    const input = Uint8Array.of(0x11, 4, 1, 2, 3, 4);
    const compares = m.executor.compares(input, input.length);
    const key = compares.find(({ left }) => left.toString() === "1,2,3,4");
    expect(Buffer.from(key?.right ?? []).toString()).toBe("1YEK");
    m.run([...input]);
    const cost = m.executor.cost();
    m.run([...input]);
    expect(m.executor.cost()).toBe(cost);
  });

  test("an exception that nobody handles, a loop, and a halt", () => {
    const file = bare(
      "ends",
      `static uint8_t in[16] = { 1 };
       int main(void) {
         size_t n = vmd_fuzz_ready(in, sizeof(in));
         if (n && in[0] == 'u') __builtin_trap();
         if (n && in[0] == 'l') for (;;) __asm__("");
         if (n && in[0] == 'w') *(volatile int *)(1ull << 40) = 1;
         if (n && in[0] == 'h') return 0;
         vmd_fuzz_done();
         return 0;
       }`,
    );
    using m = open(file, { budget: 5000 });
    const ending = (letter: string) => {
      const verdict = m.run([letter.charCodeAt(0)]);
      return `${verdict} ${m.executor.crash()?.kind}`;
    };
    for (let round = 0; round < 3; round++) {
      expect(ending("x")).toBe(`${Verdict.DONE} undefined`);
      expect(ending("u")).toBe(`${Verdict.CRASH} triple fault`);
      expect(m.executor.crash()?.stack[0]).toStartWith("main");
      expect(ending("l")).toBe(`${Verdict.TIMEOUT} timeout`);
      expect(ending("w")).toBe(`${Verdict.CRASH} triple fault`);
      expect(ending("h")).toBe(`${Verdict.DONE} undefined`);
    }
    const { checked, equal } = m.executor.fidelity;
    expect(equal).toBe(checked);
    using halts = open(file, { crash: ["halt"] });
    expect(halts.run(["h".charCodeAt(0)])).toBe(Verdict.CRASH);
  });

  test("a handler tells where it happened; overwritten return addresses are no callers", () => {
    const file = bare(
      "handler",
      `static uint8_t in[16] = { 1 };
       __attribute__((noinline)) void victim(int how) {
         uint64_t *frame = __builtin_frame_address(0);
         if (how == 'a') vmd_fuzz_crash_at(7, (uintptr_t)victim, (uintptr_t)frame);
         if (how == 'w') vmd_fuzz_crash_at(7, 0x6161616161, (uintptr_t)frame);
         if (how == 'n') vmd_fuzz_crash_at(7, (uintptr_t)victim, 0);
         frame[1] = 0x6161616161;
         vmd_fuzz_crash(8);
       }
       int main(void) { victim(vmd_fuzz_ready(in, sizeof(in)) ? in[0] : 0); return 0; }`,
    );
    using m = open(file);
    const stack = (letter: string) => {
      expect(m.run([letter.charCodeAt(0)])).toBe(Verdict.CRASH);
      const crash = m.executor.crash();
      return [crash?.text, ...(crash?.stack ?? []).map((frame) => frame.replace(/\+.*/, ""))];
    };
    expect(stack("a")).toEqual(["the guest reports 0x7", "victim", "main", "start64"]);
    expect(stack("w")).toEqual(["the guest reports 0x7", "nowhere"]);
    expect(stack("n")).toEqual(["the guest reports 0x7", "victim"]);
    expect(stack("o")).toEqual(["the guest reports 0x8", "victim"]);
  });

  test("resets are compared for about a tenth of the time, where nothing is said", () => {
    const compared = (memory: number, runs: number) => {
      using m = open(tlv, { memory, verify: undefined });
      for (let i = 0; i < runs; i++) m.run([1, 2, 3, 4]);
      const { checked, equal } = m.executor.fidelity;
      expect(equal).toBe(checked);
      return checked;
    };
    const small = compared(MEMORY, 30_000);
    expect(small).toBeGreaterThan(2);
    expect(small).toBeLessThan(30);
    expect(compared(4 * MEMORY, 30_000)).toBeLessThan(small);
  });

  test("starts, ends and crashes at addresses; inputs by a register", () => {
    const file = bare(
      "places",
      `__attribute__((noinline)) void bad(void) { __asm__ volatile(""); }
       __attribute__((noinline)) void end(void) { __asm__ volatile(""); }
       static char text[8192] __attribute__((aligned(4096))) = { 1 };
       __attribute__((noinline)) void parse(const char *p, size_t n) {
         if (n == 3 && p[4] == 0 && p[0] == 'b') bad();
         end();
       }
       int main(void) { text[4096] = 0; parse(text + 4090, 5); return 0; }`,
    );
    using m = open(file, {
      ...{ start: "parse", input: "rdi,16", length: "rsi", end: ["end"], crash: ["bad"] },
    });
    for (const text of ["abc", "bcd", "bcde", "bcd", ""]) {
      const verdict = m.run([...new TextEncoder().encode(text)]);
      expect(verdict).toBe(text === "bcd" ? Verdict.CRASH : Verdict.DONE);
    }
    m.run([...new TextEncoder().encode("bcd")]);
    expect(m.executor.crash()).toMatchObject({ kind: "address", text: "the guest reached bad" });
  });

  test("devices go back to the point, too: the console, a port", () => {
    const file = bare(
      "devices",
      `static inline void out(uint16_t p, uint8_t v) { __asm__ volatile("outb %0, %1" :: "a"(v), "d"(p)); }
       static inline uint8_t in(uint16_t p) { uint8_t v; __asm__ volatile("inb %1, %0" : "=a"(v) : "d"(p)); return v; }
       static void print(const char *s) { while (*s) out(0x3f8, *s++); }
       int main(void) {
         print("begin\\n");
         uint8_t seen = 0;
         for (int i = 0; i < 3; i++) { while (!(in(0x3fd) & 1)); seen ^= in(0x3f8); }
         out(0x3ff, seen);
         if (seen == 7 && in(0x3ff) == 7) print("panic: seven\\n---[ end trace\\n");
         vmd_fuzz_done();
         return 0;
       }`,
    );
    using m = open(file, { start: "print:begin", input: "console,3" });
    for (let round = 0; round < 3; round++) {
      expect(m.run([1, 2, 3])).toBe(Verdict.DONE);
      const cost = m.executor.cost();
      expect(cost).toBeGreaterThan(0);
      expect(m.run([1, 2, 4])).toBe(Verdict.CRASH);
      // It prints more.
      expect(m.executor.cost()).toBeGreaterThan(cost);
      expect(m.executor.crash()).toMatchObject({ kind: "panic", text: "panic: seven" });
    }
    expect(m.executor.fidelity).toEqual({ checked: 6, equal: 6 });
    const port = bare(
      "port",
      `static inline uint8_t in(uint16_t p) { uint8_t v; __asm__ volatile("inb %1, %0" : "=a"(v) : "d"(p)); return v; }
       int main(void) {
         for (int sum = 0;;) { sum += in(0x700); if (sum == 300) __builtin_trap(); }
       }`,
    );
    using p = open(port, { input: "port:0x700,8" });
    expect(p.run([100, 100, 100])).toBe(Verdict.CRASH);
    expect(p.executor.crash()).toMatchObject({ kind: "triple fault", text: "triple fault" });
    expect(p.run([100, 100, 99])).toBe(Verdict.DONE);
  });
});

describe.skipIf(why !== undefined)("vctl fuzz", () => {
  test("finds the planted bug, replays it, and goes on", () => {
    mkdirSync(join(folder, "seeds"));
    writeFileSync(join(folder, "seeds/one"), Uint8Array.of(1, 2, 3, 4, 0x22, 1, 5));
    const common = ["-m", "16M", "-y", tlv, "--corpus", "corpus"];
    const campaign = [...common, "--seeds", "seeds", "--seed", "1", "-j", "1", "--json"];
    const found = vctl(...campaign, "--runs", "3000000", "--time", "100", tlv);
    expect(found).toMatchObject({ code: 2 });
    expect(found.err).toContain("1 new crashes");
    const figures = JSON.parse(found.out.trim().split("\n").at(-1) as string);
    expect(figures).toMatchObject({ crashes: 1, stability: 1, fidelity: 1 });
    const [key] = readdirSync(join(folder, "corpus/crashes"));
    const replayed = vctl("-m", "16M", "-y", tlv, "--run", `corpus/crashes/${key}`, "--", tlv);
    expect(replayed.out).toContain("hypercall: the guest reports 0xb06");
    expect(replayed.code).toBe(2);
    expect(vctl(...campaign, "--runs", "1000", tlv)).toMatchObject({ code: 0 });
    expect(vctl(...common, "--drcov", "cov", tlv)).toMatchObject({ code: 0 });
    expect(vctl(...common, "--lcov", "lines", tlv)).toMatchObject({ code: 0 });
    const lines = readFileSync(join(folder, "lines"), "utf8");
    expect(lines).toMatch(/SF:.*fuzz\/harness\/tlv\.c\n(?:DA:.*\n)+/);
    const shown = vctl("--cmin", ...common, tlv);
    expect(shown).toMatchObject({ code: 0, err: expect.stringContaining("are needed") });
  }, 300_000);

  test("inputs may have a structure, said by a module", () => {
    const module = join(folder, "records.ts");
    writeFileSync(
      module,
      `import fc from "${join(root, "node_modules/fast-check/lib/fast-check.js")}";
       const record = fc.tuple(fc.constantFrom(0x11, 0x22, 0x33, 0x44), fc.uint8Array({ maxLength: 4 }));
       export const arbitrary = fc.array(record, { maxLength: 8 });
       export const encode = (records) =>
         Uint8Array.from(records.flatMap(([type, value]) => [type, value.length, ...value]));`,
    );
    const args = ["-m", "16M", "--seed", "1", "-j", "1", "--runs", "50000", "--json"];
    const { code, out, err } = vctl(...args, "--structure", module, "--corpus", "structured", tlv);
    expect(err).toContain("0 new crashes");
    expect(code).toBe(0);
    const { edges, stability } = JSON.parse(out.trim().split("\n").at(-1) as string);
    expect(stability).toBe(1);
    // All four types' branches, and loops over their values.
    expect(edges).toBeGreaterThan(30);
    writeFileSync(module, "export const arbitrary = 1;");
    expect(vctl(...args, "--structure", module, tlv)).toMatchObject({
      code: 1,
      err: `vctl: ${module}: it must export an arbitrary and a function encode\n`,
    });
  }, 60_000);

  test("the same seed gives the same run", () => {
    const once = (corpus: string) => {
      const args = ["-m", "16M", "--seeds", "seeds", "--seed", "7", "-j", "1", "--runs", "30000"];
      const { code } = vctl(...args, "--corpus", corpus, "--json", tlv);
      expect(code).toBe(0);
      return readdirSync(join(folder, corpus, "queue")).sort();
    };
    expect(once("first")).toEqual(once("second"));
  }, 60_000);

  const kvm = probe("kvm");
  if (!kvm.available) console.log(`fuzzing guests on kvm skipped: ${kvm.why}`);

  test.skipIf(!kvm.available)(
    "an engine that has to be told where blocks begin is told of what is new, too",
    () => {
      // Where the parser's jumps lead, and what is behind them.
      const dump = Bun.spawnSync(["objdump", "-d", "--no-show-raw-insn", tlv]).stdout.toString();
      const code = dump.slice(dump.indexOf("<tlv_parse>:")).split("\n\n")[0];
      const targets = Array.from(code.matchAll(/\sj\w+\s+([0-9a-f]+)/g), ([, to]) => to);
      const behind = Array.from(code.matchAll(/\sj\w+ .*\n\s*([0-9a-f]+):/g), ([, next]) => next);
      writeFileSync(join(folder, "blocks"), [...targets, ...behind].join("\n"));
      mkdirSync(join(folder, "near"));
      writeFileSync(join(folder, "near/one"), Uint8Array.of(1, 2, 3, 4, 0x22, 1, 5));
      writeFileSync(join(folder, "near/two"), Uint8Array.from(BUG));
      const args = ["-m", "16M", "-y", tlv, "--engine", "kvm", "--seeds", "near", "--seed", "1"];
      const found = vctl(
        ...[...args, "-j", "1", "--corpus", "kvm", "--blocks", "blocks", "--json"],
        ...["--runs", "5000", "--time", "60", tlv],
      );
      expect(found.err).toContain("1 new crashes");
      expect(found.code).toBe(2);
      const { edges, corpus } = JSON.parse(found.out.trim().split("\n").at(-1) as string);
      expect(edges).toBeGreaterThan(5);
      expect(corpus).toBeGreaterThan(0);
      expect(vctl(...args, "--corpus", "none", tlv)).toMatchObject({
        code: 1,
        err: "vctl: engine kvm has to be told where blocks of code begin: --blocks\n",
      });
      const compared = vctl("-m", "16M", "--corpus", "corpus", "--compare", "kvm", tlv);
      expect(compared.err).toContain("0 end differently on kvm");
      expect(compared.code).toBe(0);
    },
    120_000,
  );

  test("what can't be done is said in a sentence", () => {
    const says = (...args: string[]) => {
      const { code, err } = vctl("-m", "16M", ...args);
      expect(code).toBe(1);
      return err;
    };
    writeFileSync(join(folder, "text"), "no kernel");
    expect(says("missing")).toBe(`vctl: ${join(folder, "missing")}: no such file
`);
    expect(says("--start", "nowhere", tlv)).toContain("nowhere: no such symbol");
    expect(says("--input", "0x100000", tlv)).toContain("ADDRESS,SIZE is wanted");
    expect(says("--input", "0xe0000000,8", tlv)).toContain("not all mapped");
    expect(says("--input", "disk:0", tlv)).toContain("the machine has no such disk");
    expect(says("--coverage", "module:none", tlv)).toContain("no symbols of such a module");
    expect(says("--disk", "missing", tlv)).toContain("missing");
    expect(says("--crash", "exception:99", tlv)).toContain("vectors 0 to 31");
    expect(says("--crash", "exception:14", tlv)).toContain("no handler");
    expect(says("--start", "print:never", tlv)).toMatch(/never printed "never"|ended/);
    expect(says("text")).toContain("text");
  }, 60_000);
});
