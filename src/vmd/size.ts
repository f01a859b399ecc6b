/** Human-readable sizes, as vmctl takes them: "512M", "4.5G", "1048576". */

const UNITS: Record<string, number> = {
  "": 1,
  B: 1,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  T: 2 ** 40,
};

/** A size that is none, in one sentence. */
export class SizeError extends Error {
  override name = "SizeError";
}

/** Bytes of a size; scale letters are case-insensitive, fractions are allowed. */
export function parseSize(text: string): number {
  const match = /^([0-9]+(?:\.[0-9]+)?)([BKMGT]?)$/i.exec(text.trim());
  if (match === null) throw new SizeError(`invalid size: ${text}`);
  const size = Math.floor(Number(match[1]) * UNITS[match[2].toUpperCase()]);
  if (!Number.isSafeInteger(size)) throw new SizeError(`invalid size: ${text}`);
  return size;
}

/** As fmt_scaled(3) prints it: "512M", "1.0G". */
export function formatSize(bytes: number): string {
  let value = bytes;
  let unit = "B";
  for (const next of ["K", "M", "G", "T"]) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  const digits = unit !== "B" && value < 10 ? 1 : 0;
  return `${value.toFixed(digits)}${unit}`;
}
