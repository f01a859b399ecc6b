/**
 * disk/: disk images. A disk is bytes from 0 to its size, read, written and made durable; raw and
 * qcow2 images are disks, on files that are open already or are opened here. The room knows no
 * controller, no virtual machine and no guest memory, and fails only with a DiskError.
 */
export {
  type ConvertOptions,
  convertDisk,
  createQcow2,
  createRaw,
  type Qcow2Options,
} from "./create.ts";
export { type Disk, type DiskFormat, emptyExtent, type Extent, ExtentKind } from "./disk.ts";
export { type FrozenDisk, freezeDisk } from "./freeze.ts";
export { DiskError, errnoName, hostError, strerror } from "./error.ts";
export {
  detectFormat,
  type DiskFile,
  diskDescriptors,
  diskFromFile,
  diskFromFiles,
  openDisk,
  openDiskFiles,
  type OpenOptions,
  parseDiskArgument,
} from "./open.ts";
export { Qcow2Disk } from "./qcow2.ts";
