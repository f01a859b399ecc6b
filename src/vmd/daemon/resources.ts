/** What the daemon opens for a VM, with the rights of whoever named it. */
import { chmodSync, chownSync, closeSync, constants, fstatSync } from "node:fs";
import { daemonLibrary, NativeError, ptr } from "../../vmm/native.ts";
import type { Accounts } from "../accounts.ts";
import {
  type BootFile,
  type BootSet,
  bootSetFiles,
  FileError,
  openBootFile,
} from "../boot-files.ts";
import { diskDescriptors, DiskError } from "../disk/index.ts";
import { scratchImage, sizeOfImage } from "../disk/scratch.ts";
import { type OpenedDisk, openDisc, openVmDisk } from "../disk-files.ts";
import { FIRMWARE, findFirmware } from "../firmware.ts";
import { RefusalError } from "./refusal.ts";
import { openAs, type OwnedDisk, type OwnedPath, type VmSettings } from "./settings.ts";

const READ = constants.O_RDONLY | constants.O_NONBLOCK;
const NAME_SIZE = 64;

/** Descriptors that a VM process gets, and those that the daemon holds meanwhile. */
export class Resources implements Disposable {
  /** Absent: a restored VM whose kernel is no longer to be had. */
  readonly files: BootSet | undefined;
  readonly trace: BootFile | undefined;
  /** As it was: it is emptied when the VM is sure to be started. */
  readonly record: BootFile | undefined;
  readonly terminal: { master: number; slave: number } | undefined;
  /** The pty's path. */
  readonly tty: string;
  readonly disks: readonly OpenedDisk[];
  readonly cdrom: OpenedDisk | undefined;
  #given = false;

  /**
   * @param restored it can do without what it boots from.
   * @param disksLater none is opened now.
   * @throws RefusalError
   */
  constructor(
    settings: VmSettings,
    accounts: Accounts,
    { firmware = FIRMWARE, restored = false, disksLater = false } = {},
  ) {
    const opened: number[] = [];
    const file = (owned: OwnedPath): BootFile => {
      const one = bootFile(owned);
      opened.push(one.descriptor);
      return one;
    };
    try {
      try {
        this.files = {
          kernel: file(settings.kernel ?? defaultFirmware(firmware)),
          initrd: settings.initrd === undefined ? undefined : file(settings.initrd),
          modules: settings.modules.map((module) => ({ ...file(module), args: module.args })),
        };
      } catch (error) {
        if (!restored) throw error;
        for (const descriptor of opened.splice(0)) closeSync(descriptor);
      }
      this.disks = (disksLater ? [] : settings.disks).map((disk) => {
        const one = openDisk(disk);
        opened.push(...diskDescriptors(one.files));
        return one;
      });
      if (settings.cdrom !== undefined && !disksLater) {
        this.cdrom = openCdrom(settings.cdrom);
        opened.push(...this.cdrom.files.map(({ descriptor }) => descriptor));
      }
      if (settings.trace !== undefined) {
        this.trace = traceFile(settings.trace);
        opened.push(this.trace.descriptor);
      }
      if (settings.record !== undefined) {
        this.record = recordFile(settings.record);
        opened.push(this.record.descriptor);
      }
      const { master, slave, path } = openTerminal(settings, accounts);
      this.terminal = { master, slave };
      this.tty = path;
    } catch (error) {
      for (const descriptor of opened) closeSync(descriptor);
      throw error;
    }
  }

  /** The VM process has its own. */
  given(): void {
    this.#given = true;
  }

