/** The engines' names and libraries, and the one call that belongs to any thread. */
import { type EngineLibrary, engineLibrary, libraryPath, type Pointer } from "./native.ts";

export const ENGINES = ["kvm", "unicorn"] as const;
export type EngineName = (typeof ENGINES)[number];

const LIBRARY = { kvm: "libvmm.so", unicorn: "libvmm-unicorn.so" } as const;

/** Loads the library of an engine. @throws Error when it isn't built or can't be linked. */
export function libraryOf(engine: EngineName): EngineLibrary {
  return engineLibrary(LIBRARY[engine]);
}

/** The path of that library. */
export function libraryPathOf(engine: EngineName): string {
  return libraryPath(LIBRARY[engine]);
}

/** Makes an engine of another thread of this process leave its guest. */
export function kickEngine(engine: EngineName, handle: number): void {
  libraryOf(engine).vmm_kick(handle as Pointer);
}
