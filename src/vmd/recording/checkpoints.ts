/**
 * Checkpoints of a replay, in memory: whole machines that share the pages that didn't change. The
 * longer ago, the fewer there are.
 */
import type { MachineImage } from "../../vmm/image.ts";
import { imageBlocks, type SavedBlock } from "../../vmm/snapshot/blocks.ts";
import { PAGE } from "../../vmm/snapshot/format.ts";
import { usedPages } from "../../vmm/snapshot/machine-memory.ts";
import type { PageSet } from "../../vmm/snapshot/page-set.ts";
import { encodeCpuRecord } from "../snapshot/cpu-record.ts";
import type { LoadedState } from "../snapshot/load.ts";
import type { VmLife } from "../vm-life.ts";
import type { PlayerState } from "./player.ts";
import type { BackendState } from "./replayed-machine.ts";

export interface Checkpoint {
  /** It lies in the answer to this exit. */
  readonly exits: number;
  /** What of guest memory isn't zeros, by page number. Never changed. */
  readonly pages: ReadonlyMap<number, Uint8Array>;
  readonly registers: readonly SavedBlock[];
  readonly cpu: Uint8Array;
  readonly host: LoadedState["host"];
  readonly player: PlayerState;
  readonly backends: BackendState;
}

/** Takes one, where checkpoint.ts says that all is in the image. */
export function takeCheckpoint(
  life: VmLife,
  before: Checkpoint,
  dirty: PageSet,
  player: PlayerState,
  backends: BackendState,
): Checkpoint {
  const { image, machine, vcpu } = life;
  return {
    exits: vcpu.exits,
    pages: withPages(image, before.pages, dirty),
    registers: imageBlocks(image),
    cpu: encodeCpuRecord(image, machine.clock.now),
    host: { halted: vcpu.halted, input: machine.hostState.input.slice() },
    player,
    backends,
  };
}

function withPages(
  image: MachineImage,
  before: ReadonlyMap<number, Uint8Array> | undefined,
  changed: PageSet,
): Map<number, Uint8Array> {
  const pages = new Map(before);
  for (const { page, count } of changed.runs()) {
    for (let number = page; number < page + count; number++) {
      const [bytes] = image.memory.bytes(number * PAGE, PAGE);
      pages.set(number, bytes.slice());
    }
  }
  return pages;
}

/** The beginning, as it was loaded: before exit 0. */
export function firstCheckpoint(
  image: MachineImage,
  { blocks, cpu, host }: LoadedState,
  player: PlayerState,
): Omit<Checkpoint, "backends"> {
  const pages = withPages(image, undefined, usedPages(image, -1));
  return { exits: -1, pages, registers: blocks, cpu, host, player };
}

/** Puts a checkpoint's memory into a new image. */
export function loadCheckpoint(image: MachineImage, checkpoint: Checkpoint): LoadedState {
  for (const [page, content] of checkpoint.pages) {
    const [bytes] = image.memory.bytes(page * PAGE, PAGE);
    bytes.set(content);
    image.memory.written(page * PAGE, PAGE);
  }
  const { registers: blocks, cpu, host } = checkpoint;
  return { blocks, cpu, host, mapped: false };
}

export interface CheckpointLimits {
  /** How many there are at most. */
  readonly count?: number;
  /** Bytes of pages that they hold together, about. */
  readonly bytes?: number;
}

/** The checkpoints of one replay, in the order of its exits. */
export class Checkpoints {
  readonly #count: number;
  readonly #pages: number;
  readonly #kept: { checkpoint: Checkpoint; own: number[] }[] = [];
  #held = 0;

  constructor({ count = 48, bytes = 2 ** 29 }: CheckpointLimits = {}) {
    this.#count = Math.max(2, count);
    this.#pages = Math.max(1, Math.floor(bytes / PAGE));
  }

  /** Bytes of pages that they hold. */
  get bytes(): number {
    return this.#held * PAGE;
  }

  at(exits: number): Checkpoint | undefined {
    return this.#kept.find(({ checkpoint }) => checkpoint.exits === exits)?.checkpoint;
  }

  /** The last one before an exit. */
  before(exits: number): Checkpoint | undefined {
    return this.#kept.findLast(({ checkpoint }) => checkpoint.exits < exits)?.checkpoint;
  }

  /** Keeps one, if need be in place of others: the further from it, the fewer stay. */
  add(checkpoint: Checkpoint): void {
    const { exits } = checkpoint;
    let place = this.#kept.findIndex((other) => other.checkpoint.exits > exits);
    if (place < 0) place = this.#kept.length;
    const before = this.#kept.at(place - 1)?.checkpoint.pages;
    const own: number[] = [];
    for (const [page, bytes] of checkpoint.pages) {
      if (place === 0 || before?.get(page) !== bytes) own.push(page);
    }
    this.#kept.splice(place, 0, { checkpoint, own });
    this.#held += own.length;
    const tooMuch = () => this.#kept.length > this.#count || this.#held > this.#pages;
    while (tooMuch() && this.#kept.length > 2) this.#drop(this.#leastUseful(exits));
  }

  // The first stays, and the one that was added.
  #leastUseful(now: number): number {
    const at = (index: number) => this.#kept[index]?.checkpoint.exits ?? Infinity;
    let least = 1;
    let smallest = Infinity;
    for (let i = 1; i < this.#kept.length; i++) {
      if (at(i) === now) continue;
      // The last has nobody behind it: it is what is lost when it is furthest away.
      const next = i + 1 < this.#kept.length ? at(i + 1) : 2 * at(i) - at(i - 1);
      const gap = (next - at(i - 1)) / (Math.abs(now - at(i)) + 1);
      if (gap < smallest) [least, smallest] = [i, gap];
    }
    return least;
  }

  #drop(index: number): void {
    const [{ checkpoint, own }] = this.#kept.splice(index, 1);
    const next = this.#kept.at(index);
    for (const page of own) {
      // Who comes next may still have it.
      const same = next?.checkpoint.pages.get(page) === checkpoint.pages.get(page);
      if (next !== undefined && same) next.own.push(page);
      else this.#held--;
    }
  }
}
