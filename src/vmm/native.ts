/**
 * The bindings of native/vmm.h: addresses are numbers, errors are negative errno values.
 *
 * Both libraries export the same engine functions; libvmm.so has the host calls too.
 */
import { dlopen, FFIType, type Pointer, ptr, toArrayBuffer } from "bun:ffi";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { root } from "./root.ts";

const { f64, i32, i64_fast, ptr: pointer, u32, u64_fast } = FFIType;

const engineFunctions = {
  vmm_abi: { args: [], returns: u32 },
  vmm_probe: { args: [pointer, u64_fast], returns: i32 },
  vmm_version: { args: [pointer, u64_fast], returns: i32 },
  vmm_capabilities: { args: [pointer], returns: u32 },
  vmm_open: { args: [pointer, pointer, u64_fast], returns: pointer },
  vmm_close: { args: [pointer], returns: FFIType.void },
  vmm_run_page: { args: [pointer], returns: pointer },
  vmm_run_size: { args: [pointer], returns: u32 },
  vmm_run: { args: [pointer], returns: i32 },
  vmm_kick: { args: [pointer], returns: FFIType.void },
  vmm_set_deadline: { args: [pointer, f64], returns: i32 },
  vmm_break_blocks: { args: [pointer, pointer, u32], returns: i32 },
  vmm_now: { args: [pointer], returns: f64 },
  vmm_wait: { args: [pointer, f64, pointer, u32], returns: i32 },
  vmm_interrupt: { args: [pointer, u32], returns: i32 },
  vmm_nmi: { args: [pointer], returns: i32 },
  vmm_get_cpu: { args: [pointer, pointer], returns: i32 },
  vmm_set_cpu: { args: [pointer, pointer], returns: i32 },
  vmm_tsc_khz: { args: [pointer], returns: u32 },
  vmm_set_tsc_khz: { args: [pointer, u32], returns: i32 },
  vmm_supported_cpuid: { args: [pointer, pointer, u32], returns: i32 },
  vmm_set_cpuid: { args: [pointer, pointer, u32], returns: i32 },
  vmm_dirty: { args: [pointer, u32, pointer, u64_fast], returns: i32 },
  vmm_dirty_end: { args: [pointer], returns: i32 },
  vmm_touched_begin: { args: [pointer], returns: i32 },
  vmm_touched: { args: [pointer, u32, pointer, u64_fast], returns: i32 },
  vmm_touched_end: { args: [pointer], returns: FFIType.void },
  vmm_written: { args: [pointer, u64_fast, u64_fast], returns: i32 },
  vmm_debug: { args: [pointer, u32, pointer, u32], returns: i32 },
  vmm_point_take: { args: [pointer, u64_fast, u64_fast], returns: i32 },
  vmm_point_drop: { args: [pointer], returns: FFIType.void },
  vmm_point_reset: { args: [pointer], returns: i32 },
  vmm_point_check: { args: [pointer, pointer, u64_fast], returns: i32 },
  vmm_point_pages: { args: [pointer, pointer, u32], returns: u32 },
  vmm_coverage_open: { args: [pointer, u32], returns: pointer },
  vmm_coverage_instruction: { args: [pointer], returns: u32 },
  vmm_coverage_traps: { args: [pointer, pointer, u32], returns: i32 },
  vmm_coverage_begin: { args: [pointer], returns: FFIType.void },
  vmm_coverage_novelty: { args: [pointer], returns: i32 },
  vmm_coverage_hash: { args: [pointer], returns: u32 },
  vmm_fuzz_run: { args: [pointer, pointer], returns: i32 },
} as const;

