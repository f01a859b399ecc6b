/** The host's end of a VM's socket device, in the daemon. */
import { lchownSync } from "node:fs";
import type { Accounts } from "../accounts.ts";
import { ownRights, rightsOf, VsockHost, type VsockRights } from "../vsock-host.ts";
import type { VmSettings } from "./settings.ts";

/**
 * Listens with the rights of whoever named the path: a caller, or the administrator. Connects with
 * a caller's, or the owner's: who may write beside the path could else send root anywhere.
 * @throws NativeError
 */
export function openVsock({ vsock, owner }: VmSettings, accounts: Accounts): VsockHost | undefined {
  if (vsock === undefined) return undefined;
  const { by } = vsock;
  const self = process.geteuid!();
  if (by !== undefined) {
    return new VsockHost(vsock, by.uid === self ? undefined : rightsOf(by.uid, by.gid, by.groups));
  }
  if (owner.uid === self || self !== 0) return new VsockHost(vsock);
  const { uid } = owner;
  const gid = accounts.user(accounts.userName(uid))?.gid ?? owner.gid ?? NOBODY;
  const { connect } = rightsOf(uid, gid, accounts.groupsOf(uid, gid));
  const rights: VsockRights = {
    ...ownRights,
    connect,
    listen: (path, mode) => {
      const listener = ownRights.listen(path, mode);
      // Its owner reaches the guest.
      if (listener >= 0) lchownSync(path, uid, gid);
      return listener;
    },
  };
  return new VsockHost(vsock, rights);
}

/** The group of a user who has none. */
const NOBODY = 65_534;
