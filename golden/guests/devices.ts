// Linux with drivers for virtio devices, and a script of the test's own as process 1's work.

import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { buildProgram } from "./build.ts";
import { guestFile } from "./guest.ts";
import { initramfsFile, prepare } from "./initramfs.ts";
import { type KernelSource, moduleFiles } from "./modules.ts";

const inLab = process.env.VMD_LAB !== undefined;

/** What boots a kernel here: in the lab KVM, where emulation in an emulation is no help. */
export const deviceEngine = inLab ? ("kvm" as const) : ("unicorn" as const);

export interface DeviceGuest {
  /** In names of files. */
  name: string;
  /** Default: Debian's cloud kernel. */
  source?: KernelSource;
  /** Kernel modules, beside virtio_pci. */
  modules: string[];
  /** Lines of a shell script; it prints on the console. */
  script: string;
  /** Programs of the host's to take along, by path, with their libraries. */
  programs?: string[];
  /** More files, by path without a leading slash. */
  files?: Record<string, Uint8Array | string>;
}

/** What a VM of it is started with: a kernel, an initramfs and a command line. */
export async function deviceGuest(guest: DeviceGuest) {
  const { name, source = "linux-amd64", modules, script, programs = [], files } = guest;
  const { files: drivers, load } = moduleFiles(source, "virtio_pci", ...modules);
  const init = `${prepare}${load}
export LD_LIBRARY_PATH=/lib64
${script}
echo "script: done"
poweroff -f
`;
  return {
    kernel: guestFile(source, "vmlinuz"),
    initrd: await initramfsFile(name, {
      init,
      arch: source === "linux-i386" ? "i386" : "amd64",
      files: { ...drivers, ...programs.reduce(withLibraries, {}), ...files },
    }),
    // SVM as TCG emulates it, in the lab, doesn't intercept XSETBV.
    cmdline: `console=ttyS0 quiet${inLab ? " noxsave" : ""}`,
    memory: "256M",
  };
}

/** vsock.c as a program; its path. */
export function vsockProgram(): string {
  return buildProgram("vsock", ["-O1", "-static", join(import.meta.dir, "vsock.c")]);
}

/** Adds a program of the host's, and the libraries that it needs. */
function withLibraries(files: Record<string, Uint8Array>, path: string) {
  const name = path.slice(path.lastIndexOf("/") + 1);
  files[`bin/${name}`] = readFileSync(path);
  // What ldd(1) does; the lab has no such script.
  const { stdout } = Bun.spawnSync(["/lib64/ld-linux-x86-64.so.2", "--list", path]);
  for (const [, library] of stdout.toString().matchAll(/(\/[^ ]+) \(0x/g)) {
    if (!existsSync(library)) continue;
    // The loader has to be where the program says.
    const loader = dirname(library) === "/lib64";
    files[loader ? library.slice(1) : `lib64/${library.slice(library.lastIndexOf("/") + 1)}`] =
      readFileSync(library);
  }
  return files;
}
