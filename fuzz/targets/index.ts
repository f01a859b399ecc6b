/** The targets, by their names: each is loaded when it is asked for. */
import type { Target } from "../own/target.ts";

const LOADERS: Record<string, () => Promise<{ target: Target }>> = {
  chips: () => import("./chips.ts"),
  "fw-cfg": () => import("./fw-cfg.ts"),
  vmmci: () => import("./vmmci.ts"),
  exits: () => import("./exits.ts"),
  "virtio-blk": () => import("./virtio-blk.ts"),
  "virtio-blk-readonly": () => import("./virtio-blk-readonly.ts"),
  "virtio-blk-limited": () => import("./virtio-blk-limited.ts"),
  "virtio-rng": () => import("./virtio-rng.ts"),
  "virtio-console": () => import("./virtio-console.ts"),
  "virtio-net": () => import("./virtio-net.ts"),
  "virtio-net-limited": () => import("./virtio-net-limited.ts"),
  "virtio-scsi": () => import("./virtio-scsi.ts"),
  "virtio-balloon": () => import("./virtio-balloon.ts"),
  "virtio-9p": () => import("./virtio-9p.ts"),
  "virtio-vsock": () => import("./virtio-vsock.ts"),
  "boot-elf": () => import("./boot-elf.ts"),
  "boot-openbsd": () => import("./boot-openbsd.ts"),
  "boot-linux": () => import("./boot-linux.ts"),
  "boot-vmlinux": () => import("./boot-vmlinux.ts"),
  "boot-pvh": () => import("./boot-pvh.ts"),
  "boot-multiboot": () => import("./boot-multiboot.ts"),
  "boot-firmware": () => import("./boot-firmware.ts"),
  "vm-conf": () => import("./vm-conf.ts"),
  control: () => import("./control.ts"),
  snapshot: () => import("./snapshot.ts"),
  qcow2: () => import("./qcow2.ts"),
  "qcow2-operations": () => import("./qcow2-operations.ts"),
  "9p": () => import("./9p.ts"),
  dhcp: () => import("./dhcp.ts"),
  gdb: () => import("./gdb.ts"),
  recording: () => import("./recording.ts"),
  trace: () => import("./trace.ts"),
};

export const TARGETS = Object.keys(LOADERS);

/** What a target is; undefined for one that there isn't. Instruments nothing by itself. */
export async function loadTarget(name: string): Promise<Target | undefined> {
  if (!Object.hasOwn(LOADERS, name)) return undefined;
  return (await LOADERS[name]()).target;
}