  [Symbol.dispose](): void {
    if (this.#given) return;
    this.#given = true;
    const boot = this.files === undefined ? [] : bootSetFiles(this.files);
    const images = this.disks.flatMap(({ files }) => files).concat(this.cdrom?.files ?? []);
    for (const one of [...boot, this.trace, this.record, ...images]) {
      if (one !== undefined) closeSync(one.descriptor);
    }
    if (this.terminal !== undefined) {
      closeSync(this.terminal.master);
      closeSync(this.terminal.slave);
    }
  }
}

function bootFile({ path, by }: OwnedPath): BootFile {
  try {
    return openBootFile(path, (name) => openAs(name, READ, by));
  } catch (error) {
    if (!(error instanceof FileError)) throw error;
    throw new RefusalError(/permission/.test(error.message) ? "EPERM" : "ENOENT", error.message);
  }
}

function defaultFirmware(firmware: readonly string[]): OwnedPath {
  const path = findFirmware(firmware);
  if (path === undefined) throw new RefusalError("BIOS", "vmm bios firmware file not found.");
  return { path };
}

/** The image, and those that it is based on, with the rights of whoever named it. */
export function openDisk({ by, ephemeral, ...option }: OwnedDisk): OpenedDisk {
  const { path } = option;
  const refuse = (why: string) =>
    new RefusalError("DISK", `could not open disk image(s): ${path}: ${why}`);
  let disk: OpenedDisk;
  try {
    const readOnly = option.readOnly === true || ephemeral === true;
    disk = openVmDisk({ ...option, readOnly }, (name, flags) => openAs(name, flags, by));
    if (ephemeral === true) disk = withScratch(disk);
  } catch (error) {
    if (!(error instanceof DiskError)) throw error;
    throw refuse(error.message.replace(`${path}: `, ""));
  }
  // Devices of the host are the administrator's to give away.
  if (by === undefined || by.uid === 0) return disk;
  if (disk.files.every(({ descriptor }) => fstatSync(descriptor).isFile())) return disk;
  for (const descriptor of diskDescriptors(disk.files)) closeSync(descriptor);
  throw refuse("not a regular file");
}

/** A disk that is read only, and an image on it for what is written, which has no name. */
function withScratch(disk: OpenedDisk): OpenedDisk {
  const [{ name, format }] = disk.files;
  const size = sizeOfImage(disk.files);
  const scratch = { name: `${name} (scratch)`, descriptor: scratchImage(size, { name, format }) };
  return { ...disk, readOnly: false, files: [{ ...scratch, format: "qcow2" }, ...disk.files] };
}

export function openCdrom({ path, by }: OwnedPath): OpenedDisk {
  const wrong = () =>
    new RefusalError("CDROMTYPE", `specified iso image is not a regular file: ${path}`);
  let disc: OpenedDisk;
  try {
    disc = openDisc(path, (name, flags) => openAs(name, flags, by));
  } catch (error) {
    if (!(error instanceof DiskError)) throw error;
    // Without a code it is the file itself that won't do.
    if (error.code === undefined || error.code === "EISDIR") throw wrong();
    if (error.code === "EBUSY") throw new RefusalError("DISK", error.message);
    throw new RefusalError("CDROM", `could not find specified iso image: ${path}`);
  }
  const [{ descriptor }] = disc.files;
  if (fstatSync(descriptor).isFile()) return disc;
  closeSync(descriptor);
  throw wrong();
}

function traceFile({ path, by }: OwnedPath): BootFile {
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NONBLOCK;
  try {
    return { path, descriptor: openAs(path, flags, by) };
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new RefusalError("EINVAL", `${path}: ${code ?? (error as Error).message}`);
  }
}

function recordFile({ path, by }: OwnedPath): BootFile {
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_NONBLOCK;
  try {
    const file = openBootFile(path, (name) => openAs(name, flags, by));
    if (daemonLibrary().vmm_lock(file.descriptor, 1) === 0) return file;
    closeSync(file.descriptor);
    throw new FileError(`${path}: is in use`);
  } catch (error) {
    if (!(error instanceof FileError)) throw error;
    throw new RefusalError("EINVAL", error.message);
  }
}

function openTerminal(
  { owner }: VmSettings,
  accounts: Accounts,
): { master: number; slave: number; path: string } {
  const pair = new Int32Array(2);
  const name = new Uint8Array(NAME_SIZE);
  const result = daemonLibrary().vmm_pty(ptr(pair), ptr(name), NAME_SIZE);
  if (result < 0)
    throw new RefusalError("EIO", new NativeError("a pseudo terminal", result).message);
  const path = new TextDecoder().decode(name.subarray(0, name.indexOf(0)));
  // A VM's owner may use its terminal; its group too, where it has one.
  if (process.geteuid!() === 0) {
    chownSync(path, owner.uid, owner.gid ?? accounts.group("tty")?.gid ?? 0);
  }
  chmodSync(path, owner.gid === undefined ? 0o620 : 0o660);
  return { master: pair[0], slave: pair[1], path };
}