const hostFunctions = {
  vmm_memory_map: { args: [u64_fast, u64_fast], returns: i64_fast },
  vmm_memory_unmap: { args: [u64_fast, u64_fast], returns: i32 },
  vmm_memory_resident: { args: [u64_fast, u64_fast], returns: i64_fast },
  vmm_memory_discard: { args: [u64_fast, u64_fast, i32], returns: i32 },
  vmm_pagemap_open: { args: [], returns: i32 },
  vmm_memory_used: { args: [u64_fast, u64_fast, pointer, i32], returns: i64_fast },
  vmm_memory_overlay: { args: [u64_fast, u64_fast, i32, u64_fast], returns: i32 },
  vmm_memory_read: { args: [pointer, u32, i32, u64_fast], returns: i32 },
  vmm_memory_populate: { args: [u64_fast, u64_fast], returns: i32 },
  vmm_memory_hide: { args: [u64_fast, u64_fast], returns: i32 },
  vmm_prefetch: { args: [pointer, u32], returns: pointer },
  vmm_prefetch_ended: { args: [pointer], returns: i32 },
  vmm_prefetch_end: { args: [pointer], returns: FFIType.void },
  vmm_file_state: { args: [i32, pointer], returns: i32 },
  vmm_memory_file: { args: [u64_fast], returns: i32 },
  vmm_memory_seal: { args: [i32], returns: i32 },
  vmm_memory_sealed: { args: [i32], returns: i32 },
  vmm_file_size: { args: [i32], returns: i64_fast },
  vmm_file_map: { args: [i32, u64_fast], returns: i64_fast },
  vmm_selftest: { args: [pointer], returns: pointer },
  vmm_landlock_abi: { args: [], returns: i32 },
} as const;

const processFunctions = {
  vmm_socketpair: { args: [i32, pointer], returns: i32 },
  vmm_send: { args: [i32, pointer, u64_fast, pointer, u32], returns: i64_fast },
  vmm_receive: { args: [i32, pointer, u64_fast, pointer, u32], returns: i64_fast },
  vmm_read: { args: [i32, pointer, u64_fast], returns: i64_fast },
  vmm_write: { args: [i32, pointer, u64_fast], returns: i64_fast },
  vmm_poll: { args: [pointer, pointer, u32, i32], returns: i32 },
  vmm_shutdown: { args: [i32, i32], returns: i32 },
  vmm_lock: { args: [i32, i32], returns: i32 },
  vmm_prompt: { args: [], returns: i32 },
} as const;

const sandboxFunctions = {
  vmm_sandbox: {
    args: [u32, i64_fast, i64_fast, pointer, pointer, u64_fast],
    returns: i32,
  },
  vmm_sandbox_tree: { args: [i32, i32], returns: FFIType.void },
} as const;

const shareFunctions = {
  vmm_share_status: { args: [i32, pointer], returns: i32 },
  vmm_share_look: { args: [i32, pointer, pointer], returns: i32 },
  vmm_share_open: { args: [i32, pointer, i32, u32, pointer], returns: i32 },
  vmm_share_close: { args: [i32], returns: FFIType.void },
  vmm_share_readlink: { args: [i32, pointer, u64_fast], returns: i64_fast },
  vmm_share_mkdir: { args: [i32, pointer, pointer, u32], returns: i32 },
  vmm_share_symlink: { args: [i32, pointer, pointer, pointer], returns: i32 },
  vmm_share_unlink: { args: [i32, pointer, pointer, i32], returns: i32 },
  vmm_share_rename: { args: [i32, pointer, pointer, pointer, pointer], returns: i32 },
  vmm_share_link: { args: [i32, pointer, pointer, pointer, pointer], returns: i32 },
  vmm_share_chmod: { args: [i32, u32], returns: i32 },
  vmm_share_times: { args: [i32, pointer], returns: i32 },
  vmm_share_truncate: { args: [i32, i64_fast], returns: i32 },
  vmm_share_read: { args: [i32, pointer, u64_fast, i64_fast], returns: i64_fast },
  vmm_share_write: { args: [i32, pointer, u64_fast, i64_fast], returns: i64_fast },
  vmm_share_sync: { args: [i32, i32], returns: i32 },
  vmm_share_list: { args: [i32, i64_fast, pointer, u64_fast], returns: i64_fast },
  vmm_share_space: { args: [i32, pointer], returns: i32 },
} as const;

const watchFunctions = {
  vmm_watch_open: { args: [], returns: pointer },
  vmm_watch: { args: [i32, i32], returns: i32 },
  vmm_watch_later: { args: [u32], returns: i32 },
  vmm_watch_target: { args: [pointer, pointer], returns: i32 },
} as const;

