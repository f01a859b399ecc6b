/** Raw images: the bytes of the disk are the bytes of the file or block device. */
import { checkRange, checkWritable, type Disk, type Extent, ExtentKind } from "./disk.ts";
import { DiskError } from "./error.ts";
import type { HostFile } from "./host-file.ts";

export class RawDisk implements Disk {
  readonly size: number;
  readonly readOnly: boolean;
  readonly #file: HostFile;

  constructor(file: HostFile, readOnly: boolean) {
    this.#file = file;
    this.size = file.size;
    this.readOnly = readOnly;
  }

  get name(): string {
    return this.#file.name;
  }

  read(offset: number, into: Uint8Array): void {
    checkRange(this, offset, into.length);
    if (this.#file.read(offset, into, 0, into.length) < into.length) {
      throw new DiskError(`${this.name}: the file became shorter`);
    }
  }

  write(offset: number, bytes: Uint8Array): void {
    checkWritable(this);
    checkRange(this, offset, bytes.length);
    this.#file.write(offset, bytes, 0, bytes.length);
  }

  flush(): void {
    if (!this.readOnly) this.#file.sync();
  }

  *flushing(): Generator<number, void> {
    if (this.readOnly) return;
    const { descriptor } = this.#file;
    if (descriptor === undefined) this.#file.sync();
    else yield descriptor;
  }

  locate(offset: number, length: number, writing: boolean, extent: Extent): void {
    if (writing) checkWritable(this);
    checkRange(this, offset, length);
    const { descriptor } = this.#file;
    extent.kind = descriptor === undefined ? ExtentKind.INDIRECT : ExtentKind.FILE;
    extent.length = length;
    extent.descriptor = descriptor ?? -1;
    extent.position = offset;
  }

  clear(offset: number, length: number, _: boolean, extent: Extent): void {
    this.locate(offset, length, true, extent);
  }

  lost(error: DiskError): void {
    this.#file.lost(error);
  }

  close(): void {
    try {
      this.flush();
    } finally {
      this.#file.close();
    }
  }

  zeroes(): number {
    return 0;
  }
}
