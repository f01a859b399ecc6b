/** What is said of somebody's input may hold parts of it: a message is one line, and not long. */

/** Characters. */
const LONGEST = 500;
// oxlint-disable-next-line no-control-regex
const CONTROL = /[\x00-\x1f\x7f-\x9f]/g;

/** A message with question marks for control characters, cut off where it is too long. */
export function sentence(text: string): string {
  const printable = text.slice(0, LONGEST).replaceAll(CONTROL, "?");
  return text.length > LONGEST ? `${printable}...` : printable;
}