const ioFunctions = {
  vmm_io_open: { args: [u32], returns: pointer },
  vmm_io_direct: { args: [i32, i32, u32], returns: i32 },
  vmm_io_submit: { args: [u32], returns: FFIType.void },
  vmm_io_wait: { args: [], returns: FFIType.void },
} as const;

const portFunctions = {
  vmm_port_open: { args: [i32, u32], returns: pointer },
  vmm_port_wake: { args: [pointer], returns: FFIType.void },
  vmm_port_now: { args: [pointer, u32], returns: i32 },
  vmm_port_inject: { args: [pointer, pointer, u32], returns: i32 },
  vmm_port_settle: { args: [pointer], returns: FFIType.void },
  vmm_port_stop: { args: [pointer], returns: FFIType.void },
} as const;

const daemonFunctions = {
  vmm_connect: { args: [pointer], returns: i32 },
  vmm_duplicate: { args: [i32], returns: i32 },
  vmm_connect_now: { args: [pointer], returns: i32 },
  vmm_socket_as: { args: [pointer, i32, u32, u32, pointer, u32], returns: i32 },
  vmm_listen: { args: [pointer, u32], returns: i32 },
  vmm_listen_tcp: { args: [pointer, u32], returns: i32 },
  vmm_accept: { args: [i32], returns: i32 },
  vmm_silence: { args: [], returns: i32 },
  vmm_direct_alignment: { args: [i32], returns: i32 },
  vmm_lock: { args: [i32, i32], returns: i32 },
  vmm_abstract: { args: [pointer, i32], returns: i32 },
  vmm_peer: { args: [i32, pointer], returns: i32 },
  vmm_pty: { args: [pointer, pointer, u64_fast], returns: i32 },
  vmm_open_as: { args: [pointer, i32, u32, u32, pointer, u32], returns: i32 },
  vmm_idle: { args: [i32, i32], returns: i32 },
} as const;

const terminalFunctions = {
  vmm_terminal_raw: { args: [i32, pointer], returns: i32 },
  vmm_terminal_restore: { args: [i32, pointer], returns: i32 },
} as const;

const netFunctions = {
  vmm_net_check: { args: [pointer, u32, u32], returns: i32 },
  vmm_net_complete: { args: [pointer, u32, u32, pointer, u64_fast], returns: i64_fast },
  vmm_tap_open: { args: [pointer, i64_fast], returns: i32 },
  vmm_tap_offload: { args: [i32, u32], returns: i32 },
  vmm_passt_pair: { args: [pointer], returns: i32 },
  vmm_switch_pair: { args: [pointer], returns: i32 },
  vmm_switch_open: { args: [i32, u32, u32], returns: pointer },
  vmm_switch_close: { args: [pointer], returns: FFIType.void },
  vmm_switch_add: { args: [pointer, i32, pointer], returns: i32 },
  vmm_switch_remove: { args: [pointer, u32], returns: i32 },
  vmm_switch_run: { args: [pointer, i32], returns: i32 },
  vmm_switch_ended: { args: [pointer], returns: i32 },
  vmm_switch_counts: { args: [pointer, u32, pointer], returns: i32 },
} as const;

/** VMM_ABI of native/vmm.h. */
const ABI = 1;

/** A host failure with its errno name, in one sentence. */
export class NativeError extends Error {
  /** As in errno(3), e.g. "ENOMEM"; "EIO" where the library gave none. */
  readonly code: string;

  constructor(what: string, result: number) {
    const code = errorName(result);
    super(`${what}: ${code}`);
    this.name = "NativeError";
    this.code = code;
  }
}

function errorName(result: number): string {
  try {
    // Loaded when it is needed: it costs a VM's start milliseconds.
    return process.getBuiltinModule("node:util").getSystemErrorName(result);
  } catch {
    return `error ${-result}`;
  }
}

/** Throws unless `result` is 0 or positive. */
export function check(what: string, result: number | bigint): number {
  const value = Number(result);
  if (value < 0) throw new NativeError(what, value);
  return value;
}

/** Where the built libraries are: VMM_NATIVE, or native/build of this tree. */
export function libraryPath(name: string): string {
  const directory = process.env.VMM_NATIVE ?? join(root, "native/build");
  return join(directory, name);
}

