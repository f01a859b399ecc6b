/**
 * What a CD-ROM drive tells of itself and its disc, byte by byte. Sources: SPC-3 (INQUIRY and its
 * pages), MMC-6 (the rest). Each function fills `data` from its start and returns the bytes used.
 */

export const BLOCK = 2048;

const VENDOR = "OpenBSD ";
const PRODUCT = "VMM CD-ROM      ";
const REVISION = "001 ";
/** Peripheral device types, SPC-3, § 6.4.2. */
const TYPE_CDROM = 0x05;
const TYPE_WELL_KNOWN = 0x1e;

export function put16(data: Uint8Array, at: number, value: number): void {
  data[at] = value >>> 8;
  data[at + 1] = value;
}

export function put32(data: Uint8Array, at: number, value: number): void {
  put16(data, at, value >>> 16);
  put16(data, at + 2, value);
}

function putText(data: Uint8Array, at: number, text: string): void {
  for (let i = 0; i < text.length; i++) data[at + i] = text.charCodeAt(i);
}

/** SPC-3, § 6.4.2. @param wellKnown as the REPORT LUNS logical unit answers. */
export function inquiry(data: Uint8Array, wellKnown: boolean): number {
  data.fill(0, 0, 36);
  data[0] = wellKnown ? TYPE_WELL_KNOWN : TYPE_CDROM;
  // Its medium is removable.
  data[1] = wellKnown ? 0 : 0x80;
  data[2] = 5; // SPC-3
  data[3] = 2; // this format
  data[4] = 36 - 5;
  putText(data, 8, VENDOR);
  putText(data, 16, PRODUCT);
  putText(data, 32, REVISION);
  return 36;
}

/** A page of vital product data, SPC-3, § 7.6. @returns 0 when there is no such page. */
export function vitalProductData(data: Uint8Array, page: number, wellKnown: boolean): number {
  data.fill(0, 0, 40);
  data[0] = wellKnown ? TYPE_WELL_KNOWN : TYPE_CDROM;
  data[1] = page;
  switch (page) {
    case 0x00:
      data[3] = 3;
      data[5] = 0x80;
      data[6] = 0x83;
      return 7;
    case 0x80:
      // § 7.6.10: spaces stand for a serial number that isn't there.
      data[3] = 4;
      putText(data, 4, "    ");
      return 8;
    case 0x83:
      data[3] = 28;
      data[4] = 2; // ASCII
      data[5] = 1; // vendor identification, and what the vendor likes
      data[7] = 24;
      putText(data, 8, VENDOR + PRODUCT);
      return 32;
  }
  return 0;
}

/** MMC-6, § 4.1.4: minutes, seconds and frames, of which 150 precede block 0. */
function putAddress(data: Uint8Array, at: number, block: number, msf: boolean): void {
  if (!msf) {
    put32(data, at, Math.min(block, 2 ** 32 - 1));
    return;
  }
  const frames = block + 150;
  data[at] = 0;
  data[at + 1] = Math.min(255, Math.floor(frames / 4500));
  data[at + 2] = Math.floor(frames / 75) % 60;
  data[at + 3] = frames % 75;
}

const LEAD_OUT = 0xaa;
/** ADR 1, and a data track. */
const DATA_TRACK = 0x14;

/** READ TOC, format 0: one track and the lead-out (MMC-6, § 6.25.3.2). @returns 0: no such track. */
export function toc(data: Uint8Array, blocks: number, first: number, msf: boolean): number {
  if (first > 1 && first !== LEAD_OUT) return 0;
  data.fill(0, 0, 20);
  data[2] = data[3] = 1;
  let end = 4;
  for (const track of [1, LEAD_OUT]) {
    if (track < first) continue;
    data[end + 1] = DATA_TRACK;
    data[end + 2] = track;
    putAddress(data, end + 4, track === 1 ? 0 : blocks, msf);
    end += 8;
  }
  put16(data, 0, end - 2);
  return end;
}

/** READ TOC, format 1: one session, which begins with track 1 (MMC-6, § 6.25.3.3). */
export function sessions(data: Uint8Array, msf: boolean): number {
  data.fill(0, 0, 12);
  data[1] = 10;
  data[2] = data[3] = 1;
  data[5] = DATA_TRACK;
  data[6] = 1;
  putAddress(data, 8, 0, msf);
  return 12;
}

/** 32 times the speed of an audio disc, kB/s. */
const SPEED = 32 * 176;

