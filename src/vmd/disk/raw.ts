/** Raw images: the bytes of the disk are the bytes of the file or block device. */
import { checkRange, checkWritable, type Disk } from "./disk.ts";
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
