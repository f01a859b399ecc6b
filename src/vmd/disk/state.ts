/** Whether an image is as it was: its size, and when it was written last. */
import { check, hostLibrary, ptr } from "../../vmm/native.ts";

const KIND = 0o170000;
const kinds = { directory: 0o040000, regular: 0o100000, block: 0o060000 } as const;

/** A text that is another when the file was written. @throws NativeError */
export function fileState(descriptor: number): string {
  return look(descriptor).subarray(0, 3).join(":");
}

/** What kind of file it is, and how many bytes it has: also in a process that may open none. @throws NativeError */
export function fileKind(descriptor: number): { kind: keyof typeof kinds | "other"; size: number } {
  const [size, , , mode] = look(descriptor);
  const found = Object.entries(kinds).find(([, bits]) => (mode & KIND) === bits);
  return { kind: (found?.[0] ?? "other") as keyof typeof kinds | "other", size };
}

function look(descriptor: number): Float64Array {
  const state = new Float64Array(4);
  check("looking at a disk image", hostLibrary().vmm_file_state(descriptor, ptr(state)));
  return state;
}
