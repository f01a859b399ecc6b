/** QEMU as a peer. */

export const QEMU = "qemu-system-x86_64";

/** Why it can't be measured against, as a sentence. */
export function qemuMissing(): string | undefined {
  return Bun.which(QEMU) === null
    ? `there is no ${QEMU} (Debian package qemu-system-x86).`
    : undefined;
}

/** A machine with nothing that isn't asked for. */
export const BARE = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"] as const;
