/** Small kernel files for this folder's tests, built from the specifications. */

/** Fields of a synthetic bzImage; the defaults are those of a Debian amd64 kernel. */
export interface BzImageFields {
  setupSects?: number;
  syssize?: number;
  bootFlag?: number;
  headerLength?: number;
  version?: number;
  loadflags?: number;
  initrdAddrMax?: number;
  alignment?: number;
  relocatable?: number;
  xloadflags?: number;
  cmdlineSize?: number;
  prefAddress?: number;
  initSize?: number;
  /** The protected-mode kernel's bytes; default: 8 KiB of 0x11. */
  kernel?: Uint8Array;
  payloadOffset?: number;
  payloadLength?: number;
}

/** A bzImage: 3 setup sectors, then the protected-mode kernel. */
export function bzImage(fields: BzImageFields = {}): Uint8Array {
  const kernel = fields.kernel ?? new Uint8Array(8192).fill(0x11);
  const file = new Uint8Array(4 * 512 + kernel.length);
  const view = new DataView(file.buffer);
  const u32 = (offset: number, value: number) => view.setUint32(offset, value, true);
  const u16 = (offset: number, value: number) => view.setUint16(offset, value, true);
  file[0x1f1] = fields.setupSects ?? 3;
  u32(0x1f4, fields.syssize ?? Math.ceil(kernel.length / 16));
  u16(0x1fe, fields.bootFlag ?? 0xaa55);
  file[0x200] = 0xeb;
  file[0x201] = fields.headerLength ?? 0x6a;
  file.set(new TextEncoder().encode("HdrS"), 0x202);
  u16(0x206, fields.version ?? 0x20f);
  u16(0x20e, 0x100);
  file[0x211] = fields.loadflags ?? 0xc1;
  u32(0x214, 0x100000);
  u32(0x22c, fields.initrdAddrMax ?? 0x7fffffff);
  u32(0x230, fields.alignment ?? 0x200000);
  file[0x234] = fields.relocatable ?? 1;
  u16(0x236, fields.xloadflags ?? 0x7f);
  u32(0x238, fields.cmdlineSize ?? 2047);
  u32(0x248, fields.payloadOffset ?? 0);
  u32(0x24c, fields.payloadLength ?? 0);
  view.setBigUint64(0x258, BigInt(fields.prefAddress ?? 0x1000000), true);
  u32(0x260, fields.initSize ?? 0x100000);
  file.set(new TextEncoder().encode("6.1.0-test (builder) #1 SMP\0"), 0x300);
  file.set(kernel, 4 * 512);
  return file;
}

export interface ElfFields {
  bits?: 32 | 64;
  machine?: number;
  type?: number;
  osabi?: number;
  entry: bigint;
  segments: ElfSegment[];
  sections?: { name: string; type: number; bytes: Uint8Array }[];
}

export interface ElfSegment {
  /** Default: PT_LOAD. */
  type?: number;
  flags?: number;
  vaddr?: bigint;
  paddr: bigint;
  bytes: Uint8Array;
  /** Default: as many as `bytes`. */
  memsz?: number;
  align?: number;
  /** Points into another segment's bytes instead of having its own. */
  offset?: number;
}

/** File offset of the first segment's bytes. */
export const ELF_DATA = 0x400;

/**
 * An ELF file: header, program headers, then from ELF_DATA on the segments' bytes, section
 * contents (each at a multiple of 16), the section names and the section headers.
 */
export function elfFile(fields: ElfFields): Uint8Array {
  const { bits = 64, segments, sections = [] } = fields;
  const wide = bits === 64;
  const out = new Uint8Array(0x10000);
  const view = new DataView(out.buffer);
  const u16 = (at: number, value: number) => view.setUint16(at, value, true);
  const u32 = (at: number, value: number) => view.setUint32(at, value, true);
  const word = (at: number, value: bigint | number) =>
    wide ? view.setBigUint64(at, BigInt(value), true) : u32(at, Number(value));
  let end = ELF_DATA;
  const append = (bytes: Uint8Array): number => {
    const at = end;
    out.set(bytes, at);
    end = Math.ceil((at + bytes.length) / 16) * 16;
    return at;
  };

  out.set([0x7f, 0x45, 0x4c, 0x46, wide ? 2 : 1, 1, 1, fields.osabi ?? 0]);
  u16(16, fields.type ?? 2);
  u16(18, fields.machine ?? (wide ? 62 : 3));
  u32(20, 1);
  word(24, fields.entry);
  const tail = wide ? 52 : 40;
  const [phentsize, shentsize] = wide ? [56, 64] : [32, 40];
  const header = wide ? 64 : 52;
  word(wide ? 32 : 28, header);
  u16(tail, header);
  u16(tail + 2, phentsize);
  u16(tail + 4, segments.length);
  for (const [i, segment] of segments.entries()) {
    const at = header + i * phentsize;
    const offset = segment.offset ?? append(segment.bytes);
    const { bytes, paddr, vaddr = paddr, memsz = bytes.length } = segment;
    u32(at, segment.type ?? 1);
    u32(at + (wide ? 4 : 24), segment.flags ?? 7);
    const values = [offset, vaddr, paddr, bytes.length, memsz];
    for (const [n, value] of values.entries()) word(at + (wide ? 8 + n * 8 : 4 + n * 4), value);
    word(at + (wide ? 48 : 28), segment.align ?? 4);
  }

  if (sections.length > 0) {
    const all = [
      { name: "", type: 0, bytes: new Uint8Array(0) },
      ...sections,
      { name: ".shstrtab", type: 3, bytes: new Uint8Array(0) },
    ];
    const names = new TextEncoder().encode(all.map((section) => section.name).join("\0") + "\0");
    all[all.length - 1].bytes = names;
    const placed = all.map((section) => ({ ...section, offset: append(section.bytes) }));
    const table = end;
    let name = 0;
    for (const [i, section] of placed.entries()) {
      const at = table + i * shentsize;
      u32(at, name);
      name += section.name.length + 1;
      u32(at + 4, section.type);
      if (section.type !== 0) {
        word(at + (wide ? 24 : 16), section.offset);
        word(at + (wide ? 32 : 20), section.bytes.length);
      }
    }
    end = table + placed.length * shentsize;
    word(wide ? 40 : 32, table);
    u16(tail + 6, shentsize);
    u16(tail + 8, placed.length);
    u16(tail + 10, placed.length - 1);
  }
  return out.slice(0, end);
}

