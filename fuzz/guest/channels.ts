/** The ways by which an input reaches a guest. */
import type { Size } from "../../src/vmd/device.ts";
import type { InputPlace } from "../../src/vmm/point.ts";
import { FuzzError, type FuzzMachine } from "./machine.ts";
import {
  type GuestOptions,
  parseInput,
  parseLength,
  type Place,
  REGISTERS,
  type RegisterName,
} from "./options.ts";
import type { Symbols } from "./symbols.ts";
import type { GuestView } from "./view.ts";

/** What a guest that said READY wants. */
export interface Ready {
  /** Linear. */
  readonly address: bigint;
  readonly size: number;
}

export interface Channel {
  /** Bytes of the longest input. */
  readonly size: number;
  /** Memory: the engine itself puts it there. */
  readonly place?: InputPlace;
  /** A device has it: called with the machine at the point. */
  readonly insert?: (input: Uint8Array) => void;
}

/** struct virtio_net_hdr of 12 bytes comes before a frame; virtio 1.2, 5.1.6. */
const FRAME_HEADER = 12;
const RCX = 1;

/** @throws FuzzError */
export function channelOf(
  options: Pick<GuestOptions, "input" | "length">,
  ready: Ready | undefined,
  view: GuestView,
  machine: FuzzMachine,
  symbols: Symbols,
): Channel {
  if (options.input === undefined) {
    if (ready === undefined) throw new FuzzError("where does the input go? --input says it");
    const { address, size } = ready;
    const segments = piecesOf(view, address, size, "what the guest said with READY");
    return { size, place: { segments, lengthRegister: RCX } };
  }
  const channel = parseInput(options.input, symbols);
  const { size } = channel;
  switch (channel.kind) {
    case "memory": {
      const segments = piecesOf(view, linearOf(channel.place, view), size, options.input);
      return { size, place: { segments, ...lengthOf(options.length, view, symbols) } };
    }
    case "disk": {
      const disk = machine.disks[channel.index];
      if (disk === undefined) throw new FuzzError(`${options.input}: the machine has no such disk`);
      return {
        size: Math.min(size, disk.size),
        insert: (input) => disk.rewind(input),
      };
    }
    case "net": {
      const network = machine.interfaces[channel.index];
      if (network === undefined) {
        throw new FuzzError(`${options.input}: the machine has no such interface`);
      }
      if (!network.started) throw new FuzzError(`${options.input}: the guest has no driver for it`);
      return {
        size,
        insert: (input) => {
          const frame = new Uint8Array(FRAME_HEADER + input.length);
          frame.set(input, FRAME_HEADER);
          network.deliver(frame);
          machine.life.machine.idle();
        },
      };
    }
    case "console":
      return {
        size,
        insert: (input) => {
          machine.life.machine.console.input(input);
          machine.life.machine.idle();
        },
      };
    case "port":
      return portChannel(channel.port, size, machine);
  }
}

function portChannel(port: number, size: number, machine: FuzzMachine): Channel {
  let bytes = new Uint8Array(0);
  let at = 0;
  machine.life.machine.ports.add(
    port,
    1,
    {
      read: (_port: number, width: Size) => {
        // Who wants more than there is has had all.
        if (at >= bytes.length) machine.life.machine.event ??= { kind: "exit", code: 0 };
        let value = 0;
        for (let i = 0; i < width; i++) value += (bytes[at++] ?? 0) * 2 ** (8 * i);
        return value;
      },
      write: () => {},
    },
    4,
  );
  return {
    size,
    insert: (input) => {
      bytes = input.slice();
      at = 0;
    },
  };
}

function piecesOf(view: GuestView, address: bigint, size: number, what: string) {
  const pieces = view.pieces(address, size);
  if (pieces !== undefined) return pieces;
  throw new FuzzError(`${what}: 0x${address.toString(16)} and ${size} bytes are not all mapped`);
}

function linearOf(place: Place, view: GuestView): bigint {
  if (place.kind === "address") return BigInt.asUintN(64, place.address);
  return BigInt.asUintN(64, view.register(place.register) + place.offset);
}

function lengthOf(
  text: string | undefined,
  view: GuestView,
  symbols: Symbols,
): Pick<InputPlace, "length" | "lengthRegister"> {
  if (text === undefined) return {};
  const length = parseLength(text, symbols);
  if ("register" in length) return { lengthRegister: numberOf(length.register) };
  const [piece, more] = piecesOf(view, linearOf(length.place, view), length.size, text);
  if (more !== undefined) throw new FuzzError(`${text}: it lies on two pages`);
  return { length: { address: piece.address, size: length.size } };
}

const numberOf = (register: RegisterName) => REGISTERS.indexOf(register);
