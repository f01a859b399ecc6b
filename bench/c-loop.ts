/** The vCPU loop in C, compiled when it is asked for. */
import { dlopen, FFIType, type Pointer } from "bun:ffi";
import { existsSync, mkdirSync, renameSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Engine } from "../src/vmm/engine.ts";
import { libraryPath } from "../src/vmm/native.ts";

const source = join(import.meta.dir, "native/exit_loop.c");

/** Why it can't be had, as a sentence. */
export function cLoopMissing(): string | undefined {
  return Bun.which("gcc") === null && !isBuilt() ? "the loop in C needs gcc." : undefined;
}

const library = join(dirname(libraryPath("libvmm.so")), "bench/exit_loop.so");

// In the lab there is no compiler, and all files are of the same time.
function isBuilt(): boolean {
  return existsSync(library) && statSync(library).mtimeMs >= statSync(source).mtimeMs;
}

function build(): string {
  if (isBuilt()) return library;
  mkdirSync(dirname(library), { recursive: true });
  const draft = `${library}.${process.pid}`;
  const command = [
    "gcc",
    "-O2",
    "-Wall",
    "-Wextra",
    "-shared",
    "-fPIC",
    "-o",
    draft,
    source,
    "-ldl",
  ];
  const { exitCode, stderr } = Bun.spawnSync(command);
  if (exitCode !== 0) throw new Error(`exit_loop.c: ${stderr.toString().trim()}`);
  renameSync(draft, library);
  return library;
}

/** @returns a function that runs the engine until the guest ends a loop; false if it can't. */
export function cLoop(engine: Engine): () => boolean {
  const { symbols } = dlopen(build(), {
    exit_loop_open: { args: [FFIType.cstring, FFIType.ptr], returns: FFIType.ptr },
    exit_loop_run: { args: [FFIType.ptr], returns: FFIType.i32 },
  });
  const name = engine.name === "kvm" ? "libvmm.so" : "libvmm-unicorn.so";
  const path = Buffer.from(`${libraryPath(name)}\0`);
  const machine = symbols.exit_loop_open(path, engine.handle as Pointer);
  if (machine === null) throw new Error(`exit_loop.c: ${libraryPath(name)} is not loaded`);
  return () => symbols.exit_loop_run(machine) === 1;
}
