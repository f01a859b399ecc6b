// newc cpio archives: what Linux takes as an initramfs
// (Documentation/driver-api/early-userspace/buffer-format.rst).
//
// Every number is eight hexadecimal digits. A header is 110 bytes, then comes the
// NUL-terminated path; it and the data are each padded to a multiple of four.
// Archives are made with no time, owner or inode from outside, so the same
// entries give the same bytes.

/** What st_mode says of an entry's kind. */
export const S_IFMT = 0o170000;
export const S_IFDIR = 0o040000;
export const S_IFREG = 0o100000;
export const S_IFLNK = 0o120000;
export const S_IFCHR = 0o020000;

export interface CpioEntry {
  /** Without a leading slash. */
  path: string;
  /** Kind and permissions, as st_mode. */
  mode: number;
  /** A file's bytes, or where a symbolic link points. */
  data?: Uint8Array;
  /** Major and minor number of a device. */
  device?: [number, number];
}

const headerSize = 110;
const trailer = "TRAILER!!!";
const encoder = new TextEncoder();
const decoder = new TextDecoder();
const align = (offset: number) => (offset + 3) & ~3;

/** An archive of the entries, in their order; folders that they lie in are added. */
export function writeCpio(entries: Iterable<CpioEntry>): Uint8Array<ArrayBuffer> {
  const all = withFolders(entries);
  const last: CpioEntry = { path: trailer, mode: 0 };
  let size = 0;
  for (const entry of [...all, last]) size = end(size, entry).next;
  const archive = new Uint8Array(size);
  let offset = 0;
  let inode = 1;
  for (const entry of [...all, last]) offset = put(archive, offset, entry, inode++);
  return archive;
}

/** Where an entry at `offset` has its data, and where the next one begins. */
function end(offset: number, { path, data }: CpioEntry) {
  const start = align(offset + headerSize + encoder.encode(path).length + 1);
  return { start, next: align(start + (data?.length ?? 0)) };
}

function put(archive: Uint8Array, offset: number, entry: CpioEntry, inode: number): number {
  const { path, mode, data, device } = entry;
  const name = encoder.encode(path);
  const fields = [
    path === trailer ? 0 : inode,
    mode,
    0, // owner
    0, // group
    (mode & S_IFMT) === S_IFDIR ? 2 : 1, // links
    0, // time of last change
    data?.length ?? 0,
    0, // device that holds it, major and minor
    0,
    device?.[0] ?? 0,
    device?.[1] ?? 0,
    name.length + 1,
    0, // checksum, of another format
  ];
  const header = "070701" + fields.map((value) => value.toString(16).padStart(8, "0")).join("");
  encoder.encodeInto(header, archive.subarray(offset));
  archive.set(name, offset + headerSize);
  const { start, next } = end(offset, entry);
  if (data) archive.set(data, start);
  return next;
}

function withFolders(entries: Iterable<CpioEntry>): CpioEntry[] {
  const seen = new Set<string>();
  const all: CpioEntry[] = [];
  for (const entry of entries) {
    const parts = entry.path.split("/");
    for (let depth = 1; depth < parts.length; depth++) {
      const path = parts.slice(0, depth).join("/");
      if (seen.has(path)) continue;
      seen.add(path);
      all.push({ path, mode: S_IFDIR | 0o755 });
    }
    if (seen.has(entry.path) && (entry.mode & S_IFMT) === S_IFDIR) continue;
    seen.add(entry.path);
    all.push(entry);
  }
  return all;
}

/** The entries of an archive, their data as views of it. Throws with an offset if it is malformed. */
export function* readCpio(archive: Uint8Array): Generator<CpioEntry> {
  let offset = 0;
  for (;;) {
    const field = (index: number) => {
      const at = offset + 6 + 8 * index;
      const text = decoder.decode(archive.subarray(at, at + 8));
      if (!/^[0-9a-fA-F]{8}$/.test(text)) throw new Error(`cpio: no number at offset ${at}`);
      return parseInt(text, 16);
    };
    if (decoder.decode(archive.subarray(offset, offset + 6)) !== "070701")
      throw new Error(`cpio: no newc header at offset ${offset}`);
    const nameSize = field(11);
    const name = archive.subarray(offset + headerSize, offset + headerSize + nameSize);
    if (nameSize === 0 || name.length < nameSize || name[nameSize - 1] !== 0)
      throw new Error(`cpio: no path at offset ${offset + headerSize}`);
    const path = decoder.decode(name.subarray(0, -1));
    if (path === trailer) return;
    const start = align(offset + headerSize + nameSize);
    const size = field(6);
    const data = archive.subarray(start, start + size);
    if (data.length < size) throw new Error(`cpio: ${path} is cut off at offset ${start}`);
    const entry: CpioEntry = { path, mode: field(1), data };
    if ((entry.mode & S_IFMT) === S_IFCHR) entry.device = [field(9), field(10)];
    yield entry;
    offset = align(start + size);
  }
}
