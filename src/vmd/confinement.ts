/** Who a VM process is to become. */
import { Accounts } from "./accounts.ts";
import type { Confinement } from "./vm-messages.ts";

/** Of a process that root starts: _vmd, where there is such a user, else nobody. Others stay who they are. */
export function ownConfinement(): Confinement {
  if (process.geteuid!() !== 0) return {};
  const accounts = Accounts.read();
  const user = accounts.user("_vmd") ?? accounts.user("nobody");
  return { uid: user?.uid ?? 65534, gid: user?.gid ?? 65534 };
}
