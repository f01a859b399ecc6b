/** Link addresses: 6 bytes, "fe:e1:bb:d1:12:34" as text. */

/** What vmd gives to its guests, and what OpenBSD's taps have: locally administered, unicast. */
const GUEST = [0xfe, 0xe1, 0xbb, 0xd0];
const HOST = [0xfe, 0xe1, 0xba, 0xd0];
const LENGTH = 6;
/** Where a frame's source address is. */
const SOURCE = 6;

/** @returns undefined for what is no address. */
export function parseMac(text: string): Uint8Array | undefined {
  if (!/^(?:[0-9a-f]{1,2}:){5}[0-9a-f]{1,2}$/i.test(text)) return undefined;
  return Uint8Array.from(text.split(":"), (byte) => Number.parseInt(byte, 16));
}

export function formatMac(mac: Uint8Array): string {
  return [...mac].map((byte) => byte.toString(16).padStart(2, "0")).join(":");
}

/** Whether a network interface can have it: no group's address, and not all zeros. */
export function isInterfaceMac(mac: Uint8Array): boolean {
  return mac.length === LENGTH && (mac[0] & 1) === 0 && mac.some((byte) => byte !== 0);
}

/**
 * An address for a guest's interface, where none is configured: as vmd makes it, from the
 * interface's place and two random bytes.
 * @param place from 0 to 14.
 */
export function randomMac(place: number): Uint8Array {
  const mac = Uint8Array.from([...GUEST, 0, 0]);
  mac[3] |= (place + 1) & 0x0f;
  crypto.getRandomValues(mac.subarray(4));
  return mac;
}

/**
 * An address for the host's end of a guest's interface. As high as the guest's: a bridge takes the
 * lowest of its members' addresses for its own, which is not to change with every VM.
 */
export function hostMacOf(guest: Uint8Array): Uint8Array {
  const mac = Uint8Array.from([...HOST, guest[4], guest[5]]);
  mac[3] |= guest[3] & 0x0f;
  // A guest's address that was chosen could be the very same.
  if (mac.every((byte, i) => byte === guest[i])) mac[2] ^= 1;
  return mac;
}

/** `locked lladdr`: whether a frame says that it comes from this address. One too short doesn't. */
export function isFrom(frame: Uint8Array, mac: Uint8Array): boolean {
  if (frame.length < SOURCE + LENGTH) return false;
  for (let i = 0; i < LENGTH; i++) if (frame[SOURCE + i] !== mac[i]) return false;
  return true;
}
