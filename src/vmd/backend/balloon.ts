/** Pages that a guest has given away go back to the host. */
import type { GuestMemory } from "../../vmm/memory.ts";
import type { BalloonBackend } from "../virtio/balloon.ts";

export function hostBalloon(memory: GuestMemory): BalloonBackend {
  return { discard: (address, length) => memory.discard(address, length) };
}
