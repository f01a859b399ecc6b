/** The firmware of this host, for VMs that boot from a disk. */
import { existsSync } from "node:fs";

/**
 * Where firmware is looked for: vmd's place, then Debian's. Not SeaBIOS's build of 256 KiB: it expects
 * RAM below its 128 KiB that this machine hasn't got.
 */
export const FIRMWARE = ["/etc/firmware/vmm-bios", "/usr/share/seabios/bios.bin"];

/** Its path; undefined when there is none. */
export function findFirmware(places: readonly string[] = FIRMWARE): string | undefined {
  return places.find((path) => existsSync(path));
}
