import { beforeEach, describe, expect, test } from "bun:test";
import type { InterruptLine } from "../device.ts";
import { I8259, I8259Registers } from "./i8259.ts";

let pic: I8259;
let lines: InterruptLine[];

function initialise(icw4 = 0x01): void {
  pic.write(0x20, 1, 0x11);
  pic.write(0x21, 1, 0x20);
  pic.write(0x21, 1, 0x04);
  pic.write(0x21, 1, icw4);
  pic.write(0xa0, 1, 0x11);
  pic.write(0xa1, 1, 0x28);
  pic.write(0xa1, 1, 0x02);
  pic.write(0xa1, 1, icw4);
}

function pulse(irq: number): void {
  lines[irq].set(true);
  lines[irq].set(false);
}

/** The ISR of the chip with command port `port`. */
function isr(port: number): number {
  pic.write(port, 1, 0x0b);
  return pic.read(port, 1);
}

function irr(port: number): number {
  pic.write(port, 1, 0x0a);
  return pic.read(port, 1);
}

beforeEach(() => {
  pic = new I8259(I8259Registers.standalone());
  pic.reset();
  lines = Array.from({ length: 16 }, (_, irq) => pic.line(irq));
  initialise();
});

describe("requests", () => {
  test("an edge asks for its vector once", () => {
    expect(pic.pending).toBe(false);
    lines[4].set(true);
    expect(pic.pending).toBe(true);
    expect(pic.acknowledge()).toBe(0x24);
    expect(isr(0x20)).toBe(0x10);
    pic.write(0x20, 1, 0x20);
    expect(isr(0x20)).toBe(0);
    expect(pic.pending).toBe(false); // still up, but no new edge
  });

  test("an edge stays latched when its line drops", () => {
    pulse(3);
    expect(irr(0x20)).toBe(0x08);
    expect(pic.acknowledge()).toBe(0x23);
  });

  test("a slave's request comes through the master's input 2", () => {
    pulse(12);
    expect(irr(0x20)).toBe(0x04);
    expect(pic.acknowledge()).toBe(0x2c);
    expect(isr(0x20)).toBe(0x04);
    expect(isr(0xa0)).toBe(0x10);
  });

  test("the lower number wins, and what is in service keeps its equals and inferiors out", () => {
    pulse(5);
    pulse(1);
    pulse(8);
    expect(pic.acknowledge()).toBe(0x21);
    expect(pic.pending).toBe(false);
    pic.write(0x20, 1, 0x20);
    expect(pic.acknowledge()).toBe(0x28);
    pulse(0);
    expect(pic.acknowledge()).toBe(0x20);
    pic.write(0x20, 1, 0x20);
    pic.write(0xa0, 1, 0x20);
    expect(pic.pending).toBe(false);
    pic.write(0x20, 1, 0x20);
    expect(pic.acknowledge()).toBe(0x25);
  });

  test("a masked input is remembered and comes when unmasked", () => {
    pic.write(0x21, 1, 0x10);
    expect(pic.read(0x21, 1)).toBe(0x10);
    pulse(4);
    expect(pic.pending).toBe(false);
    pic.write(0x21, 1, 0);
    expect(pic.acknowledge()).toBe(0x24);
  });

  test("the AT bus's IRQ 2 is input 9", () => {
    pulse(2);
    expect(pic.acknowledge()).toBe(0x29);
  });

  test("nothing is asked before initialisation or in the middle of it", () => {
    pic.reset();
    pulse(4);
    expect(pic.pending).toBe(false);
    initialise();
    expect(pic.pending).toBe(false); // ICW1 forgets edges
    pic.write(0x20, 1, 0x11);
    pulse(4);
    pic.write(0x21, 1, 0x40);
    expect(pic.pending).toBe(false);
    pic.write(0x21, 1, 0x04);
    pic.write(0x21, 1, 0x01);
    expect(pic.acknowledge()).toBe(0x44);
  });
});

describe("level inputs", () => {
  beforeEach(() => {
    pic.write(0x4d0, 1, 0x20);
    pic.write(0x4d1, 1, 0x08);
  });

  test("the acknowledge doesn't clear a level, its source does", () => {
    lines[5].set(true);
    expect(pic.acknowledge()).toBe(0x25);
    expect(irr(0x20)).toBe(0x20);
    pic.write(0x20, 1, 0x20);
    expect(pic.pending).toBe(true);
    expect(pic.acknowledge()).toBe(0x25);
    lines[5].set(false);
    pic.write(0x20, 1, 0x20);
    expect(pic.pending).toBe(false);
  });

  test("a level shared by two sources is up while either is", () => {
    const other = pic.line(5);
    lines[5].set(true);
    other.set(true);
    lines[5].set(false);
    expect(pic.pending).toBe(true);
    other.set(false);
    expect(pic.pending).toBe(false);
  });

  test("a level that vanished gives the spurious vector and sets no ISR bit", () => {
    lines[5].set(true);
    lines[5].set(false);
    expect(pic.acknowledge()).toBe(0x27);
    expect(isr(0x20)).toBe(0);
    lines[11].set(true);
    lines[11].set(false);
    expect(pic.acknowledge()).toBe(0x2f);
    expect(isr(0x20)).toBe(0x04);
    expect(isr(0xa0)).toBe(0);
  });

  test("inputs of the board can't be made level-triggered", () => {
    pic.write(0x4d0, 1, 0xff);
    pic.write(0x4d1, 1, 0xff);
    expect(pic.read(0x4d0, 1)).toBe(0xf8);
    expect(pic.read(0x4d1, 1)).toBe(0xde);
  });

  test("ICW1 leaves ELCR alone, and a level that is up counts at once", () => {
    lines[5].set(true);
    initialise();
    expect(pic.read(0x4d0, 1)).toBe(0x20);
    expect(pic.acknowledge()).toBe(0x25);
  });
});

