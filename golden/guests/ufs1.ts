// UFS1 (the Berkeley fast file system, 4.3BSD and later), little-endian, read only:
// enough to get a kernel out of a BSD floppy.
//
// Layout after sys/ufs/ffs/fs.h and ufs/dinode.h: the superblock lies 8 KiB into the
// file system; cylinder groups hold the inodes, 128 bytes each; an inode has twelve
// direct blocks and three levels of indirect ones. Addresses count fragments.

const superblockOffset = 8192;
const magic = 0x011954;
const rootInode = 2;
const inodeSize = 128;
const directBlocks = 12;

const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;

interface Inode {
  mode: number;
  size: number;
  /** Fragment addresses: twelve direct, then one, two and three levels. */
  blocks: number[];
}

export class Ufs1 {
  readonly #view: DataView;
  readonly #image: Uint8Array;
  readonly #blockSize: number;
  readonly #fragmentSize: number;
  readonly #inodesPerGroup: number;
  readonly #fragmentsPerGroup: number;
  readonly #groups: number;
  readonly #groupOffset: number;
  readonly #groupMask: number;
  readonly #inodeBlock: number;

  /** The file system that begins at `offset` of an image. Throws if there is none. */
  constructor(image: Uint8Array, offset = 0) {
    this.#image = image.subarray(offset);
    this.#view = new DataView(this.#image.buffer, this.#image.byteOffset, this.#image.byteLength);
    const field = (at: number) => this.#word(superblockOffset + at);
    if (field(1372) !== magic) throw new Error("ufs1: no superblock");
    this.#inodeBlock = field(16);
    this.#groupOffset = field(24);
    this.#groupMask = field(28);
    this.#groups = field(44);
    this.#blockSize = field(48);
    this.#fragmentSize = field(52);
    this.#inodesPerGroup = field(184);
    this.#fragmentsPerGroup = field(188);
    if (
      !isPowerOfTwo(this.#blockSize, 4096, 65536) ||
      !isPowerOfTwo(this.#fragmentSize, 512, 65536)
    )
      throw new Error(
        `ufs1: a block of ${this.#blockSize}, a fragment of ${this.#fragmentSize} bytes`,
      );
    if (this.#inodesPerGroup === 0) throw new Error("ufs1: no inodes in a cylinder group");
  }

  /** The names in a directory, without . and .. */
  list(path: string): string[] {
    return [...this.#entries(this.#lookup(path), path)].map(([name]) => name);
  }

  /** A regular file's bytes. */
  read(path: string): Uint8Array<ArrayBuffer> {
    const inode = this.#lookup(path);
    if ((inode.mode & S_IFMT) !== S_IFREG) throw new Error(`ufs1: ${path} is not a regular file`);
    return this.#data(inode, path);
  }

  #word(at: number): number {
    if (at < 0 || at + 4 > this.#view.byteLength) throw new Error(`ufs1: offset ${at} is outside`);
    return this.#view.getUint32(at, true);
  }

  #lookup(path: string): Inode {
    let inode = this.#inode(rootInode);
    for (const part of path.split("/").filter(Boolean)) {
      const found = [...this.#entries(inode, path)].find(([name]) => name === part);
      if (!found) throw new Error(`ufs1: there is no ${path}`);
      inode = this.#inode(found[1]);
    }
    return inode;
  }

  #inode(number: number): Inode {
    const group = Math.floor(number / this.#inodesPerGroup);
    if (group >= this.#groups) throw new Error(`ufs1: inode ${number} is outside`);
    // Groups start at slightly different places of a cylinder, on old disks.
    const start =
      this.#fragmentsPerGroup * group + this.#groupOffset * ((group & ~this.#groupMask) >>> 0);
    const at =
      (start + this.#inodeBlock) * this.#fragmentSize + (number % this.#inodesPerGroup) * inodeSize;
    if (this.#word(at + 12) !== 0) throw new Error(`ufs1: inode ${number} is larger than 4 GiB`);
    return {
      mode: this.#word(at) & 0xffff,
      size: this.#word(at + 8),
      blocks: Array.from({ length: directBlocks + 3 }, (_, index) =>
        this.#word(at + 40 + 4 * index),
      ),
    };
  }

  *#entries(inode: Inode, path: string): Generator<[string, number]> {
    if ((inode.mode & S_IFMT) !== S_IFDIR) throw new Error(`ufs1: ${path} leads through a file`);
    const data = this.#data(inode, path);
    const view = new DataView(data.buffer);
    for (let at = 0; at + 8 <= data.length;) {
      const length = view.getUint16(at + 4, true);
      if (length < 8 || at + length > data.length)
        throw new Error(`ufs1: an entry of ${length} bytes in a directory of ${path}`);
      const number = view.getUint32(at, true);
      const name = new TextDecoder().decode(data.subarray(at + 8, at + 8 + data[at + 7]));
      if (number !== 0 && name !== "." && name !== "..") yield [name, number];
      at += length;
    }
  }

  #data(inode: Inode, path: string): Uint8Array<ArrayBuffer> {
    // A hole costs nothing in the image; a file that is all holes isn't what this is for.
    if (inode.size > this.#image.length) throw new Error(`ufs1: ${path} is larger than the image`);
    const data = new Uint8Array(inode.size);
    const count = Math.ceil(inode.size / this.#blockSize);
    for (let index = 0; index < count; index++) {
      const address = this.#block(inode, index);
      if (address === 0) continue;
      const at = address * this.#fragmentSize;
      const to = index * this.#blockSize;
      const length = Math.min(this.#blockSize, inode.size - to);
      if (at + length > this.#image.length)
        throw new Error(`ufs1: block ${index} of ${path} is outside`);
      data.set(this.#image.subarray(at, at + length), to);
    }
    return data;
  }

  /** Address of a file's block, 0 for a hole. */
  #block(inode: Inode, index: number): number {
    if (index < directBlocks) return inode.blocks[index];
    const perBlock = this.#blockSize / 4;
    let left = index - directBlocks;
    for (let level = 1, span = perBlock; level <= 3; level++, span *= perBlock) {
      if (left >= span) {
        left -= span;
        continue;
      }
      let address = inode.blocks[directBlocks + level - 1];
      for (let below = span / perBlock; address !== 0 && below >= 1; below /= perBlock)
        address = this.#word(
          address * this.#fragmentSize + 4 * (Math.floor(left / below) % perBlock),
        );
      return address;
    }
    return 0;
  }
}

function isPowerOfTwo(value: number, least: number, most: number): boolean {
  return value >= least && value <= most && (value & (value - 1)) === 0;
}
