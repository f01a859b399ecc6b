import { expect, test } from "bun:test";
import fc from "fast-check";
import {
  encodePacket,
  escape,
  PACKET_MAX,
  PacketReader,
  type Received,
  unescape,
} from "./packet.ts";

function read(...parts: (string | Uint8Array)[]): Received[] {
  const reader = new PacketReader();
  const got: Received[] = [];
  for (const part of parts) {
    reader.read(typeof part === "string" ? Buffer.from(part, "latin1") : part, (one) =>
      got.push(one),
    );
  }
  return got;
}

const packet = (data: string): Received => ({ kind: "packet", data });
const bytes = fc
  .uint8Array({ maxLength: 400 })
  .map((array) => Buffer.from(array).toString("latin1"));

test("a packet, with its checksum in either case", () => {
  expect(read("$g#67")).toEqual([packet("g")]);
  expect(read("$m0,4#Fd", "+")).toEqual([packet("m0,4")]);
  expect(read("$#00")).toEqual([packet("")]);
});

test("a packet in pieces, and several at once", () => {
  expect(read("$", "m0", ",4", "#", "f", "d")).toEqual([packet("m0,4")]);
  expect(read("+$g#67+$?#3f")).toEqual([packet("g"), packet("?")]);
});

test("a wrong checksum, or none, is a bad packet", () => {
  expect(read("$g#68$?#3f")).toEqual([{ kind: "bad" }, packet("?")]);
  expect(read("$g#zz")).toEqual([{ kind: "bad" }]);
});

test("outside of packets: interrupts and requests to send again; all else is nothing", () => {
  expect(read("\x03")).toEqual([{ kind: "interrupt" }]);
  expect(read("-")).toEqual([{ kind: "again" }]);
  expect(read("+ab\x00\xff")).toEqual([]);
  expect(read("$a\x03b#c6")).toEqual([packet("a\x03b")]);
});

test("a packet that was cut off ends where the next begins", () => {
  expect(read("$mabc$g#67")).toEqual([packet("g")]);
});

test("a packet that is too long is bad, and the next is read", () => {
  const long = encodePacket("a".repeat(PACKET_MAX + 1));
  expect(read(long, "$g#67")).toEqual([{ kind: "bad" }, packet("g")]);
  expect(read(encodePacket("a".repeat(PACKET_MAX)))).toHaveLength(1);
});

test("any data comes back, escaped, however it is cut", () => {
  fc.assert(
    fc.property(bytes, fc.nat(500), (data, cut) => {
      const sent = Buffer.from(encodePacket(escape(data)));
      const [got] = read(sent.subarray(0, cut), sent.subarray(cut));
      expect(got?.kind).toBe("packet");
      expect(unescape((got as { data: string }).data)).toBe(data);
    }),
  );
});

test("escapes as in the manual", () => {
  expect(escape("#$}*a")).toBe("}\x03}\x04}]}\na");
  expect(unescape("}\x03}]a}")).toBe("#}a");
});

test("nothing that comes throws, and a right packet after it is read", () => {
  fc.assert(
    fc.property(fc.array(bytes), (parts) => {
      expect(read(...parts, "$#00$#00$g#67").at(-1)).toEqual(packet("g"));
    }),
  );
});
