/**
 * Register blocks in a snapshot: each with its declaration, so that a version of this program that
 * declares more registers can read what an older one wrote.
 *
 * ```
 * u32  bytes of JSON
 * JSON [[name, [[field, type, count], …]], …]
 * the blocks' bytes, in that order, as RegisterLayout lays them out
 * ```
 *
 * What may differ: a register, or a block, that the snapshot hasn't got keeps its reset value; one
 * may have become wider, and an array longer. What this program doesn't know is refused.
 */
import type { MachineImage } from "../image.ts";
import { type Field, type Register, RegisterLayout, type RegisterType } from "../registers.ts";
import { SnapshotError } from "./format.ts";

/** A block as it lies in a snapshot. */
export interface SavedBlock {
  readonly layout: RegisterLayout;
  readonly bytes: Uint8Array;
}

const BLOCKS_MAX = 1024;
const FIELDS_MAX = 256;
const COUNT_MAX = 2 ** 20;
/** No register holds more, but for those that begin with Infinity: what follows from it stays finite. */
const NUMBER_MAX = 2 ** 64;
const TYPES: readonly RegisterType[] = ["u8", "u16", "u32", "f64"];
const WIDTH = { u8: 1, u16: 2, u32: 4, f64: 8 } as const;
const NAME = /^[A-Za-z][A-Za-z0-9-]{0,63}$/;
const FIELD = /^[A-Za-z][A-Za-z0-9]{0,63}$/;

export function encodeBlocks(blocks: readonly SavedBlock[]): Uint8Array {
  const described = blocks.map(({ layout }) => [
    layout.name,
    layout.fields.map(({ name, type, count }) => [name, type, count]),
  ]);
  const json = new TextEncoder().encode(JSON.stringify(described));
  const size = blocks.reduce((sum, { bytes }) => sum + bytes.length, 4 + json.length);
  const payload = new Uint8Array(size);
  new DataView(payload.buffer).setUint32(0, json.length, true);
  payload.set(json, 4);
  let at = 4 + json.length;
  for (const { bytes } of blocks) {
    payload.set(bytes, at);
    at += bytes.length;
  }
  return payload;
}

/** @throws SnapshotError */
export function decodeBlocks(payload: Uint8Array): SavedBlock[] {
  const wrong = (what: string) => new SnapshotError(`its registers: ${what}`);
  if (payload.length < 4) throw wrong("there are none");
  const length = new DataView(payload.buffer, payload.byteOffset, 4).getUint32(0, true);
  if (4 + length > payload.length) throw wrong("their description is cut off");
  let described: unknown;
  try {
    described = JSON.parse(new TextDecoder().decode(payload.subarray(4, 4 + length)));
  } catch {
    throw wrong("their description is no JSON");
  }
  if (!Array.isArray(described) || described.length > BLOCKS_MAX) {
    throw wrong("their description is no list");
  }
  let at = 4 + length;
  const blocks = described.map((entry: unknown): SavedBlock => {
    const layout = decodeLayout(entry);
    if (layout === undefined) throw wrong("one of their descriptions is none");
    if (at + layout.size > payload.length) throw wrong("they are cut off");
    const bytes = payload.slice(at, at + layout.size);
    at += layout.size;
    return { layout, bytes };
  });
  if (at !== payload.length) throw wrong("something follows them");
  return blocks;
}

function decodeLayout(entry: unknown): RegisterLayout | undefined {
  if (!Array.isArray(entry) || entry.length !== 2) return undefined;
  const [name, fields] = entry as [unknown, unknown];
  if (typeof name !== "string" || !NAME.test(name)) return undefined;
  if (!Array.isArray(fields) || fields.length > FIELDS_MAX) return undefined;
  const declaration = new Map<string, Register>();
  for (const field of fields) {
    if (!Array.isArray(field) || field.length !== 3) return undefined;
    const [key, type, count] = field as [unknown, RegisterType, unknown];
    if (typeof key !== "string" || !FIELD.test(key) || declaration.has(key)) return undefined;
    if (!TYPES.includes(type)) return undefined;
    if (typeof count !== "number" || !Number.isInteger(count)) return undefined;
    if (count < 0 || count > COUNT_MAX) return undefined;
    declaration.set(key, { type, count, reset: 0 });
  }
  return new RegisterLayout(name, Object.fromEntries(declaration));
}

/** The blocks of an image, as they are now. */
export function imageBlocks(image: MachineImage): SavedBlock[] {
  return image.blocks.map(({ layout, offset }) => ({
    layout,
    bytes: image.state.slice(offset, offset + layout.size),
  }));
}

/**
 * Puts saved blocks into an image whose registers have their reset values.
 * @throws SnapshotError, before anything is written
 */
export function applyBlocks(image: MachineImage, saved: readonly SavedBlock[]): void {
  const left = new Map<string, SavedBlock[]>();
  for (const block of saved) {
    const { name } = block.layout;
    left.set(name, [...(left.get(name) ?? []), block]);
  }
  const writes: (() => void)[] = [];
  for (const { layout, offset } of image.blocks) {
    const block = left.get(layout.name)?.shift();
    if (block === undefined) continue;
    const target = image.state.subarray(offset, offset + layout.size);
    writes.push(...convert(block, layout, target));
  }
  for (const [name, blocks] of left) {
    if (blocks.length > 0) {
      throw new SnapshotError(`it has a "${name}" that this machine hasn't got`);
    }
  }
  for (const write of writes) write();
}

function convert(
  { layout: from, bytes }: SavedBlock,
  to: RegisterLayout,
  target: Uint8Array,
): (() => void)[] {
  const known = new Map(to.fields.map((field) => [field.name, field]));
  return from.fields.map((source) => {
    const field = known.get(source.name);
    const what = `register "${source.name}" of "${to.name}"`;
    if (field === undefined) {
      throw new SnapshotError(`it has a ${what}, which this program doesn't know`);
    }
    if (!fits(source, field)) {
      throw new SnapshotError(`its ${what} doesn't fit into this program's`);
    }
    const values = new DataView(bytes.buffer, bytes.byteOffset + source.offset);
    if (source.type === "f64") {
      for (let i = 0; i < Math.max(1, source.count); i++) {
        const value = values.getFloat64(8 * i, true);
        if (!(Math.abs(value) <= NUMBER_MAX) && value !== field.reset) {
          throw new SnapshotError(`its ${what} is no number`);
        }
      }
    }
    return () => {
      const into = new DataView(target.buffer, target.byteOffset + field.offset);
      for (let i = 0; i < Math.max(1, source.count); i++) {
        put(into, field.type, i, get(values, source.type, i));
      }
    };
  });
}

function fits(from: Field, to: Field): boolean {
  if ((from.count === 0) !== (to.count === 0) || from.count > to.count) return false;
  if (from.type === to.type) return true;
  return from.type !== "f64" && WIDTH[from.type] < WIDTH[to.type];
}

function get(view: DataView, type: RegisterType, index: number): number {
  switch (type) {
    case "u8":
      return view.getUint8(index);
    case "u16":
      return view.getUint16(2 * index, true);
    case "u32":
      return view.getUint32(4 * index, true);
    case "f64":
      return view.getFloat64(8 * index, true);
  }
}

function put(view: DataView, type: RegisterType, index: number, value: number): void {
  switch (type) {
    case "u8":
      return view.setUint8(index, value);
    case "u16":
      return view.setUint16(2 * index, value, true);
    case "u32":
      return view.setUint32(4 * index, value, true);
    case "f64":
      return view.setFloat64(8 * index, value, true);
  }
}
