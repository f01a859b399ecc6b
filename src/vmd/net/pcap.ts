/**
 * A capture of frames in pcap's format, as tcpdump and Wireshark read it
 * (draft-ietf-opsawg-pcap), written piece by piece to wherever it goes.
 */

/** The magic number of files with nanoseconds; the byte order is the one it is read in. */
const MAGIC = 0xa1b23c4d;
const MAJOR = 2;
const MINOR = 4;
const LINKTYPE_ETHERNET = 1;
const FILE_HEADER = 24;
const RECORD_HEADER = 16;
/** The largest frame with segmentation offload, and then some. */
const SNAP_LENGTH = 2 ** 18;
const BUFFER = 2 ** 16;

export interface PcapOptions {
  /** Bytes of a frame that are kept. Default: all. */
  snapLength?: number;
}

/** Takes bytes. They are in a buffer that is used again: to keep them, copy them. */
export type PcapSink = (bytes: Uint8Array) => void;

export class PcapWriter {
  readonly #sink: PcapSink;
  readonly #snapLength: number;
  readonly #bytes = new Uint8Array(BUFFER);
  readonly #view = new DataView(this.#bytes.buffer);
  #length = 0;

  /** Begins with the file's header. */
  constructor(sink: PcapSink, { snapLength = SNAP_LENGTH }: PcapOptions = {}) {
    this.#sink = sink;
    this.#snapLength = Math.max(1, Math.min(snapLength, SNAP_LENGTH));
    const view = this.#view;
    view.setUint32(0, MAGIC, true);
    view.setUint16(4, MAJOR, true);
    view.setUint16(6, MINOR, true);
    view.setUint32(16, this.#snapLength, true);
    view.setUint32(20, LINKTYPE_ETHERNET, true);
    this.#length = FILE_HEADER;
  }

  /**
   * Adds a frame, without a virtio header.
   * @param seconds since 1970.
   * @param nanoseconds of that second.
   */
  frame(seconds: number, nanoseconds: number, frame: Uint8Array): void {
    const kept = Math.min(frame.length, this.#snapLength);
    if (this.#length + RECORD_HEADER + Math.min(kept, BUFFER / 2) > BUFFER) this.flush();
    const view = this.#view;
    view.setUint32(this.#length, seconds, true);
    view.setUint32(this.#length + 4, nanoseconds, true);
    view.setUint32(this.#length + 8, kept, true);
    view.setUint32(this.#length + 12, frame.length, true);
    this.#length += RECORD_HEADER;
    for (let at = 0; at < kept;) {
      if (this.#length === BUFFER) this.flush();
      const part = frame.subarray(at, Math.min(kept, at + BUFFER - this.#length));
      this.#bytes.set(part, this.#length);
      this.#length += part.length;
      at += part.length;
    }
  }

  /** Gives what is there to the sink. */
  flush(): void {
    if (this.#length === 0) return;
    const length = this.#length;
    this.#length = 0;
    this.#sink(this.#bytes.subarray(0, length));
  }
}
