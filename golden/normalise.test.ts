import { expect, test } from "bun:test";
import { normalise } from "./normalise.ts";

test("time stamps, numbers, dates and escapes are taken out, words stay", () => {
  const log =
    "\x1b[1;1H[    1.234567] Memory: 214892K/261752K available (14343K kernel code)\r\n\n" +
    "[   12.000001] BIOS-e820: [mem 0x0000000000000000-0x000000000009efff] usable\r\n" +
    "[    0.1] Loaded X.509 cert 'key: cf735cef1ccc1ecb' on Mon Nov 23  \r\n";
  expect(normalise(log)).toBe(
    "[time] Memory: # available (# kernel code)\n" +
      "[time] BIOS-#: [mem #] usable\n" +
      "[time] Loaded X.# cert 'key: #' on day day #",
  );
});

test("a number's padding is no difference, words' distances are", () => {
  const built = (date: string) => `(XEN) Xen version 4.17.5 (gcc 12.2.0) debug=n ${date}`;
  expect(normalise(built("Sat Jul  4 08:12:31 UTC 2026"))).toBe(
    normalise(built("Tue Nov 24 20:01:02 UTC 2026")),
  );
  expect(normalise("Order:    9, free:\t -12 MiB\n   node   0:   [mem 0x0-0xf]")).toBe(
    "Order: #, free: # MiB\n   node #:   [mem #]",
  );
  expect(normalise("a  b")).not.toBe(normalise("a b"));
});

test("a line that is missing or new is seen", () => {
  expect(normalise("a\nb\nc")).not.toBe(normalise("a\nc"));
});

test("lines of kernel threads come last, wherever they were", () => {
  const aside = "[    0.5] Trying to unpack rootfs image as initramfs...";
  expect(normalise(`a\n${aside}\nb`)).toBe(normalise(`a\nb\n${aside}`));
});
