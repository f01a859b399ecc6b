import { expect, test } from "bun:test";
import fc from "fast-check";
import { Capability, Engine, type EngineName } from "../engine.ts";
import { MachineImage } from "../image.ts";
import { type Point, RunEnd } from "../point.ts";
import {
  CODE,
  code,
  engines,
  flatState,
  longState,
  machine,
  mapLow,
  MIB,
  next,
  onEachEngine,
  RAM,
  rounds,
} from "./machine.ts";

const INPUT = 0x20000;
const PORT = 0x500;

/** With virtual time, where the engine has that: then runs repeat. */
const virtual = (name: EngineName) => {
  using image = new MachineImage(RAM);
  using engine = Engine.open(name, image);
  return engine.can(Capability.VIRTUAL_TIME);
};
const time = (name: EngineName) => ({ time: { virtual: virtual(name) } });

function prepared(point: Point, bytes: Uint8Array): void {
  point.port = PORT;
  point.place = { segments: [{ address: INPUT, length: bytes.length }] };
  point.input = bytes;
}

// mov dx, 0x500; then the end of a run
const END = "66 ba 00 05 ef f4 # mov dx, 0x500; out dx, eax; hlt";

onEachEngine("points", ({ name }) => {
  test("a machine goes back to its point", () => {
    // mov eax, [0x20000]; add [0x9000], eax; push eax; mov eax, [0x9000]
    using m = machine(name, `a1 00000200 0105 00900000 50 a1 00900000 ${END}`, time(name));
    const { engine, image } = m;
    image.memory.write32(0x9000, 100);
    using point = engine.takePoint();
    const input = Uint8Array.of(5, 0, 0, 0);
    prepared(point, input);
    for (const byte of [5, 7, 9, 5]) {
      input[0] = byte;
      expect(point.run(4)).toBe(RunEnd.PORT);
      expect(point.value).toBe(BigInt(100 + byte));
    }
    expect(point.pages).toBeGreaterThanOrEqual(3);
    expect(new Set(point.writtenPages())).toEqual(new Set([INPUT, 0x9000, 0x7000]));
    point.reset();
    expect(point.difference()).toBeUndefined();
    expect(image.memory.read32(0x9000)).toBe(100);
    expect(image.memory.read32(INPUT)).toBe(0);
    expect(engine.getCpu()).toMatchObject({ rip: CODE, rsp: 0x8000, rax: 0 });
  });

  test("what the host writes is undone, and so are the image's registers", () => {
    using m = machine(name, END, time(name));
    const { engine, image } = m;
    using point = engine.takePoint();
    image.memory.write(0x30ff0, new Uint8Array(0x2000).fill(1));
    image.clock.setInt32(8, 12345, true);
    expect(point.difference()).toBeString();
    expect(point.reset()).toBe(3);
    expect(point.difference()).toBeUndefined();
  });

  test("the input's length goes where it is wanted", () => {
    // mov eax, [0x9000]; add eax, esi
    using m = machine(name, `a1 00900000 01 f0 ${END}`, time(name));
    using point = m.engine.takePoint();
    const input = new Uint8Array(5000).fill(0xaa);
    prepared(point, input);
    point.place = {
      segments: [
        { address: INPUT + 0x5000, length: 4096 },
        { address: INPUT, length: 100 },
      ],
      length: { address: 0x9000, size: 4 },
      lengthRegister: 6,
    };
    expect(point.run(4150)).toBe(RunEnd.PORT);
    expect(point.value).toBe(8300n);
    expect(m.image.memory.read8(INPUT + 53)).toBe(0xaa);
    expect(m.image.memory.read8(INPUT + 54)).toBe(0);
    expect(m.image.memory.read8(INPUT + 0x5fff)).toBe(0xaa);
  });

  test("a triple fault and an exit of another kind end a run", () => {
    // cmp byte [0x20000], 0; je +2; ud2; in al, 0x80
    using m = machine(name, `80 3d 00000200 00 74 02 0f0b e4 80 ${END}`, time(name));
    m.engine.setCpu(flatState({ idt: { base: 0, limit: 0 } }));
    using point = m.engine.takePoint();
    const input = Uint8Array.of(1);
    prepared(point, input);
    for (let round = 0; round < 3; round++) {
      input[0] = 1;
      expect(point.run(1)).toBe(RunEnd.SHUTDOWN);
      input[0] = 0;
      expect(point.run(1)).toBe(RunEnd.EXIT);
      m.engine.run.u8[m.engine.run.ioData] = 9;
      expect(point.proceed()).toBe(RunEnd.PORT);
      expect(point.value).toBe(9n);
    }
    point.reset();
    expect(point.difference()).toBeUndefined();
  });

  test("a loop ends with its budget", () => {
    using m = machine(name, "eb fe", time(name));
    using point = m.engine.takePoint();
    prepared(point, new Uint8Array(1));
    point.budget = virtual(name) ? 1000 : 2e6;
    for (let round = 0; round < 3; round++) {
      expect(point.run(1)).toBe(RunEnd.BUDGET);
      expect(point.spent).toBeGreaterThanOrEqual(virtual(name) ? 1000 : 2e6);
    }
    if (virtual(name)) expect(point.spent).toBe(1000);
  });

  test("dirty pages can't be asked for meanwhile", () => {
    using m = machine(name, END, time(name));
    const point = m.engine.takePoint();
    expect(() => m.engine.dirtyPages(0, new Uint8Array(64))).toThrow();
    point[Symbol.dispose]();
    expect(() => m.engine.dirtyPages(0, new Uint8Array(64))).not.toThrow();
  });
});

