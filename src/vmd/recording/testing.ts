/** For tests: a neighbour on an interface, and guests of a few bytes of firmware. */
import { closeSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { processLibrary, ptr, socketPair } from "../../vmm/native.ts";
import { checksum, put16 } from "../net/ipv4.ts";
import { replayRecording } from "./replay.ts";
import type { Position, ReplaySession } from "./replay-session.ts";

const HEADER = 12;
const MAC = [0x02, 0, 0, 0, 0, 1];
const ARP = 0x0806;
const IPV4 = 0x0800;

/** Answers ARP and pings when it looks. */
export class Neighbour implements Disposable {
  /** The VM's end. */
  readonly descriptor: number;
  /** Pings answered. */
  answered = 0;
  readonly #own: number;
  readonly #frame = new Uint8Array(70_000);
  readonly #timer: Timer;

  /** Looks each `interval` ms. */
  constructor(interval = 7) {
    [this.descriptor, this.#own] = socketPair();
    this.#timer = setInterval(() => this.#look(), interval);
  }

  #look(): void {
    for (;;) {
      const { vmm_read, vmm_write } = processLibrary();
      const length = Number(vmm_read(this.#own, ptr(this.#frame), this.#frame.length));
      if (length <= 0) return;
      const answer = this.#answer(this.#frame.slice(0, length));
      if (answer !== undefined) vmm_write(this.#own, ptr(answer), answer.length);
    }
  }

  #answer(packet: Uint8Array): Uint8Array | undefined {
    const frame = packet.subarray(HEADER);
    if (frame.length < 34) return undefined;
    packet.fill(0, 0, HEADER);
    const type = (frame[12] << 8) | frame[13];
    const guest = frame.slice(6, 12);
    if (type === ARP && frame[21] === 1) {
      const [sender, target] = [frame.slice(28, 32), frame.slice(38, 42)];
      frame[21] = 2;
      frame.set(MAC, 22);
      frame.set(target, 28);
      frame.set(guest, 32);
      frame.set(sender, 38);
    } else if (type === IPV4 && frame[23] === 1 && frame[34] === 8) {
      this.answered++;
      const [from, to] = [frame.slice(26, 30), frame.slice(30, 34)];
      frame.set(to, 26);
      frame.set(from, 30);
      frame[34] = 0;
      put16(frame, 36, 0);
      put16(frame, 36, checksum(frame, 34, frame.length));
    } else return undefined;
    frame.set(guest, 0);
    frame.set(MAC, 6);
    return packet;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    closeSync(this.#own);
  }
}

/** Code that starts at the reset vector, 16-bit. */
export function firmware(folder: string, name: string, ...code: string[]): string {
  const bytes = new Uint8Array(4096).fill(0xf4);
  bytes.set(Uint8Array.fromHex(code.join("").replaceAll(" ", "")));
  bytes.set([0xe9, 0x0d, 0xf0], 0xff0); // jmp to offset 0
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

/** Says "A", and then what is typed on COM1: "r" and "t" reset the machine, "q" ends it. */
export const echo = (folder: string) =>
  firmware(
    folder,
    "echo",
    "ba f8 03  b0 41  ee", // mov dx,3f8; mov al,'A'; out dx,al
    "ba fd 03  ec  a8 01  74 fb", // mov dx,3fd; in al,dx; test al,1; jz the in
    "ba f8 03  ec  ee", // mov dx,3f8; in al,dx; out dx,al
    "3c 72  75 04  b0 fe  e6 64", // cmp al,'r'; jne on; mov al,fe; out 64,al
    "3c 74  75 07  2e 0f 01 1e 32 f0  cc", // cmp al,'t'; jne on; lidt of no entries; int3
    "3c 71  75 dc", // cmp al,'q'; jne "mov dx,3fd"
    "b0 15  ba f4 00  ee  f4", // mov al,15; mov dx,f4; out dx,al
    "00 00 00 00 00 00",
  );

/** Runs a recording again; with what the guest printed. */
export function printed(path: string, until?: number) {
  let text = "";
  const result = replayRecording(path, {
    until,
    console: (bytes) => {
      text += new TextDecoder().decode(bytes);
    },
  });
  return { ...result, text };
}

/**
 * From a recording's beginning to its end and back.
 * @returns where its breakpoints were met each way, and where it ended; the session is at its beginning
 */
export function throughBreakpoints(session: ReplaySession) {
  session.seekExit(0);
  const there: Position[] = [];
  while (session.continue() === "breakpoint") there.push(session.position);
  const last = session.position;
  const back: Position[] = [];
  while (session.continueBack() === "breakpoint") back.push(session.position);
  return { there, last, back };
}
