/** Reads a snapshot into a machine image, in a VM's process: a guest may have written it. */
import { decodeBlocks, type SavedBlock } from "../../vmm/snapshot/blocks.ts";
import { RecordType, type Run, SnapshotError } from "../../vmm/snapshot/format.ts";
import { decodeHotPages } from "../../vmm/snapshot/hot-pages.ts";
import type { MachineImage } from "../../vmm/image.ts";
import { MemoryLoader } from "../../vmm/snapshot/machine-memory.ts";
import { type Source, SnapshotReader } from "../../vmm/snapshot/reader.ts";
import type { HostState } from "../machine.ts";
import type { HostRecord } from "./host-record.ts";

/** Characters of what was typed. */
const INPUT_MAX = 2 ** 20;

/** Where a snapshot's bytes are. */
export interface SnapshotInput {
  readonly source: Source;
  /** A file whose pages may be mapped. */
  readonly file?: number;
  /** All its checksums are looked at before anything runs. */
  readonly verify: boolean;
  /** See LoadOptions. */
  readonly eager?: boolean;
  /** Who goes on reading behind its end. */
  readonly reader?: SnapshotReader;
}

/** What is left to do once its memory is in the image. */
export interface LoadedState {
  readonly blocks: readonly SavedBlock[];
  readonly cpu: Uint8Array;
  readonly host: HostState & { readonly halted: boolean };
  /** No page was copied into the image: what isn't a file's was never written. */
  readonly mapped: boolean;
  /** Pages that its guest touched lately; absent: nobody wrote them down. */
  readonly hot?: readonly Run[];
}

/**
 * Reads snapshots, each based on the one before, into an image.
 * @returns the state of the last
 * @throws SnapshotError
 */
export function loadSnapshots(image: MachineImage, inputs: readonly SnapshotInput[]): LoadedState {
  let state: LoadedState | undefined;
  for (const input of inputs) {
    const before = state?.mapped ?? true;
    state = load(image, input);
    state = { ...state, mapped: state.mapped && before };
  }
  if (image.overlaid.length > 0) image.hide();
  if (state === undefined) throw new RangeError("no snapshot to load");
  return state;
}

function load(image: MachineImage, input: SnapshotInput): LoadedState {
  const { source, file, verify, eager, reader = new SnapshotReader(source) } = input;
  const memory = new MemoryLoader(image, reader, { file, verify, eager });
  let blocks: SavedBlock[] | undefined;
  let cpu: Uint8Array | undefined;
  let host: LoadedState["host"] | undefined;
  let hot: readonly Run[] | undefined;
  for (let record = reader.next(); record !== undefined; record = reader.next()) {
    switch (record.head.type) {
      case RecordType.PAGES:
      case RecordType.ZERO:
        memory.take(record);
        break;
      case RecordType.STATE:
        blocks = decodeBlocks(record.payload);
        break;
      case RecordType.CPU:
        cpu = record.payload.slice();
        break;
      case RecordType.HOST:
        host = decodeHost(record.payload);
        break;
      case RecordType.HOT:
        hot = decodeHotPages(record.payload, image.memory.ranges);
        break;
    }
  }
  // The reader has seen to it that there is one of each.
  return {
    blocks: blocks as SavedBlock[],
    cpu: cpu as Uint8Array,
    host: host as LoadedState["host"],
    mapped: !memory.copied,
    hot,
  };
}

function decodeHost(payload: Uint8Array): LoadedState["host"] {
  const wrong = () => new SnapshotError("what the host kept for it is none of that");
  let record: Partial<Record<keyof HostRecord, unknown>> | null;
  try {
    record = JSON.parse(new TextDecoder().decode(payload));
  } catch {
    throw wrong();
  }
  if (typeof record !== "object" || record === null) throw wrong();
  const { halted, input, ahead } = record;
  if (typeof halted !== "boolean" || typeof input !== "string" || input.length > INPUT_MAX) {
    throw wrong();
  }
  if (ahead !== undefined && (typeof ahead !== "number" || !Number.isFinite(ahead))) throw wrong();
  return { halted, input: Buffer.from(input, "base64"), ahead };
}