const fast = engines.find(virtual);

test.skipIf(fast === undefined)("points: paging that a run changes is undone", () => {
  // Turns to other page tables, writes there, and back; a mapping is changed, too.
  using m = machine(
    fast as EngineName,
    `48 b8 0020010000000000     # mov rax, 0x12000 (the page directory)
     c7 40 08 87004000          # mov dword [rax+8], 0x400087: 2 MiB leads to 4 MiB
     0f 20 d9 0f 22 d9          # mov rcx, cr3; mov cr3, rcx
     c7 04 25 00002000 78563412 # mov dword [0x200000], 0x12345678
     8b 04 25 00004000          # mov eax, [0x400000]
     ${END}`,
    { ranges: [{ base: 0, size: 8 * MIB, readonly: false }], ...time(fast as EngineName) },
  );
  mapLow(m.image);
  m.engine.setCpu(longState());
  using point = m.engine.takePoint();
  prepared(point, new Uint8Array(1));
  for (let round = 0; round < 5; round++) {
    expect(point.run(1, true)).toBe(RunEnd.PORT);
    expect(point.differs).toBe(false);
    expect(point.value).toBe(0x12345678n);
    expect(m.image.memory.read32(0x200000)).toBe(0);
  }
  point.reset();
  expect(point.difference()).toBeUndefined();
});

test.skipIf(fast === undefined)("points: code that a run changes is undone", () => {
  // The instruction at CODE+0x100 (mov eax, 1; ret) is called, its constant changed, and called again.
  const program = code(`
    e8 fb000000          # call 0x1100
    89 c3                # mov ebx, eax
    a0 00000200          # mov al, [0x20000]
    a2 01110000          # mov [0x1101], al
    e8 ea000000          # call 0x1100
    c1 e3 08 09 d8       # shl ebx, 8; or eax, ebx
    ${END}`);
  using m = machine(fast as EngineName, "", time(fast as EngineName));
  m.image.memory.write(CODE, program);
  m.image.memory.write(0x1100, code("b8 01000000 c3"));
  using point = m.engine.takePoint();
  const input = new Uint8Array(1);
  prepared(point, input);
  for (let round = 0; round < 300; round++) {
    input[0] = round;
    expect(point.run(1)).toBe(RunEnd.PORT);
    expect(point.value).toBe(BigInt(0x100 | (round & 255)));
  }
  point.reset();
  expect(point.difference()).toBeUndefined();
});

