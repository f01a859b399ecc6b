/**
 * One bug of each class that hypervisors have had, and more where somebody else's files are read, put into
 * our source while it is loaded. With VMD_PLANT=CLASS a target must find its class; the source itself has
 * no trace of it.
 */

export interface PlantedBug {
  /** What it is like. */
  readonly about: string;
  /** Who finds it. */
  readonly target: string;
  /** Each text is there exactly once. */
  readonly edits: readonly {
    readonly file: string;
    readonly find: string;
    readonly replace: string;
  }[];
}

const QUEUE = "src/vmd/virtio/queue.ts";
const TRANSPORT = "src/vmd/virtio/transport.ts";
const NINE_P = "src/vmd/virtio/9p.ts";
const BALLOON = "src/vmd/virtio/balloon.ts";

export const PLANTED: Record<string, PlantedBug> = {
  V1: {
    about: "a descriptor's address and length are not held against guest RAM",
    target: "virtio-blk",
    edits: [{ file: QUEUE, find: "if (host < 0) {", replace: "if (host < -1) {" }],
  },
  V2: {
    about: "a length that the guest gives sizes a host buffer",
    target: "virtio-9p",
    edits: [
      {
        file: NINE_P,
        find: "size < HEADER || size > chain.readableBytes || size > MSIZE_MAX",
        replace: "size < HEADER",
      },
    ],
  },
  "V2-gdb": {
    about: "a length that a debugger gives sizes a host buffer",
    target: "gdb",
    edits: [
      {
        file: "src/vmd/gdb/stub.ts",
        find: "const length = Math.min(range.length, PACKET_MAX / 2 - 4);",
        replace: "const length = range.length;",
      },
    ],
  },
  V3: {
    about: "a descriptor chain that goes in circles is followed for ever",
    target: "virtio-rng",
    edits: [{ file: QUEUE, find: "if (seen === this.#size)", replace: "if (seen < 0)" }],
  },
  V4: {
    about: "a jump of the available index is believed, and served without a bound",
    target: "virtio-rng",
    edits: [
      { file: QUEUE, find: "if (waiting > size)", replace: "if (waiting > 65536)" },
      // With none out, this finds it, too.
      { file: QUEUE, find: "if (out > size)", replace: "if (out > 65536)" },
      {
        file: "src/vmd/virtio/serve.ts",
        find: "let left = size;",
        replace: "let left = size > 0 ? Infinity : 0;",
      },
    ],
  },
  V5: {
    about: "any size of a queue is taken",
    target: "virtio-console",
    edits: [
      {
        file: TRANSPORT,
        find: "if (value !== 0 && value <= offered && (value & (value - 1)) === 0) r.queueSize",
        replace: "if (value <= 65535 || offered === 0) r.queueSize",
      },
    ],
  },
  V6: {
    about: "a request's header is read again after it was checked",
    target: "virtio-9p",
    edits: [
      {
        file: NINE_P,
        find: "chain.read(HEADER, request.subarray(HEADER));",
        replace: "chain.read(0, request);",
      },
    ],
  },
  V7: {
    about: "what was under way at a reset goes on, and answers a chain that is gone",
    target: "virtio-blk",
    edits: [
      {
        file: "src/vmd/virtio/blk.ts",
        find: "this.#backend.abandon();\n    for",
        replace: "for",
      },
    ],
  },
  V8: {
    about: "a chain of any length is worked through in one go",
    target: "virtio-balloon",
    edits: [
      {
        file: BALLOON,
        find: "Math.min(CHAIN_MAX, Math.floor(chain.readableBytes / 4))",
        replace: "Math.floor(chain.readableBytes / 4)",
      },
      {
        file: BALLOON,
        find: "if (count > this.#budget) return LATER;",
        replace: "if (count < 0) return LATER;",
      },
    ],
  },
  V9: {
    about: "a request that is answered by no bytes never comes back",
    target: "virtio-balloon",
    edits: [
      {
        file: "src/vmd/virtio/serve.ts",
        find: "if (written !== TAKEN) queue.push",
        replace: "if (written !== TAKEN && written !== 0) queue.push",
      },
    ],
  },
  V10: {
    about: "a device serves a driver that isn't ready",
    target: "virtio-rng",
    edits: [
      {
        file: TRANSPORT,
        find: "if (this.live) this.#queues[q].start();",
        replace: "this.#queues[q].start();",
      },
      {
        file: TRANSPORT,
        find: "if (!this.live) return;\n    const queue",
        replace: "const queue",
      },
    ],
  },
  V11: {
    about: "a read beyond the end of a device's configuration reaches the device",
    target: "virtio-scsi",
    edits: [
      {
        file: TRANSPORT,
        find: "offset < this.#device.configSize ? this.#device.readConfig(offset) : 0",
        replace: "this.#device.readConfig(offset)",
      },
    ],
  },
  V12: {
    about: "that a disk is read-only is left to its driver",
    target: "virtio-blk-readonly",
    edits: [
      {
        file: "src/vmd/virtio/blk.ts",
        find: "if (this.#backend.readOnly) this.#answer(tag, BlkStatus.IOERR);",
        replace: "if (length < 0) this.#answer(tag, BlkStatus.IOERR);",
      },
    ],
  },
  V13: {
    about: "a FIFO of a legacy chip takes more than it holds",
    target: "chips",
    edits: [
      {
        file: "src/vmd/chips/ns8250.ts",
        find: "if (r.sendCount < this.#depth) {",
        replace: "if (r.sendCount < 8 * this.#depth) {",
      },
    ],
  },
  E1: {
    about: "a field of a kernel's file may lie at its end",
    target: "boot-elf",
    edits: [
      {
        file: "src/vmd/boot/bytes.ts",
        find: "offset + length <= this.size",
        replace: "offset <= this.size",
      },
    ],
  },
  "E1-trace": {
    about: "a record of an exit trace may go beyond the file's end",
    target: "trace",
    edits: [
      {
        file: "src/vmm/trace.ts",
        find: "if (!pieces.have(offset, whole)) throw this.#damaged(offset);",
        replace: "pieces.have(offset, whole);",
      },
    ],
  },
  X1: {
    about: "items of a string instruction lie a doubleword apart, whatever their size",
    target: "exits",
    edits: [
      {
        file: "src/vmd/vcpu.ts",
        find: "count > 0; count--, at += size",
        replace: "count > 0; count--, at += 4",
      },
    ],
  },
  X2: {
    about: "a processor in long mode without PAE is taken for one that can be",
    target: "snapshot",
    edits: [
      {
        file: "src/vmm/cpu-check.ts",
        find: "if (long && (cr4 & CR4_PAE) === 0n)",
        replace: "if (long && cr4 < 0n)",
      },
    ],
  },
  X3: {
    about: "a guest reaches an assertion: a BAR behind the last port",
    target: "chips",
    edits: [
      {
        file: "src/vmd/chips/pci-function.ts",
        find: "base >= FIRST_BAR_PORT && base + bar.size <= 0x10000",
        replace: "base >= FIRST_BAR_PORT",
      },
    ],
  },
  X4: {
    about: "what an operation is told by memory is looked at again after it was checked",
    target: "fw-cfg",
    edits: [
      {
        file: "src/vmd/chips/fw-cfg.ts",
        find: "done = this.#copy(address, length);",
        replace:
          "done = memory.contains(address, length) && this.#copy(address, swap32(memory.read32(descriptor + 4)));",
      },
      {
        file: "src/vmd/chips/fw-cfg.ts",
        find: "if (!this.#memory.contains(address, length)) return false;",
        replace: "",
      },
    ],
  },
  "S1-recording": {
    about: "a recorded checkpoint may have any length",
    target: "recording",
    edits: [
      {
        file: "src/vmd/recording/player.ts",
        find: " || event.data.length !== 8",
        replace: "",
      },
    ],
  },
  S1: {
    about: "registers of a snapshot need not be numbers",
    target: "snapshot",
    edits: [
      {
        file: "src/vmm/snapshot/blocks.ts",
        find: "if (!(Math.abs(value) <= NUMBER_MAX) && value !== field.reset)",
        replace: "if (value !== value && NUMBER_MAX < 0)",
      },
    ],
  },
};

/**
 * A file's source with the bug of a class in it, if it has a part in that.
 * @throws RangeError for a class that there isn't, or a text that isn't there, or twice
 */
export function plant(file: string, source: string, bug: string | undefined): string {
  if (bug === undefined || bug === "") return source;
  if (!Object.hasOwn(PLANTED, bug)) throw new RangeError(`VMD_PLANT: no class "${bug}"`);
  let planted = source;
  for (const { file: where, find, replace } of PLANTED[bug].edits) {
    if (where !== file) continue;
    const parts = planted.split(find);
    if (parts.length !== 2) {
      throw new RangeError(`VMD_PLANT=${bug}: ${file} has ${parts.length - 1} times: ${find}`);
    }
    // Not by replace(), for which some characters mean something.
    planted = parts.join(replace);
  }
  return planted;
}
