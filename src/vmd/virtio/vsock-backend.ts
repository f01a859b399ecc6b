/** What a socket device and the host's side of it are to each other. */

/** What reading gives instead of bytes: nothing more comes; the other side is gone altogether. */
export const READ_END = -1;
export const READ_GONE = -2;

/**
 * The host's side. A connection is known by its key, a whole number below 2^32. None of these calls
 * the device.
 */
export interface VsockBackend {
  /** The device, once it is there: who is told of what happens. */
  attach(device: VsockEvents): void;
  /** The guest wants to reach a port. Answered by `connected` or `refused`; false: refused. */
  connect(key: number, port: number): boolean;
  /** The guest has accepted what came in. */
  accepted(key: number): void;
  /**
   * Takes bytes of guest memory, all of them.
   * @returns how many are on their way. The others are kept, and `room` is told of them.
   */
  write(key: number, address: number, length: number): number;
  /** @returns bytes put into guest memory; 0 until `available`; READ_END; READ_GONE. */
  read(key: number, address: number, length: number): number;
  /** The guest doesn't receive, or send, any more: bits of VsockShutdown. */
  shutdown(key: number, what: number): void;
  /** It is over. The key is forgotten. */
  close(key: number): void;
}

/** What a backend tells the device, which does its work when it is polled. Old keys do no harm. */
export interface VsockEvents {
  connected(key: number): void;
  refused(key: number): void;
  /** There may be bytes to read, or an end. */
  available(key: number): void;
  /** So many bytes that were kept have left. */
  room(key: number, bytes: number): void;
  /** The other side is gone, and has left nothing to read. */
  ended(key: number): void;
  /** Somebody wants to reach a port of the guest's. @returns its key. */
  incoming(port: number): number | undefined;
  /** The host's port of a connection. */
  hostPort(key: number): number;
}
