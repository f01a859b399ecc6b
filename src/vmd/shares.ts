/** The processes of a VM's shares. */
import type { Confinement } from "./vm-messages.ts";
import { openShareRoot, shareConfinement, ShareHost } from "./share/share-host.ts";
import type { ShareOption } from "./share-option.ts";

/** A share that is served. */
export interface OpenedShare {
  readonly tag: string;
  readonly host: ShareHost;
}

export interface ShareSurroundings {
  /** Absent: no sandbox. */
  readonly confine: Confinement | undefined;
  /** Opens a directory, with the rights of whoever named it. */
  readonly open?: (share: ShareOption) => number;
  /** Told what of a sandbox isn't there. */
  readonly warn?: (message: string) => void;
}

/** Starts them; all or none. @throws ShareError, GlobError */
export async function openShares(
  shares: readonly ShareOption[],
  { confine, open, warn }: ShareSurroundings,
): Promise<OpenedShare[]> {
  const opened: OpenedShare[] = [];
  try {
    for (const share of shares) {
      const { path, tag, readOnly, allow, deny, user } = share;
      const whom = user === undefined ? confine : shareConfinement(user);
      const root = open === undefined ? openShareRoot(path) : open(share);
      const policy = { readonly: readOnly === true, allow, deny };
      const host = new ShareHost({
        name: tag,
        root,
        policy,
        confine: confine === undefined ? undefined : whom,
      });
      opened.push({ tag, host });
      const unconfined = await host.serving();
      if (unconfined !== "") warn?.(`share ${tag}: ${unconfined}`);
    }
    return opened;
  } catch (error) {
    for (const { host } of opened) host.stop();
    throw error;
  }
}
