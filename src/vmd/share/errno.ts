/** Error numbers as 9P2000.L has them, which are Linux's. */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  EIO: 5,
  EBADF: 9,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EXDEV: 18,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  EFBIG: 27,
  EROFS: 30,
  ENAMETOOLONG: 36,
  ELOOP: 40,
  EPROTO: 71,
  EMSGSIZE: 90,
  EOPNOTSUPP: 95,
} as const;

/** How a request ends that can't be done: its reply is Rlerror with this number. */
export class Refusal extends Error {
  override name = "Refusal";
  readonly errno: number;

  constructor(errno: number) {
    super(`errno ${errno}`);
    this.errno = errno;
  }
}

const refusals = new Map<number, Refusal>();

/** Ends a request. A guest can make many of these, so each number has one object. */
export function refuse(errno: number): never {
  let refusal = refusals.get(errno);
  if (refusal === undefined) refusals.set(errno, (refusal = new Refusal(errno)));
  throw refusal;
}

/** Ends a request that a system call refused. @returns the call's result */
export function demand(result: number | bigint): number {
  const value = Number(result);
  if (value < 0) refuse(-value);
  return value;
}
