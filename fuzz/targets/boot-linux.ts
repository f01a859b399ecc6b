import { gzipSync, zstdCompressSync } from "node:zlib";
import { BootError, extractVmlinux } from "../../src/vmd/boot/index.ts";
import { ascii, bzImage, concat, counting, words } from "../../src/vmd/boot/testing.ts";
import type { Target } from "../own/target.ts";
import { load } from "./boot.ts";

const text = ascii("abcabcabcabcabcabcab!!");
const lz4 = concat(
  words(0x184c2102, 8),
  Uint8Array.of(0x3d, 0x61, 0x62, 0x63, 3, 0, 0x10, 0x21),
  words(2),
  Uint8Array.of(0x10, 0x21),
  words(text.length),
);
const zstd = concat(new Uint8Array(zstdCompressSync(text)), words(text.length));
const packed = [lz4, zstd, new Uint8Array(gzipSync(text))].map((payload) =>
  bzImage({ kernel: payload, payloadOffset: 0, payloadLength: payload.length }),
);

export const target: Target = {
  name: "boot-linux",
  about: "bzImages: setup header, placing, and the packed kernel inside",
  maxInput: 8192,
  *seeds() {
    yield bzImage({ kernel: counting(600), initSize: 0x10000 });
    yield bzImage({ kernel: counting(600), xloadflags: 0, version: 0x206, relocatable: 0 });
    yield* packed;
  },
  run(input) {
    load(input, "linux");
    try {
      extractVmlinux(input);
    } catch (error) {
      if (!(error instanceof BootError)) throw error;
    }
  },
};
