import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Verdict } from "../executor.ts";
import { Campaign, type CampaignOptions } from "./campaign.ts";
import type { Entry } from "./corpus.ts";
import type { Crash } from "./crash.ts";
import { Decoder } from "./decoder.ts";
import { IdleExecutor, tlv, TlvExecutor } from "./testing.ts";

const SEED = 20261130;

/** A campaign with all that it found, in the order in which it did. */
function found(options: Partial<CampaignOptions> & { readonly runs?: number } = {}) {
  const { runs = 60_000, ...rest } = options;
  const entries: Entry[] = [];
  const crashes: Crash[] = [];
  const campaign = new Campaign({
    executor: new TlvExecutor(),
    finds: {
      kept: (entry) => void entries.push(entry),
      minimised: (crash) => void crashes.push(crash),
    },
    ...rest,
  });
  campaign.advance(runs);
  return { campaign, entries, crashes };
}

const summary = ({ campaign, entries, crashes }: ReturnType<typeof found>) => ({
  counts: campaign.counts(),
  entries: entries.map(({ name, parent, depth }) => [name, parent, depth]),
  crashes: crashes.map(({ key, run, minimised }) => [key, run, minimised?.toHex()]),
});

describe("a campaign", () => {
  test("finds the bug behind four magic values by what was compared", () => {
    for (let seed = 1; seed <= 5; seed++) {
      const { crashes } = found({ seed, runs: 150_000 });
      const crash = crashes.find(({ report }) => report.kind === "panic");
      expect(crash?.minimised?.toHex()).toBe("0614bebafeca133770617373776f7264210102030400");
    }
  });

  test("doesn't find it without", () => {
    const { crashes } = found({ executor: new TlvExecutor({ withoutCompares: true }) });
    expect(crashes.map(({ report }) => report.kind)).not.toContain("panic");
  });

  test("finds where in many equal bytes a compared one comes from", () => {
    const magic = Uint8Array.of(0xbe, 0xba, 0xfe, 0xca);
    /** Compares four bytes far behind the input's beginning. */
    class Far extends IdleExecutor {
      override readonly maxInput = 512;
      override run(input: Uint8Array, length: number): Verdict {
        this.runs++;
        const here = input.subarray(400, Math.min(404, length));
        return magic.every((byte, i) => byte === here[i]) ? Verdict.CRASH : Verdict.DONE;
      }
      compares(input: Uint8Array) {
        return [{ at: 1, size: 4, left: input.slice(400, 404), right: magic }];
      }
    }
    const { crashes } = found({ executor: new Far(), seeds: [new Uint8Array(512)], runs: 500 });
    expect(crashes.length).toBe(1);
  });

  test("finds a page fault, and makes it small", () => {
    const { crashes } = found();
    const crash = crashes.find(({ report }) => report.kind === "page fault")!;
    expect(crash.report.stack).toEqual(["table+0x8", "records+0x44"]);
    expect(crash.minimised!.toHex()).toBe("0503c10000");
  });

  test("can be stopped while it makes a crash small, and is the same in the end", () => {
    const whole = found();
    const other = found({ runs: 0 });
    const { campaign } = other;
    let amid = 0;
    for (let until = campaign.runs; campaign.runs < 60_000;) {
      until = Math.min(60_000, until + 100);
      campaign.step(until);
      // What is kept is run again and trimmed at once.
      expect(campaign.runs).toBeLessThan(until + 300);
      if (!campaign.finish(0)) amid++;
    }
    campaign.finish();
    expect(summary(other)).toEqual(summary(whole));
    expect(amid).toBeGreaterThan(3);
  });

  test("tells a hang from a crash, once", () => {
    const { campaign, crashes } = found({ seeds: [tlv([4, [0x5b]])], runs: 200_000 });
    const hangs = crashes.filter(({ verdict }) => verdict === Verdict.TIMEOUT);
    expect(hangs.map(({ minimised }) => minimised!.toHex())).toEqual(["04015a"]);
    expect(campaign.counts()).toMatchObject({ hangs: 1, crashes: 2 });
    expect(campaign.counts().hangingRuns).toBeGreaterThan(1);
  });

  test("is the same run for the same seed, in pieces or at once", () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: 1, max: 5000 }), (seed, piece) => {
        const whole = found({ seed, runs: 12_000 });
        const other = found({ seed, runs: 0 });
        while (other.campaign.runs < whole.campaign.runs) {
          // Whoever looks at it changes nothing.
          other.campaign.counts();
          other.campaign.advance(Math.min(whole.campaign.runs, other.campaign.runs + piece));
        }
        expect(summary(other)).toEqual(summary(whole));
      }),
      { seed: SEED, numRuns: 10 },
    );
    expect(summary(found({ seed: 1 }))).not.toEqual(summary(found({ seed: 2 })));
  });

  test("keeps only what shows something new, each once", () => {
    const { campaign, entries } = found();
    expect(new Set(entries.map(({ name }) => name)).size).toBe(entries.length);
    expect(campaign.counts().corpus).toBe(entries.length);
    // A new executor sees no less in the corpus than the campaign's did.
    const again = new TlvExecutor();
    const replayed = new Campaign({ executor: again, seeds: entries.map(({ input }) => input) });
    replayed.begin();
    expect(replayed.counts().edges).toBe(campaign.counts().edges);
  });

  test("begins in pieces or at once", () => {
    const seeds = found().entries.map(({ input }) => input);
    const whole = found({ seeds, runs: 20_000 });
    const campaign = new Campaign({ executor: new TlvExecutor(), seeds });
    let pieces = 0;
    while (!campaign.begin(campaign.runs + 10)) pieces++;
    expect(pieces).toBeGreaterThan(10);
    campaign.advance(20_000);
    expect(campaign.counts()).toEqual(whole.campaign.counts());
  });

  test("trims what it keeps", () => {
    const records = (count: number) =>
      Uint8Array.from({ length: 2 * count }, (_, i) => (i + 1) & 1);
    const { entries } = found({ seeds: [records(7)], runs: 0 });
    // Four to seven times are the same to the map.
    expect(entries[0].input).toEqual(records(4));
  });

  test("measures how stable runs are", () => {
    expect(found({ runs: 10_000 }).campaign.counts()).toMatchObject({
      repeated: expect.any(Number),
    });
    const stable = found({ runs: 10_000 }).campaign.counts();
    expect(stable.repeatedEqual).toBe(stable.repeated);
    const unstable = found({ runs: 10_000, executor: new TlvExecutor({ unstable: true }) });
    const counts = unstable.campaign.counts();
    expect(counts.repeatedEqual / counts.repeated).toBeCloseTo(0.5, 1);
    expect(unstable.entries.every(({ stable }) => !stable)).toBe(true);
  });

  test("counts all runs", () => {
    const executor = new TlvExecutor();
    const { campaign } = found({ executor });
    expect(campaign.runs).toBe(executor.runs);
  });

  test("takes inputs from elsewhere if they show something new", () => {
    const { campaign } = found({ runs: 0 });
    const input = tlv([3, [0xff]]);
    expect(campaign.offer(input)).toBe(true);
    expect(campaign.offer(input)).toBe(false);
    expect(campaign.offer(new Uint8Array(500))).toBe(true);
    for (const entry of campaign.corpus.entries) expect(entry.input.length).toBeLessThan(65);
  });

  test("works on no crash that is known", () => {
    const first = found();
    const crash = first.crashes.find(({ report }) => report.kind === "page fault")!;
    const second = found({ runs: 0 });
    second.campaign.knows(crash.key, false);
    second.campaign.advance(60_000);
    expect(second.crashes.map(({ key }) => key)).not.toContain(crash.key);
    expect(second.campaign.counts().crashingRuns).toBeGreaterThan(0);
  });

  test("stops with the executor's reason when that can't go on", () => {
    const { campaign } = found({ executor: new TlvExecutor({ failsAfter: 5000 }) });
    expect(campaign.failure).toBe("the parser's machine is gone.");
    expect(campaign.runs).toBe(5001);
    campaign.advance(10_000);
    expect(campaign.runs).toBe(5001);
  });

  test("has something to mutate where nothing is to be seen, or all crashes", () => {
    const executor = new IdleExecutor();
    const { campaign } = found({ executor, runs: 1000 });
    expect(campaign.runs).toBe(1000);
    const crashing = Object.assign(new IdleExecutor(), { run: () => Verdict.CRASH });
    const { crashes, campaign: other } = found({ executor: crashing, runs: 6000 });
    expect(crashes.length).toBe(1);
    expect(other.runs).toBe(6000);
  });

  test("finds a bug in structured values by an arbitrary", () => {
    const decoder = new Decoder(
      fc.array(fc.record({ address: fc.nat(0xffff), length: fc.nat(0xffff) }), { maxLength: 8 }),
    );
    class Structured extends TlvExecutor {
      override run(input: Uint8Array, length: number): Verdict {
        const ring = decoder.decode(input, length);
        const flat = ring.map(({ address, length }): [number, number[]] => [
          address & 7,
          [length >> 8, length & 255, 0],
        ]);
        const bytes = tlv(...flat);
        return super.run(bytes, bytes.length);
      }
    }
    const { crashes } = found({ executor: new Structured(), unit: 4, runs: 100_000 });
    const crash = crashes.find(({ report }) => report.kind === "page fault");
    expect(crash).toBeDefined();
    expect(decoder.decode(crash!.minimised!).some(({ length }) => length > 0xc000)).toBe(true);
  });
});