/**
 * MODE SENSE: a header of 4 or 8 bytes, and the pages asked for: 0x01 (error recovery, MMC-6,
 * § 7.3), 0x2a (capabilities, MMC-3, § 5.5.10), or 0x3f, all. @returns 0 when there is no such page.
 */
export function modePages(data: Uint8Array, header: 4 | 8, page: number, locked: boolean): number {
  data.fill(0, 0, 48);
  const all = page === 0x3f;
  let end: number = header;
  if (all || page === 0x01) {
    data[end] = 0x01;
    data[end + 1] = 10;
    end += 12;
  }
  if (all || page === 0x2a) {
    data[end] = 0x2a;
    data[end + 1] = 20;
    // A tray, which can be locked; it doesn't open by command.
    data[end + 6] = 0x21 | (locked ? 2 : 0);
    put16(data, end + 8, SPEED);
    put16(data, end + 14, SPEED);
    end += 22;
  }
  if (end === header) return 0;
  // Mode data length: without itself.
  if (header === 4) data[0] = end - 1;
  else put16(data, 0, end - 2);
  return end;
}

const PROFILE_CDROM = 0x0008;
/** Feature descriptors, MMC-6, § 5.3. All are current while a disc is there. */
const FEATURES: readonly (readonly number[])[] = [
  // Profile list: version 0, persistent, current
  [0x00, 0x00, 0x03, 4, 0x00, PROFILE_CDROM, 0x01, 0x00],
  // Core: version 2; interface SCSI; INQ2 and DBE aren't there
  [0x00, 0x01, 0x0b, 8, 0, 0, 0, 1, 0, 0, 0, 0],
  // Morphing: version 1; changes are polled for
  [0x00, 0x02, 0x07, 4, 0, 0, 0, 0],
  // Removable medium: a tray; locks
  [0x00, 0x03, 0x03, 4, 0x21, 0, 0, 0],
  // Random readable: block size, one block at a time
  [0x00, 0x10, 0x01, 8, 0, 0, BLOCK >> 8, BLOCK & 0xff, 0, 1, 0, 0],
];

/**
 * GET CONFIGURATION, MMC-6, § 6.6. @param request 0 every feature from `first` on, 1 those that are
 * current, 2 just this one.
 */
export function configuration(
  data: Uint8Array,
  request: number,
  first: number,
  disc: boolean,
): number {
  data.fill(0, 0, 8);
  if (disc) put16(data, 6, PROFILE_CDROM);
  let end = 8;
  for (const feature of FEATURES) {
    const code = (feature[0] << 8) | feature[1];
    if (request === 2 ? code !== first : code < first) continue;
    // Random reads are what a disc makes possible, and so is its profile.
    const current = disc || (code !== 0x10 && code !== 0);
    if (request === 1 && !current && code !== 0) continue;
    for (let i = 0; i < feature.length; i++) data[end + i] = feature[i];
    if (!current && code === 0x10) data[end + 2] &= ~1;
    if (!current && code === 0) data[end + 6] &= ~1;
    end += feature.length;
  }
  put32(data, 0, end - 4);
  return end;
}

/** The one class of events that is there: power. */
const POWER_EVENTS = 0x04;

/** GET EVENT STATUS NOTIFICATION, MMC-6, § 6.7: nothing happened, if power is asked about. */
export function eventStatus(data: Uint8Array, classes: number): number {
  data.fill(0, 0, 8);
  data[3] = POWER_EVENTS;
  if ((classes & POWER_EVENTS) === 0) {
    data[1] = 2;
    data[2] = 0x80; // no event available
    return 4;
  }
  data[1] = 6;
  data[2] = 2; // power management
  data[5] = 1; // active
  return 8;
}

/** REPORT LUNS, SPC-3, § 6.21: LUN 0, or none of those that are well known by number. */
export function luns(data: Uint8Array, wellKnown: boolean): number {
  data.fill(0, 0, 16);
  if (wellKnown) return 8;
  data[3] = 8;
  return 16;
}

/** Sense data in fixed format, SPC-3, § 4.5.3. */
export function senseData(data: Uint8Array, at: number, key: number, code: number): number {
  data.fill(0, at, at + SENSE_SIZE);
  data[at] = 0x70; // of this command
  data[at + 2] = key;
  data[at + 7] = SENSE_SIZE - 8;
  put16(data, at + 12, code);
  return SENSE_SIZE;
}

export const SENSE_SIZE = 18;