describe("end of interrupt and rotation", () => {
  test("a specific EOI ends the level it names", () => {
    pulse(6);
    pic.acknowledge();
    pulse(3);
    pic.acknowledge();
    pic.write(0x20, 1, 0x66);
    expect(isr(0x20)).toBe(0x08);
  });

  test("rotation on EOI makes the ended level the lowest", () => {
    pulse(3);
    pic.acknowledge();
    pic.write(0x20, 1, 0xa0);
    pulse(3);
    pulse(4);
    pulse(7);
    expect(pic.acknowledge()).toBe(0x24);
    pic.write(0x20, 1, 0xe4); // rotate on specific EOI
    expect(pic.acknowledge()).toBe(0x27);
  });

  test("set priority moves the lowest without an EOI", () => {
    pic.write(0x20, 1, 0xc5);
    pulse(0);
    pulse(6);
    expect(pic.acknowledge()).toBe(0x26);
  });

  test("automatic EOI leaves no ISR bit and may rotate", () => {
    initialise(0x03);
    pulse(3);
    expect(pic.acknowledge()).toBe(0x23);
    expect(isr(0x20)).toBe(0);
    pic.write(0x20, 1, 0x80);
    pulse(3);
    pic.acknowledge();
    pulse(3);
    pulse(4);
    expect(pic.acknowledge()).toBe(0x24);
  });

  test("with automatic EOI no slave request is lost behind another", () => {
    initialise(0x03);
    pulse(9);
    pulse(10);
    expect(pic.acknowledge()).toBe(0x29);
    expect(pic.acknowledge()).toBe(0x2a);
    expect(pic.pending).toBe(false);
  });
});

describe("modes", () => {
  test("poll answers with the input and serves it", () => {
    pic.write(0x20, 1, 0x0c);
    expect(pic.read(0x20, 1)).toBe(0);
    pulse(6);
    pic.write(0x20, 1, 0x0c);
    expect(pic.read(0x21, 1)).toBe(0x86);
    expect(isr(0x20)).toBe(0x40);
    expect(pic.read(0x21, 1)).toBe(0);
  });

  test("special mask mode lets inferiors in and takes no EOI for what is masked", () => {
    pulse(3);
    pic.acknowledge();
    pulse(6);
    expect(pic.pending).toBe(false);
    pic.write(0x21, 1, 0x08);
    expect(pic.pending).toBe(false);
    pic.write(0x20, 1, 0x68);
    expect(pic.acknowledge()).toBe(0x26);
    pic.write(0x20, 1, 0x20);
    pic.write(0x20, 1, 0x20);
    expect(isr(0x20)).toBe(0x08);
    pic.write(0x20, 1, 0x48);
    pic.write(0x20, 1, 0x20);
    expect(isr(0x20)).toBe(0);
  });

  test("special fully nested mode lets a higher slave input interrupt the slave", () => {
    pulse(12);
    pic.acknowledge();
    pulse(9);
    expect(pic.pending).toBe(false);
    initialise(0x11);
    pulse(12);
    pic.acknowledge();
    pulse(9);
    expect(pic.acknowledge()).toBe(0x29);
  });

  test("single mode skips ICW3 and gives input 2 a vector of its own", () => {
    pic.write(0x20, 1, 0x12);
    pic.write(0x21, 1, 0x60);
    pic.write(0x21, 1, 0x0f); // OCW1 already
    expect(pic.read(0x21, 1)).toBe(0x0f);
    pic.write(0x21, 1, 0);
    pulse(10);
    expect(pic.acknowledge()).toBe(0x62);
  });

  test("ICW1 clears the mask, the status selection and the priority order", () => {
    pic.write(0x21, 1, 0xff);
    pic.write(0x20, 1, 0xc2);
    pic.write(0x20, 1, 0x0b);
    initialise();
    expect(pic.read(0x21, 1)).toBe(0);
    pulse(0);
    pulse(3);
    expect(pic.read(0x20, 1)).toBe(0x09);
    expect(pic.acknowledge()).toBe(0x20);
  });
});
