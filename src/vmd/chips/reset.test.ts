import { beforeEach, expect, test } from "bun:test";
import type { MachineEvent } from "../device.ts";
import { DebugPort } from "./debugport.ts";
import { IsaDebugExit } from "./isa-debug-exit.ts";
import { Reset, ResetRegisters } from "./reset.ts";

let events: MachineEvent[];
let chip: Reset;
const emit = (event: MachineEvent): void => void events.push(event);

beforeEach(() => {
  events = [];
  chip = new Reset(ResetRegisters.standalone(), emit);
});

test("the keyboard controller's reset pulse, and its output port", () => {
  chip.write(0x64, 1, 0xff); // a pulse of nothing
  chip.write(0x64, 1, 0xfe);
  expect(events).toEqual([{ kind: "reset", by: "keyboard controller" }]);
  chip.write(0x60, 1, 0xfe);
  chip.write(0x64, 1, 0xd1);
  chip.write(0x60, 1, 0xdf); // opens A20
  chip.write(0x60, 1, 0xfe);
  expect(events.length).toBe(1);
  chip.write(0x64, 1, 0xd1);
  chip.write(0x60, 1, 0xfe);
  expect(events.length).toBe(2);
});

test("the keyboard controller is a floating bus: its input buffer never empties", () => {
  expect(chip.read(0x64, 1)).toBe(0xff);
  expect(chip.read(0x60, 1)).toBe(0xff);
});

test("port 0x92 resets on the rise of bit 0, with A20 open always", () => {
  expect(chip.read(0x92, 1)).toBe(0x02);
  chip.write(0x92, 1, 0x00);
  expect(chip.read(0x92, 1)).toBe(0x02);
  chip.write(0x92, 1, 0x03);
  chip.write(0x92, 1, 0x03);
  expect(events).toEqual([{ kind: "reset", by: "port 0x92" }]);
});

test("port 0xcf9 resets on the rise of bit 2", () => {
  chip.write(0xcf9, 1, 0x02);
  expect(chip.read(0xcf9, 1)).toBe(0x02);
  expect(events).toEqual([]);
  chip.write(0xcf9, 1, 0x06);
  chip.write(0xcf9, 1, 0x0e);
  expect(events).toEqual([{ kind: "reset", by: "port 0xcf9" }]);
  chip.reset();
  expect(chip.read(0xcf9, 1)).toBe(0);
});

test("isa-debug-exit ends the machine with an odd code", () => {
  const exit = new IsaDebugExit(emit);
  exit.write(0xf4, 1, 0x10);
  exit.write(0xf4, 4, 0xffffffff);
  expect(events).toEqual([
    { kind: "exit", code: 0x21 },
    { kind: "exit", code: 0xffffffff },
  ]);
  expect(exit.read(0xf4, 4)).toBe(0);
});

test("the debug port says that it is there and passes bytes on", () => {
  const bytes: number[] = [];
  const port = new DebugPort((byte) => bytes.push(byte));
  expect(port.read(0x402, 1)).toBe(0xe9);
  port.write(0x402, 1, 0x41);
  expect(bytes).toEqual([0x41]);
});