/** A guest that does what its input says: stores, loads, flags, interrupts' flag, control registers. */
const INTERPRETER = `
  be 00000200          # mov esi, 0x20000
  b9 40000000          # mov ecx, 64
  31 db                # xor ebx, ebx
  0f b6 06             # again: movzx eax, byte [esi]
  46                   # inc esi
  69 d0 61100000       # imul edx, eax, 0x1061
  81 e2 ffff0300       # and edx, 0x3ffff
  81 c2 00000400       # add edx, 0x40000
  a8 01 74 02          # test al, 1; je +2
  00 02                # add [edx], al
  a8 02 74 02          # test al, 2; je +2
  02 1a                # add bl, [edx]
  a8 04 74 02 0f a2    # test al, 4; je +2; cpuid
  0f b6 c3             # movzx eax, bl
  3c c3 75 01 fb       # cmp al, 0xc3; jne +1; sti
  e2 ce                # loop again
  89 d8                # mov eax, ebx
  ${END}`;

test.skipIf(fast === undefined)(
  "points: any run can be undone, and repeats to the last edge",
  () => {
    using m = machine(fast as EngineName, INTERPRETER, time(fast as EngineName));
    using point = m.engine.takePoint();
    const coverage = m.engine.openCoverage(4096);
    const input = new Uint8Array(64);
    prepared(point, input);
    point.budget = 10_000;
    const one = () => {
      const end = point.run(64);
      return `${end} ${point.value} ${point.spent} ${coverage.hash()} ${coverage.edges()}`;
    };
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 64, maxLength: 64 }),
        fc.uint8Array({ minLength: 64, maxLength: 64 }),
        (first, second) => {
          input.set(first);
          const before = one();
          input.set(second);
          one();
          input.set(first);
          point.reset();
          expect(point.difference()).toBeUndefined();
          expect(one()).toBe(before);
        },
      ),
      { numRuns: rounds(200) },
    );
  },
);

test.skipIf(fast === undefined)("coverage tells new edges, more of them, and none", () => {
  // movzx ecx, byte [0x20000]; jecxz end; again: loop again; end:
  using m = machine(fast as EngineName, `0fb60d 00000200 e3 02 e2 fe ${END}`, time(fast as never));
  using point = m.engine.takePoint();
  const coverage = m.engine.openCoverage(65536);
  const input = new Uint8Array(1);
  prepared(point, input);
  const novelty = (byte: number) => {
    input[0] = byte;
    expect(point.run(1)).toBe(RunEnd.PORT);
    return coverage.novelty();
  };
  expect(novelty(0)).toBe(2);
  const { seen } = coverage;
  expect(novelty(0)).toBe(0);
  expect(novelty(3)).toBe(2);
  expect(coverage.seen).toBeGreaterThan(seen);
  expect(novelty(3)).toBe(0);
  // From twice round the loop to 4-7 times, to 8-15; 9 and 12 are one bucket.
  expect(novelty(6)).toBe(1);
  expect(novelty(10)).toBe(1);
  expect(novelty(13)).toBe(0);
  const twelve = coverage.hash();
  novelty(10);
  expect(coverage.hash()).toBe(twelve);
  novelty(3);
  expect(coverage.hash()).not.toBe(twelve);
});

const trapping = engines.find((name) => !virtual(name));

test.skipIf(trapping === undefined)("an engine with traps tells of each block once", () => {
  // cmp byte [0x20000], 1; jne end; mov eax, [one]; one: nop; ...; end:
  using m = machine(
    trapping as EngineName,
    `803d 00000200 01 75 06 a1 0e100000 90 ${END}`,
    time(trapping as EngineName),
  );
  const { engine } = m;
  using point = engine.takePoint();
  const coverage = engine.openCoverage(16);
  const places = [CODE + 14, CODE + 15].map((at) => ({ address: BigInt(at), physical: at }));
  coverage.trap(places);
  const input = Uint8Array.of(0);
  prepared(point, input);
  expect(point.run(1)).toBe(RunEnd.PORT);
  expect([...coverage.edges()]).toEqual([1]);
  expect(coverage.novelty()).toBe(2);
  expect(point.run(1)).toBe(RunEnd.PORT);
  expect([...coverage.edges()]).toEqual([]);
  expect(coverage.novelty()).toBe(0);
  input[0] = 1;
  expect(point.run(1)).toBe(RunEnd.PORT);
  expect([...coverage.edges()]).toEqual([0]);
  expect(coverage.novelty()).toBe(2);
  expect(coverage.seen).toBe(2);
  // Its first byte is what it was.
  expect(m.image.memory.read8(CODE + 14)).toBe(0x90);
  coverage.trap(places);
  expect(m.image.memory.read8(CODE + 14)).not.toBe(0x90);
  coverage.trap([]);
  expect(m.image.memory.read8(CODE + 14)).toBe(0x90);
  expect(() => coverage.trap([{ address: 0n, physical: 2 ** 40 }])).toThrow();
});

