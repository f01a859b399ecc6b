/** The targets, by their names: each is loaded when it is asked for. */
import type { Target } from "../own/target.ts";

const LOADERS: Record<string, () => Promise<{ target: Target }>> = {
  "virtio-blk": () => import("./virtio-blk.ts"),
  "virtio-blk-readonly": () => import("./virtio-blk-readonly.ts"),
  "virtio-rng": () => import("./virtio-rng.ts"),
  "virtio-console": () => import("./virtio-console.ts"),
  "virtio-net": () => import("./virtio-net.ts"),
  "virtio-scsi": () => import("./virtio-scsi.ts"),
  "virtio-balloon": () => import("./virtio-balloon.ts"),
  "virtio-9p": () => import("./virtio-9p.ts"),
  "virtio-vsock": () => import("./virtio-vsock.ts"),
};

export const TARGETS = Object.keys(LOADERS);

/** What a target is; undefined for one that there isn't. Instruments nothing by itself. */
export async function loadTarget(name: string): Promise<Target | undefined> {
  if (!Object.hasOwn(LOADERS, name)) return undefined;
  return (await LOADERS[name]()).target;
}
