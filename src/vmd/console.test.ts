import { beforeEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Console } from "./console.ts";

let emitted: string[];
let terminal: Console;

beforeEach(() => {
  emitted = [];
  terminal = new Console((bytes) => emitted.push(Buffer.from(bytes).toString("latin1")));
});

const type = (text: string) => {
  for (const byte of Buffer.from(text, "latin1")) expect(terminal.transmit(byte)).toBe(true);
};

/** A UART that takes so many bytes. */
function receiver(room: number) {
  const got: number[] = [];
  return {
    got,
    room,
    drained: 0,
    drain(): void {
      this.drained++;
    },
    receive(byte: number): boolean {
      if (got.length >= this.room) return false;
      got.push(byte);
      return true;
    },
  };
}

describe("from the guest", () => {
  test("a line goes out at its end, the rest at a flush", () => {
    type("hello\nwor");
    expect(emitted).toEqual(["hello\n"]);
    terminal.flush();
    terminal.flush();
    expect(emitted).toEqual(["hello\n", "wor"]);
    type("ld\n");
    expect(emitted.at(-1)).toBe("ld\n");
  });

  test("an endless line goes out in pieces", () => {
    type("x".repeat(10_000));
    expect(emitted.map((piece) => piece.length)).toEqual([4096, 4096]);
    terminal.flush();
    expect(emitted.join("")).toBe("x".repeat(10_000));
  });

  test("what was handed out doesn't change later", () => {
    const kept: Uint8Array[] = [];
    const other = new Console((bytes) => kept.push(bytes));
    for (const byte of Buffer.from("a\nb\n")) other.transmit(byte);
    expect(kept.map((bytes) => [...bytes])).toEqual([
      [97, 10],
      [98, 10],
    ]);
  });
});

describe("from the guest, to a reader that has enough", () => {
  test("bytes stay with the UART, which is told when they are wanted again", () => {
    let blocked = true;
    const held = new Console(
      (bytes) => emitted.push(Buffer.from(bytes).toString("latin1")),
      () => blocked,
    );
    const uart = receiver(0);
    expect(held.transmit(65)).toBe(false);
    held.serve(uart);
    expect(uart.drained).toBe(0);
    blocked = false;
    held.serve(uart);
    held.serve(uart);
    expect(uart.drained).toBe(1);
    expect(held.transmit(65)).toBe(true);
    // What was begun is gathered on.
    blocked = true;
    expect(held.transmit(10)).toBe(true);
    expect(emitted).toEqual(["A\n"]);
    expect(held.transmit(66)).toBe(false);
  });
});

describe("to the guest", () => {
  test("bytes wait until there is room", () => {
    terminal.input(Uint8Array.of(1, 2, 3));
    terminal.input(Uint8Array.of(4));
    const uart = receiver(2);
    terminal.serve(uart);
    expect(uart.got).toEqual([1, 2]);
    terminal.serve(uart);
    uart.room = 10;
    terminal.input(Uint8Array.of());
    terminal.serve(uart);
    terminal.serve(uart);
    expect(uart.got).toEqual([1, 2, 3, 4]);
  });

  test("all bytes come, in order, whatever the room", () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 20 }), { maxLength: 10 }),
        fc.infiniteStream(fc.nat(7)),
        (pieces, rooms) => {
          const one = new Console(() => {});
          const uart = receiver(0);
          for (const piece of pieces) {
            one.input(piece);
            uart.room = uart.got.length + (rooms.next().value as number);
            one.serve(uart);
          }
          uart.room = Infinity;
          one.serve(uart);
          expect(uart.got).toEqual(pieces.flatMap((piece) => [...piece]));
        },
      ),
      { seed: 1 },
    );
  });
});