test.skipIf(fast === undefined)("comparisons and blocks are noted when that is asked for", () => {
  // cmp dword [0x20000], 0x11223344; sete al; add al, [0x20005]; jne end; cmp byte [0x20004], 0x55
  // jne end; inc eax
  using m = machine(
    fast as EngineName,
    `813d 00000200 44332211 0f94c0 0205 05000200 75 0a 803d 04000200 55 75 01 40 ${END}`,
    time(fast as EngineName),
  );
  using point = m.engine.takePoint();
  const coverage = m.engine.openCoverage(65536);
  const input = Uint8Array.of(1, 2, 3, 4, 5, 0);
  prepared(point, input);
  const first = point.run(6);
  const hash = coverage.hash();
  expect(coverage.compares()).toEqual([]);
  expect(coverage.blocks()).toEqual([]);
  coverage.note({ compares: true });
  expect(point.run(6)).toBe(first);
  expect(coverage.compares()).toEqual([
    { at: BigInt(CODE), left: 0x04030201n, right: 0x11223344n, size: 4 },
    { at: BigInt(CODE + 21), left: 5n, right: 0x55n, size: 1 },
  ]);
  coverage.note({ blocks: true });
  point.run(6);
  expect(coverage.hash()).toBe(hash);
  expect(coverage.blocks()[0]).toMatchObject({ address: BigInt(CODE), size: 21 });
  coverage.limit([{ from: BigInt(CODE + 21), to: BigInt(CODE + 30) }]);
  point.run(6);
  expect(coverage.blocks().map(({ address }) => Number(address))).toEqual([CODE + 21]);
});

test.skipIf(fast === undefined)("a comparison of strings is one of each of their bytes", () => {
  // mov esi, 0x20000; mov edi, 0x9000; mov ecx, 4; repe cmpsb
  using m = machine(
    fast as EngineName,
    `be 00000200 bf 00900000 b9 04000000 f3 a6 ${END}`,
    time(fast as EngineName),
  );
  m.image.memory.write(0x9000, new TextEncoder().encode("keyhole"));
  using point = m.engine.takePoint();
  const coverage = m.engine.openCoverage(65536);
  coverage.note({ compares: true });
  prepared(point, new TextEncoder().encode("kex!"));
  expect(point.run(4)).toBe(RunEnd.PORT);
  const bytes = coverage.compares().map(({ left, right, size }) => [left, right, size]);
  expect(bytes).toEqual([
    [107n, 107n, 1],
    [101n, 101n, 1],
    [120n, 121n, 1],
  ]);
});

test.skipIf(fast === undefined)("a breakpoint ends a run, and not the next one", () => {
  using m = machine(fast as EngineName, "90 90 90 f4", time(fast as EngineName));
  m.engine.debug([{ address: BigInt(CODE + 2), kind: 0, length: 1 }]);
  using point = m.engine.takePoint();
  prepared(point, new Uint8Array(1));
  for (let round = 0; round < 3; round++) {
    expect(point.run(1)).toBe(RunEnd.STOP);
    expect(point.value).toBe(BigInt(CODE + 2));
  }
  point[Symbol.dispose]();
  m.engine.debug([]);
  expect(next(m.engine)).toBe("HLT");
});
