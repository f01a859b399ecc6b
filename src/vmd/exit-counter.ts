/** Counts a running guest's exits by reason and place, while somebody asks for it. */
import { ExitReason, exitName, IO_OUT, type RunPage } from "../vmm/exit.ts";
import type { ExitObserver } from "./vcpu.ts";

/** Exits of one reason at one place. */
export interface ExitCount {
  reason: string;
  /** "out 0x3f8/1", "read 0xfee00030/4"; empty for exits that have no place. */
  where: string;
  count: number;
  /** Host time spent on answers, ns. */
  handled: number;
}

/** So many places are told apart; a guest may exit at more. */
const PLACES = 256;

interface Place {
  reason: number;
  address: number;
  size: number;
  out: boolean;
  count: number;
  handled: number;
}

export class ExitCounter implements ExitObserver {
  readonly #places = new Map<number, Place>();
  readonly #rest = { reason: 0, address: 0, size: 0, out: false, count: 0, handled: 0 };
  #at = 0;

  exited(): void {
    this.#at = Bun.nanoseconds();
  }

  answered(run: RunPage): void {
    const place = this.#place(run);
    place.count++;
    place.handled += Bun.nanoseconds() - this.#at;
  }

  tick(): void {}

  interrupt(): void {}

  /** What was counted, most frequent first. */
  get counts(): ExitCount[] {
    const places = [...this.#places.values()].map(described);
    const { count, handled } = this.#rest;
    if (count > 0) places.push({ reason: "others", where: "", count, handled });
    return places.sort((a, b) => b.count - a.count);
  }

  #place(run: RunPage): Place {
    const { reason } = run;
    let address = 0;
    let size = 0;
    let out = false;
    if (reason === ExitReason.IO) {
      address = run.ioPort;
      size = run.ioSize;
      out = run.ioDirection === IO_OUT;
    } else if (reason === ExitReason.MMIO) {
      address = run.mmioAddress;
      size = run.mmioLength;
      out = run.mmioIsWrite;
    } else if (reason === ExitReason.RDMSR || reason === ExitReason.WRMSR) {
      address = run.msrIndex;
    }
    // Places beyond 2^40 share a count with others; nobody has that many.
    const key = (address % 2 ** 40) * 2 ** 12 + size * 2 ** 8 + (out ? 128 : 0) + reason;
    let place = this.#places.get(key);
    if (place !== undefined) return place;
    if (this.#places.size >= PLACES) return this.#rest;
    place = { reason, address, size, out, count: 0, handled: 0 };
    this.#places.set(key, place);
    return place;
  }
}

function described({ reason, address, size, out, count, handled }: Place): ExitCount {
  const at = `0x${address.toString(16)}`;
  let where = "";
  if (reason === ExitReason.IO) where = `${out ? "out" : "in"} ${at}/${size}`;
  else if (reason === ExitReason.MMIO) where = `${out ? "write" : "read"} ${at}/${size}`;
  else if (reason === ExitReason.RDMSR || reason === ExitReason.WRMSR) where = at;
  return { reason: exitName(reason), where, count, handled };
}
