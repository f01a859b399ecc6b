/** Who a VM process is to become. */
import type { Confinement } from "./vm-messages.ts";

/** Of a process that is started for ourselves: nobody when we are root, else as we are. */
export function ownConfinement(): Confinement {
  return {};
}
