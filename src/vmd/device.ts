/**
 * What a device is: a function of its registers, guest memory and an event.
 *
 * A device's constructor takes its registers (bound to the machine image) and what its effects
 * leave through: interrupt lines, a backend, the clock, guest memory. It reads nothing else, so
 * the same code runs in a VM, in a property test, under a fuzzer and in a replay. A constructor
 * writes no register: reset does, so that a restored image stays as it is.
 */

/** Access size in bytes. */
export type Size = 1 | 2 | 4;

/** A device on the I/O port bus. Whatever a guest does here, it must not throw. */
export interface PortDevice {
  /** The value at `port`; the bus cuts it to `size` bytes. */
  read(port: number, size: Size): number;
  /** `value` is unsigned and fits `size` bytes. */
  write(port: number, size: Size, value: number): void;
}

/** A device in guest-physical memory outside RAM. Sizes are 1, 2, 4 or 8. */
export interface MmioDevice {
  /** Reads `size` bytes at `address`, into `data[0..size)`, little-endian. */
  read(address: number, data: Uint8Array, size: number): void;
  write(address: number, data: Uint8Array, size: number): void;
}

/** One input of an interrupt controller. */
export interface InterruptLine {
  set(level: boolean): void;
}

/** What a serial port is connected to. */
export interface SerialBackend {
  /** Takes one byte from the guest; false when it can't now: the chip then keeps it. */
  transmit(byte: number): boolean;
}

/** What a guest did that ends or restarts its machine. */
export type MachineEvent =
  | {
      kind: "reset";
      by: "keyboard controller" | "port 0x92" | "port 0xcf9" | "the debugger" | "triple fault";
    }
  | { kind: "power-off" }
  | { kind: "exit"; code: number };

/** Registers and power-on state. */
export interface Resettable {
  /** As after power-on or the RESET# signal. */
  reset(): void;
}
