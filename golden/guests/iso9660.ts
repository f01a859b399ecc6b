// A small ISO 9660 image (ECMA-119): one folder of files, no extensions.

const BLOCK = 2048;
const ROOT = 20;

/** Both byte orders, as ECMA-119 § 7.2.3 and § 7.3.3 want them. */
function both(view: DataView, at: number, size: 2 | 4, value: number): void {
  if (size === 2) {
    view.setUint16(at, value, true);
    view.setUint16(at + 2, value);
  } else {
    view.setUint32(at, value, true);
    view.setUint32(at + 4, value);
  }
}

/** A directory record, § 9.1. */
function record(name: Uint8Array, block: number, length: number, folder: boolean): Uint8Array {
  const bytes = new Uint8Array((33 + name.length + 1) & ~1);
  const view = new DataView(bytes.buffer);
  bytes[0] = bytes.length;
  both(view, 2, 4, block);
  both(view, 10, 4, length);
  bytes.set([126, 1, 1, 0, 0, 0, 0], 18);
  bytes[25] = folder ? 2 : 0;
  both(view, 28, 2, 1);
  bytes[32] = name.length;
  bytes.set(name, 33);
  return bytes;
}

/** @param files by name: "HELLO.TXT". */
export function iso9660(volume: string, files: Record<string, Uint8Array>): Uint8Array {
  const text = (value: string) => new TextEncoder().encode(value);
  let next = ROOT + 1;
  const placed = Object.entries(files).map(([name, data]) => {
    const block = next;
    next += Math.max(1, Math.ceil(data.length / BLOCK));
    return { name: text(`${name};1`), data, block };
  });
  const image = new Uint8Array(next * BLOCK);
  const root = record(Uint8Array.of(0), ROOT, BLOCK, true);
  const entries = [root, record(Uint8Array.of(1), ROOT, BLOCK, true)];
  for (const { name, data, block } of placed) {
    entries.push(record(name, block, data.length, false));
    image.set(data, block * BLOCK);
  }
  let at = ROOT * BLOCK;
  for (const entry of entries) {
    image.set(entry, at);
    at += entry.length;
  }
  // Primary volume descriptor, § 8.4; its end, § 8.3.
  const primary = image.subarray(16 * BLOCK, 17 * BLOCK);
  const view = new DataView(image.buffer, 16 * BLOCK, BLOCK);
  primary.set([1, ...text("CD001"), 1]);
  primary.fill(32, 8, 72);
  primary.set(text(volume), 40);
  both(view, 80, 4, next);
  both(view, 120, 2, 1);
  both(view, 124, 2, 1);
  both(view, 128, 2, BLOCK);
  both(view, 132, 4, 10);
  view.setUint32(140, 18, true);
  view.setUint32(148, 19);
  primary.set(root, 156);
  primary.fill(32, 190, 813);
  primary[881] = 1;
  image.set([255, ...text("CD001"), 1], 17 * BLOCK);
  // Path tables, § 9.4: the root alone.
  image.set([1, 0, ROOT, 0, 0, 0, 1, 0], 18 * BLOCK);
  image.set([1, 0, 0, 0, 0, ROOT, 0, 1], 19 * BLOCK);
  return image;
}
