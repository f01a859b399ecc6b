/**
 * A test's hook into a VM process: tries what the sandbox is to refuse, from inside. It is there only
 * when VMD_PROBE is "yes" in the environment of whoever starts the VM.
 */
import { dlopen, FFIType, ptr, toArrayBuffer } from "bun:ffi";

const { cstring, i32, i64, ptr: pointer, u64 } = FFIType;

/** What can be tried. */
export const ATTEMPTS = [
  "open",
  "create",
  "socket",
  "connect",
  "fork",
  "execve",
  "ptrace",
  "kill",
  "mount",
  "setuid",
  "mprotect",
  "chroot",
  "unshare",
  "io_uring",
] as const;
export type Attempt = (typeof ATTEMPTS)[number];

/** @returns a function that tries, and says what came of it: "EACCES", or "done". */
export function prepareProbe(): (what: Attempt) => string {
  const { symbols: c } = dlopen("libc.so.6", {
    open: { args: [pointer, i32, i32], returns: i32 },
    socket: { args: [i32, i32, i32], returns: i32 },
    connect: { args: [i32, pointer, i32], returns: i32 },
    fork: { args: [], returns: i32 },
    execve: { args: [pointer, pointer, pointer], returns: i32 },
    ptrace: { args: [i64, i64, u64, u64], returns: i64 },
    kill: { args: [i32, i32], returns: i32 },
    mount: { args: [pointer, pointer, pointer, u64, pointer], returns: i32 },
    setuid: { args: [i32], returns: i32 },
    mmap: { args: [u64, u64, i32, i32, i32, i64], returns: i64 },
    mprotect: { args: [u64, u64, i32], returns: i32 },
    chroot: { args: [pointer], returns: i32 },
    unshare: { args: [i32], returns: i32 },
    syscall: { args: [i64, i64, i64, i64], returns: i64 },
    __errno_location: { args: [], returns: pointer },
    strerrorname_np: { args: [i32], returns: cstring },
  });
  const path = (text: string) => ptr(Buffer.from(`${text}\0`));
  // This thread's: what is called, or allocated, to find it later may change it.
  const at = c.__errno_location();
  if (at === null) throw new TypeError("no errno");
  const errno = new Int32Array(toArrayBuffer(at, 0, 4));
  const parent = process.ppid;
  const attempts: Record<Attempt, () => number | bigint> = {
    open: () => c.open(path("/etc/passwd"), 0, 0),
    create: () => c.open(path("/tmp/vmd-sandbox-probe"), 0o101, 0o600),
    socket: () => c.socket(1, 1, 0),
    connect: () => c.connect(3, path("/var/run/vmd.sock"), 16),
    fork: () => c.fork(),
    execve: () =>
      c.execve(path("/bin/true"), ptr(new BigUint64Array(1)), ptr(new BigUint64Array(1))),
    ptrace: () => c.ptrace(16, parent, 0, 0),
    kill: () => c.kill(parent, 0),
    mount: () => c.mount(path("none"), path("/tmp"), path("tmpfs"), 0, null),
    setuid: () => c.setuid(0),
    mprotect: () => c.mprotect(c.mmap(0, 4096, 3, 0x22, -1, 0), 4096, 5),
    chroot: () => c.chroot(path("/tmp")),
    unshare: () => c.unshare(0x10000000),
    io_uring: () => c.syscall(425, 1, 0, 0),
  };
  return (what) => {
    const result = attempts[what]();
    const error = errno[0];
    return Number(result) >= 0 ? "done" : `${c.strerrorname_np(error)}`;
  };
}
