/** The header of a socket device's packets: virtio 1.2, § 5.10.6, `struct virtio_vsock_hdr`. */

export const HEADER_SIZE = 44;

/** The host's CID, § 5.10.4. */
export const HOST_CID = 2;

/** Socket types, § 5.10.6. */
export const VsockType = { STREAM: 1, SEQPACKET: 2 } as const;

/** Operations, § 5.10.6. */
export const VsockOp = {
  INVALID: 0,
  REQUEST: 1,
  RESPONSE: 2,
  RST: 3,
  SHUTDOWN: 4,
  RW: 5,
  CREDIT_UPDATE: 6,
  CREDIT_REQUEST: 7,
} as const;

/** Flags of SHUTDOWN, § 5.10.6.5: what its sender does no more. */
export const VsockShutdown = { RECEIVE: 1, SEND: 2, BOTH: 3 } as const;

/** A header's bytes, and its fields. One is used for many packets. */
export class VsockHeader {
  readonly bytes = new Uint8Array(HEADER_SIZE);
  readonly #view = new DataView(this.bytes.buffer);

  // CIDs have 64 bits; those in use have 32, so one with more is nobody's.
  get sourceCid(): number {
    return this.#view.getUint32(0, true) + this.#view.getUint32(4, true) * 2 ** 32;
  }
  set sourceCid(cid: number) {
    this.#view.setUint32(0, cid, true);
    this.#view.setUint32(4, 0, true);
  }

  get destinationCid(): number {
    return this.#view.getUint32(8, true) + this.#view.getUint32(12, true) * 2 ** 32;
  }
  set destinationCid(cid: number) {
    this.#view.setUint32(8, cid, true);
    this.#view.setUint32(12, 0, true);
  }

  get sourcePort(): number {
    return this.#view.getUint32(16, true);
  }
  set sourcePort(port: number) {
    this.#view.setUint32(16, port, true);
  }

  get destinationPort(): number {
    return this.#view.getUint32(20, true);
  }
  set destinationPort(port: number) {
    this.#view.setUint32(20, port, true);
  }

  /** Bytes of payload behind it. */
  get length(): number {
    return this.#view.getUint32(24, true);
  }
  set length(length: number) {
    this.#view.setUint32(24, length, true);
  }

  get type(): number {
    return this.#view.getUint16(28, true);
  }
  set type(type: number) {
    this.#view.setUint16(28, type, true);
  }

  get op(): number {
    return this.#view.getUint16(30, true);
  }
  set op(op: number) {
    this.#view.setUint16(30, op, true);
  }

  get flags(): number {
    return this.#view.getUint32(32, true);
  }
  set flags(flags: number) {
    this.#view.setUint32(32, flags, true);
  }

  /** Bytes that the sender keeps for its receiver at most. */
  get bufAlloc(): number {
    return this.#view.getUint32(36, true);
  }
  set bufAlloc(bytes: number) {
    this.#view.setUint32(36, bytes, true);
  }

  /** Bytes that have left that buffer so far; counts round. */
  get fwdCnt(): number {
    return this.#view.getUint32(40, true);
  }
  set fwdCnt(bytes: number) {
    this.#view.setUint32(40, bytes, true);
  }
}