/** An ELF note with 4-byte alignment. */
export function note(owner: string, type: number, desc: Uint8Array): Uint8Array {
  const name = new TextEncoder().encode(`${owner}\0`);
  const start = 12 + Math.ceil(name.length / 4) * 4;
  const bytes = new Uint8Array(start + Math.ceil(desc.length / 4) * 4);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, name.length, true);
  view.setUint32(4, desc.length, true);
  view.setUint32(8, type, true);
  bytes.set(name, 12);
  bytes.set(desc, start);
  return bytes;
}

/** `length` bytes that count up from `first`. */
export function counting(length: number, first = 1): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (first + i) & 0xff);
}

export const ascii = (text: string) => new TextEncoder().encode(text);

export function concat(...parts: Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

/** Numbers as little-endian 32-bit words. */
export function words(...values: number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

/** An OpenBSD kernel: text, data with bss, random data within, symbols. */
export function openBsdKernel(bits: 32 | 64 = 64): Uint8Array {
  const base = bits === 64 ? 0xffffffff81000000n : 0xd0200000n;
  const paddr = bits === 64 ? 0x1000000n : 0xd0200000n;
  const text = concat(counting(64), ascii("OpenBSD 7.9 (GENERIC) #1\0"));
  return elfFile({
    bits,
    entry: base + 0x20n,
    segments: [
      { vaddr: base, paddr, bytes: text },
      { vaddr: base + 0x1000n, paddr: paddr + 0x1000n, bytes: counting(100), memsz: 0x2004 },
      {
        type: 0x65a3dbe6,
        vaddr: base + 0x1010n,
        paddr: paddr + 0x1010n,
        bytes: new Uint8Array(16),
      },
    ],
    sections: [
      { name: ".text", type: 1, bytes: new Uint8Array(0) },
      { name: ".symtab", type: 2, bytes: counting(48, 0x10) },
      { name: ".strtab", type: 3, bytes: ascii("\0main\0") },
      { name: ".debug_line", type: 1, bytes: counting(9, 0x80) },
      { name: ".comment", type: 1, bytes: counting(5) },
    ],
  });
}

/** A Linux vmlinux with a version string, notes and a PVH entry point. */
export function vmlinux(bits: 32 | 64 = 64): Uint8Array {
  const vaddr = bits === 64 ? 0xffffffff81000000n : 0xc1000000n;
  const notes = concat(
    note("Linux", 0x100, new Uint8Array(4)),
    note("Xen", 18, bits === 64 ? words(0x1000010, 0) : words(0x1000010)),
  );
  return elfFile({
    bits,
    entry: 0x1000000n,
    segments: [
      { vaddr, paddr: 0x1000000n, bytes: concat(counting(64), ascii("Linux version 6.1.0-t (b)")) },
      { vaddr: vaddr + 0x1000n, paddr: 0x1001000n, bytes: counting(32), memsz: 0x3000 },
      { type: 4, paddr: 0n, bytes: notes },
    ],
  });
}

/** A Multiboot header without address fields. */
export function multibootHeader(flags = 3, ...addresses: number[]): Uint8Array {
  return words(0x1badb002, flags, -(0x1badb002 + flags) >>> 0, ...addresses);
}

/** A Multiboot kernel, ELF32 at 1 MiB. */
export function multibootKernel(flags = 3): Uint8Array {
  const bytes = concat(multibootHeader(flags), counting(100));
  return elfFile({
    bits: 32,
    entry: 0x100010n,
    segments: [{ paddr: 0x100000n, vaddr: 0xc0100000n, bytes, memsz: 0x2345 }],
  });
}
