/** Pages that a guest has given away go back to the host. */
import { hostLibrary } from "../../vmm/native.ts";
import type { GuestMemory } from "../../vmm/memory.ts";
import type { BalloonBackend } from "../virtio/balloon.ts";

export function hostBalloon(memory: GuestMemory): BalloonBackend {
  return {
    discard: (address, length) => {
      if (hostLibrary().vmm_memory_discard(memory.pointer(address, length), length) < 0) return;
      memory.written(address, length);
    },
  };
}
