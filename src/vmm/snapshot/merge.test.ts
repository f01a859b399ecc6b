/** A chain of snapshots and the one that is made of it hold the same. */
import { expect, test } from "bun:test";
import { GuestMemory } from "../memory.ts";
import { PAGE, RecordType, type Run, SnapshotError } from "./format.ts";
import { mergeSnapshots } from "./merge.ts";
import { SnapshotReader } from "./reader.ts";
import { BytesSource } from "./sources.ts";
import { SnapshotWriter } from "./writer.ts";

const PAGES = 600;
const ranges = [{ base: 0, size: PAGES * PAGE }];

function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

function collect(write: (writer: SnapshotWriter) => void, compress = false): Uint8Array {
  const parts: Uint8Array[] = [];
  write(new SnapshotWriter((bytes) => void parts.push(bytes.slice()), { compress }));
  return Buffer.concat(parts);
}

function finish(writer: SnapshotWriter, what: string): void {
  for (const type of [RecordType.STATE, RecordType.CPU, RecordType.HOST]) {
    writer.bytes(type, new TextEncoder().encode(what));
  }
  writer.end();
}

/** What a snapshot's pages come to, and what it says beside. */
function load(bytes: Uint8Array, memory: Uint8Array): string {
  const reader = new SnapshotReader(new BytesSource(bytes));
  let said = "";
  for (let record = reader.next(); record !== undefined; record = reader.next()) {
    const { head, runs } = record;
    if (head.type === RecordType.PAGES) {
      const data = reader.data(record);
      let at = 0;
      for (const { page, count } of runs) {
        memory.set(data.subarray(at, at + count * PAGE), page * PAGE);
        at += count * PAGE;
      }
    } else if (head.type === RecordType.ZERO) {
      for (const { page, count } of runs) memory.fill(0, page * PAGE, (page + count) * PAGE);
    } else said += `${new TextDecoder().decode(record.payload)} `;
  }
  return said;
}

test("random chains of pages and zeros", () => {
  const next = random(20261128);
  for (let round = 0; round < 20; round++) {
    const memory = GuestMemory.standalone(PAGES * PAGE);
    const chain: Uint8Array[] = [];
    for (let link = 0; link < 1 + next(4); link++) {
      const bytes = collect(
        (writer) => {
          writer.json(RecordType.CONFIG, { link });
          for (let i = 0; i < 5; i++) {
            const run = (): Run => {
              const page = next(PAGES);
              return { page, count: 1 + next(Math.min(40, PAGES - page)) };
            };
            const runs = [run(), run()].sort((a, b) => a.page - b.page);
            for (const { page, count } of runs) {
              const value = 1 + next(255);
              for (let at = 0; at < count; at++) memory.fill((page + at) * PAGE, PAGE, value ^ at);
            }
            writer.memory(memory, runs);
            const zero = run();
            memory.fill(zero.page * PAGE, zero.count * PAGE, 0);
            writer.zeros([zero]);
          }
          finish(writer, `link ${link}`);
        },
        next(2) === 1,
      );
      chain.push(bytes);
    }
    const expected = new Uint8Array(PAGES * PAGE);
    let said = "";
    for (const link of chain) said = load(link, expected);
    const merged = collect((writer) => {
      const config = new TextEncoder().encode("{}");
      mergeSnapshots(chain.length, (i) => new BytesSource(chain[i]), ranges, config, writer);
    });
    const memory2 = new Uint8Array(PAGES * PAGE);
    const saidAfter = load(merged, memory2);
    expect(memory2).toEqual(expected);
    expect(saidAfter).toBe(said.replace(/^\S+ /, "{} "));
    // Each page once.
    const again = new SnapshotReader(new BytesSource(merged));
    let pages = 0;
    for (let record = again.next(); record !== undefined; record = again.next()) {
      pages += record.head.pages;
    }
    expect(pages).toBeLessThanOrEqual(PAGES);
  }
});

test("pages outside the machine are refused", () => {
  const bytes = collect((writer) => {
    writer.json(RecordType.CONFIG, {});
    writer.zeros([{ page: PAGES - 1, count: 2 }]);
    finish(writer, "x");
  });
  const config = new TextEncoder().encode("{}");
  const merge = () =>
    collect((writer) => {
      mergeSnapshots(1, () => new BytesSource(bytes), ranges, config, writer);
    });
  expect(merge).toThrow(SnapshotError);
});
