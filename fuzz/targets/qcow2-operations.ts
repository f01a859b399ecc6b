import { emptyExtent, ExtentKind } from "../../src/vmd/disk/disk.ts";
import { diskFromFile } from "../../src/vmd/disk/open.ts";
import { RawDisk } from "../../src/vmd/disk/raw.ts";
import { emptyImage, MemoryFile } from "../../src/vmd/disk/testing.ts";
import { Choices, ChoicesWriter } from "../own/choices.ts";
import { must, type Target } from "../own/target.ts";

const CLUSTER_BITS = 9;
const SIZE = 40 * 512 - 100;
const BASE_SIZE = 7 * 512 + 50;
const BACKING = { name: "base", format: "raw" };
const BASE = Uint8Array.from({ length: BASE_SIZE }, (_, i) => i % 251);
const IMAGES = [emptyImage(SIZE, CLUSTER_BITS), emptyImage(SIZE, CLUSTER_BITS, BACKING)];

function open(file: MemoryFile, based: boolean) {
  const base = based ? new RawDisk(new MemoryFile("base", BASE), true) : undefined;
  return diskFromFile(file, "qcow2", base, false);
}

export const target: Target = {
  name: "qcow2-operations",
  about: "reads, writes, zeroes, discards, flushes and reopening, against an array of bytes",
  maxInput: 512,
  *seeds() {
    for (const based of [0, 1]) {
      const write = (at: number, length: number) =>
        new ChoicesWriter().u8(0).u16(at).u16(length).u8(at).done();
      yield Uint8Array.from([based, ...write(0, 512), ...write(700, 3000), 2, 0, 0, 0, 4]);
      yield Uint8Array.from([
        based,
        ...write(100, 5),
        4,
        ...write(100, 1500),
        3,
        ...write(0, 9000),
      ]);
      yield Uint8Array.from([based, ...write(0, 2048), 1, 0, 2, 0, 4, 3, 1, 100, 0, 0, 1, 4]);
    }
  },
  run(input) {
    const choices = new Choices(input);
    const based = choices.below(2) === 1;
    const file = new MemoryFile("x", IMAGES[based ? 1 : 0]);
    const model = new Uint8Array(SIZE);
    if (based) model.set(BASE);
    // What was discarded reads as anything, until it is written.
    const unknown = new Uint8Array(SIZE);
    let disk = open(file, based);
    const compare = () => {
      const bytes = new Uint8Array(SIZE);
      disk.read(0, bytes);
      for (let at = 0; at < SIZE; at++) {
        if (unknown[at] === 0 && bytes[at] !== model[at]) {
          must(false, `byte ${at} is ${bytes[at]}, not ${model[at]}`);
        }
      }
    };
    for (let step = 0; step < 64 && !choices.ended; step++) {
      const what = choices.below(6);
      const at = choices.u16() % SIZE;
      const length = Math.min(SIZE - at, choices.u16() % 5000);
      switch (what) {
        case 0: {
          const bytes = new Uint8Array(length).fill(choices.u8());
          disk.write(at, bytes);
          model.set(bytes, at);
          unknown.fill(0, at, at + length);
          break;
        }
        case 1:
        case 5: {
          const discard = what === 5;
          const extent = emptyExtent();
          for (let done = 0; done < length; done += extent.length) {
            disk.clear(at + done, length - done, discard, extent);
            must(extent.length > 0, "a clear that does nothing");
            if (extent.kind === ExtentKind.ZERO || discard) continue;
            disk.write(at + done, new Uint8Array(extent.length));
          }
          model.fill(0, at, at + length);
          unknown.fill(discard ? 1 : 0, at, at + length);
          break;
        }
        case 2: {
          const bytes = new Uint8Array(length);
          disk.read(at, bytes);
          const zeroes = disk.zeroes(at);
          for (let i = 0; i < zeroes; i++) {
            must(unknown[at + i] !== 0 || model[at + i] === 0, `byte ${at + i} is said to be zero`);
          }
          break;
        }
        case 3:
          disk.flush();
          break;
        default:
          disk.close();
          disk = open(file, based);
          compare();
      }
    }
    compare();
    disk.close();
    disk = open(file, based);
    compare();
    disk.close();
  },
};