function load<T extends Parameters<typeof dlopen>[1]>(name: string, functions: T) {
  const path = libraryPath(name);
  if (!existsSync(path)) throw new Error(`${path} is not built: run "make -C native"`);
  return dlopen(path, functions).symbols;
}

export type EngineLibrary = ReturnType<typeof load<typeof engineFunctions>>;
export type HostLibrary = ReturnType<typeof load<typeof hostFunctions>>;

const engines = new Map<string, EngineLibrary>();

/** Loads an engine's library, once per process (and thread). */
export function engineLibrary(name: "libvmm.so" | "libvmm-unicorn.so"): EngineLibrary {
  let library = engines.get(name);
  if (library === undefined) {
    library = load(name, engineFunctions);
    if (library.vmm_abi() !== ABI) {
      throw new Error(`${libraryPath(name)} is of another version: run "make -C native"`);
    }
    engines.set(name, library);
  }
  return library;
}

let host: HostLibrary | undefined;

/** The host calls of libvmm.so. */
export function hostLibrary(): HostLibrary {
  host ??= load("libvmm.so", hostFunctions);
  return host;
}

let processes: ReturnType<typeof load<typeof processFunctions>> | undefined;

/** What every process of vmd has of libvmm.so: sockets. */
export function processLibrary() {
  processes ??= load("libvmm.so", processFunctions);
  return processes;
}

/** Two connected sockets, which keep messages' bounds or, with `stream`, carry bytes. @throws NativeError */
export function socketPair(stream = false): [number, number] {
  const pair = new Int32Array(2);
  check("a pair of sockets", processLibrary().vmm_socketpair(stream ? 1 : 0, ptr(pair)));
  return [pair[0], pair[1]];
}

let sandbox: ReturnType<typeof load<typeof sandboxFunctions>> | undefined;

/** The sandbox of libvmm.so. */
export function sandboxLibrary() {
  sandbox ??= load("libvmm.so", sandboxFunctions);
  return sandbox;
}

let share: ReturnType<typeof load<typeof shareFunctions>> | undefined;

/** A share's files, of libvmm.so. */
export function shareLibrary() {
  share ??= load("libvmm.so", shareFunctions);
  return share;
}

let watch: ReturnType<typeof load<typeof watchFunctions>> | undefined;

/** The watching thread of libvmm.so. */
export function watchLibrary() {
  watch ??= load("libvmm.so", watchFunctions);
  return watch;
}

let io: ReturnType<typeof load<typeof ioFunctions>> | undefined;

/** The I/O threads of libvmm.so. */
export function ioLibrary() {
  io ??= load("libvmm.so", ioFunctions);
  return io;
}

let port: ReturnType<typeof load<typeof portFunctions>> | undefined;

/** The interface threads of libvmm.so. */
export function portLibrary() {
  port ??= load("libvmm.so", portFunctions);
  return port;
}

let daemon: ReturnType<typeof load<typeof daemonFunctions>> | undefined;

/** What the daemon and its clients have of libvmm.so beside that. */
export function daemonLibrary() {
  daemon ??= load("libvmm.so", daemonFunctions);
  return daemon;
}

let terminal: ReturnType<typeof load<typeof terminalFunctions>> | undefined;

/** The terminal's mode, by libvmm.so. */
export function terminalLibrary() {
  terminal ??= load("libvmm.so", terminalFunctions);
  return terminal;
}

let net: ReturnType<typeof load<typeof netFunctions>> | undefined;

/** What libvmm.so has for networks: native/net.h. */
export function netLibrary() {
  net ??= load("libvmm.so", netFunctions);
  return net;
}

/** Calls a function that explains its failure in a buffer; returns that sentence. */
export class Sentence {
  readonly #bytes = new Uint8Array(512);

  get pointer(): Pointer {
    return ptr(this.#bytes);
  }

  get size(): number {
    return this.#bytes.length;
  }

  toString(): string {
    const end = this.#bytes.indexOf(0);
    return new TextDecoder().decode(this.#bytes.subarray(0, end < 0 ? undefined : end));
  }
}

/** An ArrayBuffer over host memory. At most 4 GiB (Bun's limit); never frees it. */
export function hostBuffer(address: number, length: number): ArrayBuffer {
  return toArrayBuffer(address as Pointer, 0, length);
}

export { type Pointer, ptr };
