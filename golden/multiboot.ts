/** Kernels of a few instructions. */

/**
 * A multiboot kernel of one page at 1 MiB, in 32-bit protected mode.
 * @param code bytes in hexadecimal; they begin at 0x100020
 */
export function multiboot(code: string): Uint8Array {
  const bytes = new Uint8Array(4096);
  const header = [0x1badb002, 0x10000, -(0x1badb002 + 0x10000), 0x100000, 0x100000, 0, 0, 0x100020];
  new Int32Array(bytes.buffer, 0, 8).set(header);
  bytes.set(
    code.split(/\s+/).map((byte) => parseInt(byte, 16)),
    0x20,
  );
  return bytes;
}
