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
