/** A guest's socket device, as it is asked for. */

export interface VsockOption {
  /** The guest's address: 3 to 2^32 − 2. */
  cid: number;
  /**
   * Where the host's side listens: who connects there and says "CONNECT 80" is connected to the
   * guest's port 80. What the guest connects to at port 80 listens at this path with "_80".
   */
  path: string;
}

/** Bytes of a unix socket's path, without its end. */
const PATH_MAX = 107;
/** The longest port: "_4294967295". */
const SUFFIX_MAX = 11;

/** What is wrong with it, in words; undefined when nothing is. */
export function checkVsock({ cid, path }: VsockOption): string | undefined {
  if (!Number.isInteger(cid) || cid < 3 || cid > 2 ** 32 - 2) {
    return `vsock cid ${cid}: it is 3 to 4294967294`;
  }
  if (path === "" || path.includes("\0")) return "vsock: no path";
  if (Buffer.byteLength(path) > PATH_MAX - SUFFIX_MAX) {
    return `vsock ${path}: the path is longer than ${PATH_MAX - SUFFIX_MAX} bytes`;
  }
  return undefined;
}

/** "CID,PATH". @throws TypeError with what is wrong */
export function parseVsock(text: string): VsockOption {
  const comma = text.indexOf(",");
  const cid = text.slice(0, comma);
  if (comma < 0 || !/^\d{1,10}$/.test(cid)) throw new TypeError("it is CID,PATH");
  const option = { cid: Number(cid), path: text.slice(comma + 1) };
  const wrong = checkVsock(option);
  if (wrong !== undefined) throw new TypeError(wrong);
  return option;
}
