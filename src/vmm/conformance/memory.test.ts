import { expect, test } from "bun:test";
import { Capability } from "../engine.ts";
import {
  code,
  CODE,
  flatState,
  longState,
  machine,
  mapLow,
  MIB,
  next,
  nextByte,
  onEachEngine,
  RAM,
} from "./machine.ts";

onEachEngine("memory", ({ name }) => {
  test("the guest sees what the host writes, also over code it has run", () => {
    // loop: mov al, 1; out al, 0x80; jmp loop
    using m = machine(name, "b0 01 e6 80 eb fa");
    const { engine, image } = m;
    expect(nextByte(engine)).toBe(1);
    expect(nextByte(engine)).toBe(1);
    image.memory.write8(CODE + 1, 2);
    expect(nextByte(engine)).toBe(2);
    image.memory.write(CODE, code("b0 03"));
    expect(nextByte(engine)).toBe(3);
  });

  test("ROM is read and run; writes to it exit and change nothing", () => {
    const rom = 0xffff0000;
    // mov eax, [rom + 0x100]; mov [rom + 0x100], cl; mov ebx, [rom + 0x100]; hlt
    const ranges = [...RAM, { base: rom, size: 0x10000, readonly: true }];
    using m = machine(name, "", { ranges });
    const { engine, image } = m;
    image.memory.placeRom(rom, code("a1 0001ffff 88 0d 0001ffff 8b 1d 0001ffff f4"));
    image.memory.placeRom(rom + 0x100, code("78563412"));
    engine.setCpu(flatState({ rip: rom, rcx: 0x55 }));
    expect(next(engine)).toBe("MMIO");
    const { run } = engine;
    expect([run.mmioIsWrite, run.mmioAddress, run.mmioLength]).toEqual([true, rom + 0x100, 1]);
    expect(next(engine)).toBe("HLT");
    const { rax, rbx } = engine.getCpu();
    expect([rax, rbx]).toEqual([0x12345678, 0x12345678]);
  });

  test("RAM above 4 GiB", () => {
    const ranges = [
      { base: 0, size: 0xf0000000, readonly: false },
      { base: 2 ** 32, size: 0x30000000, readonly: false },
    ];
    using m = machine(name, "", { ranges });
    const { engine, image } = m;
    mapLow(image, 5);
    // mov [rbx], rax; mov rcx, [rbx+8]; inc byte [rdi]; call rsi; hlt
    image.memory.write(CODE, code("48 89 03 48 8b 4b 08 fe 07 ff d6 f4"));
    const high = 2 ** 32 + 0x2fff0000;
    image.memory.write64(high + 8, 0x1_2345_6789);
    image.memory.write(high + 0x800, code("b0 77 c3")); // mov al, 0x77; ret
    image.memory.write8(0xefffffff, 4);
    engine.setCpu(longState({ rax: 0xa_bcde_f012, rbx: high, rsi: high + 0x800, rdi: 0xefffffff }));
    expect(next(engine)).toBe("HLT");
    expect(image.memory.read64(high)).toBe(0xa_bcde_f012);
    expect(image.memory.read8(0xefffffff)).toBe(5);
    const { rcx, rax } = engine.getCpu();
    expect([rcx, rax % 256]).toEqual([0x1_2345_6789, 0x77]);
    // The hole is MMIO; so is what lies behind the RAM.
    image.memory.write(CODE, code("8a 03 f4"));
    for (const address of [0xf0000000, 2 ** 32 + 0x30000000]) {
      engine.setCpu(longState({ rbx: address }));
      expect(next(engine)).toBe("MMIO");
      expect(engine.run.mmioAddress).toBe(address);
    }
    expect(image.resident).toBeLessThan(64 * MIB);
  });

  test("dirty pages", () => {
    using m = machine(name, "");
    const { engine, image } = m;
    if (!engine.can(Capability.DIRTY_LOG)) return;
    const bitmap = new Uint8Array(32);
    const pages = () => {
      bitmap.fill(0);
      const count = engine.dirtyPages(0, bitmap);
      const list: number[] = [];
      for (let i = 0; i < 256; i++) if ((bitmap[i >> 3] >> (i & 7)) & 1) list.push(i);
      expect(list.length).toBe(count);
      return list;
    };
    // mov [0x20000], al; mov [0x4ffff], eax (two pages); push eax; mov bl, [0x60000]; hlt
    image.memory.write(CODE, code("a2 00000200 a3 ffff0400 50 8a 1d 00000600 f4"));
    pages();
    expect(pages()).toEqual([]);
    engine.setCpu(flatState());
    expect(next(engine)).toBe("HLT");
    const wanted = [0x07, 0x20, 0x4f, 0x50];
    if (engine.can(Capability.EXACT_DIRTY)) expect(pages()).toEqual(wanted);
    else expect(pages()).toEqual(expect.arrayContaining(wanted));
    expect(pages()).toEqual([]);
    // Again: pages that were written before are seen again.
    engine.setCpu(flatState());
    expect(next(engine)).toBe("HLT");
    expect(pages()).toEqual(expect.arrayContaining(wanted));
    if (engine.can(Capability.EXACT_DIRTY)) {
      image.memory.write32(0x70ffe, 1);
      expect(pages()).toEqual([0x70, 0x71]);
    }
    expect(() => engine.dirtyPages(0, new Uint8Array(8))).toThrow();
    expect(() => engine.dirtyPages(7, bitmap)).toThrow();
    // Who asks after an end asks for the first time: nothing is missed meanwhile.
    engine.endDirtyLog();
    engine.endDirtyLog();
    engine.setCpu(flatState());
    expect(next(engine)).toBe("HLT");
    expect(pages()).toEqual(expect.arrayContaining(wanted));
    expect(pages()).toEqual([]);
  });

  test("touched pages", () => {
    using m = machine(name, "");
    const { engine, image } = m;
    const bitmap = new Uint8Array(32);
    const pages = () => {
      bitmap.fill(0);
      const count = engine.touchedPages(0, bitmap);
      const list: number[] = [];
      for (let i = 0; i < 256; i++) if ((bitmap[i >> 3] >> (i & 7)) & 1) list.push(i);
      expect(list.length).toBe(count);
      return list;
    };
    if (!engine.can(Capability.TOUCHED)) {
      expect(() => engine.beginTouched()).toThrow();
      expect(() => pages()).toThrow();
      return;
    }
    const run = () => {
      engine.setCpu(longState());
      expect(next(engine)).toBe("HLT");
    };
    mapLow(image);
    // mov al, [0x20000]; mov [0x4ffff], eax (two pages); push rax; mov bl, [0x60000]; hlt
    const text = "8a 04 25 00000200 89 04 25 ffff0400 50 8a 1c 25 00000600 f4";
    image.memory.write(CODE, code(text));
    run();
    expect(() => pages()).toThrow();
    engine.beginTouched();
    expect(() => engine.beginTouched()).toThrow();
    expect(pages()).toEqual([]);
    // Code, stack, page tables and data, again and again: what is in the TLB, and translated, too.
    for (let round = 0; round < 3; round++) {
      run();
      expect(pages()).toEqual([0x01, 0x07, 0x10, 0x11, 0x12, 0x20, 0x4f, 0x50, 0x60]);
    }
    expect(pages()).toEqual([]);
    // What the host does is no matter.
    image.memory.write32(0x70ffe, 1);
    expect(pages()).toEqual([]);
    expect(() => engine.touchedPages(0, new Uint8Array(8))).toThrow();
    expect(() => engine.touchedPages(7, bitmap)).toThrow();
    engine.endTouched();
    expect(() => pages()).toThrow();
  });
});
