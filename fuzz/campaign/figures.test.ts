import { describe, expect, test } from "bun:test";
import { stripVTControlCharacters } from "node:util";
import { createColors } from "picocolors";
import { type Facts, type Figures, mergeCounts, Meter, NO_COUNTS } from "./figures.ts";
import { PAGE } from "./page.ts";
import { prometheus } from "./prometheus.ts";
import { FiguresServer, History, ServerError } from "./server.ts";
import { figuresLine, figuresScreen, TerminalView } from "./terminal.ts";
import { duration, percent, shortNumber } from "./words.ts";

const FACTS: Facts = { target: "tlv", seed: 7, workers: 2 };

/** A meter with a clock that is set by hand, in seconds. */
function metered(facts: Partial<Facts> = {}) {
  const clock = { now: 0 };
  return { clock, meter: new Meter({ ...FACTS, ...facts }, () => clock.now * 1000) };
}

function figures(values: Partial<Figures> = {}): Figures {
  const { clock, meter } = metered();
  clock.now = 10;
  return { ...meter.figures({ ...NO_COUNTS, runs: 1000 }), ...values };
}

describe("figures", () => {
  test("have the rate of the last seconds, and the mean", () => {
    const { clock, meter } = metered({ runsBefore: 500, secondsBefore: 5 });
    for (clock.now = 1; clock.now <= 20; clock.now++) {
      meter.figures({ ...NO_COUNTS, runs: 100 * clock.now });
    }
    let runs = 2000;
    for (; clock.now <= 40; clock.now++) {
      runs += 300;
      meter.figures({ ...NO_COUNTS, runs });
    }
    const { runsPerSecond, meanRunsPerSecond, totalRuns, totalSeconds, seconds } = meter.figures({
      ...NO_COUNTS,
      runs: runs + 300,
    });
    expect(runsPerSecond).toBeCloseTo(300, 5);
    expect(seconds).toBe(41);
    expect(meanRunsPerSecond).toBeCloseTo(8300 / 41, 5);
    expect([totalRuns, totalSeconds]).toEqual([8800, 46]);
  });

  test("say when something was found last", () => {
    const { clock, meter } = metered();
    expect(meter.figures(NO_COUNTS)).toMatchObject({ sinceFind: null, sinceCrash: null });
    clock.now = 1;
    meter.figures({ ...NO_COUNTS, corpus: 1, edges: 4 });
    clock.now = 3;
    meter.figures({ ...NO_COUNTS, corpus: 1, edges: 4, hangs: 1 });
    clock.now = 7;
    const last = meter.figures({ ...NO_COUNTS, corpus: 1, edges: 4, hangs: 1 });
    expect(last).toMatchObject({ sinceFind: 6, sinceCrash: 4 });
  });

  test("have ratios, once there is something to divide", () => {
    expect(figures()).toMatchObject({ stability: null, fidelity: null });
    const counts = { repeated: 16, repeatedEqual: 12, resetsChecked: 10, resetsEqual: 10 };
    const { meter } = metered();
    expect(meter.figures({ ...NO_COUNTS, ...counts })).toMatchObject({
      ...{ stability: 0.75, fidelity: 1 },
    });
  });

  test("of several workers add up where work does", () => {
    const one = { ...NO_COUNTS, runs: 10, edges: 5, corpus: 3, cycles: 2, repeated: 8, crashes: 1 };
    const other = { ...NO_COUNTS, runs: 20, edges: 4, corpus: 4, cycles: 1, repeated: 8 };
    expect(mergeCounts([one, other])).toEqual({
      ...NO_COUNTS,
      ...{ runs: 30, edges: 5, corpus: 4, cycles: 1, repeated: 16, crashes: 1 },
    });
    expect(mergeCounts([])).toEqual(NO_COUNTS);
  });
});

test("numbers are short", () => {
  const numbers = [0, 7, 0.25, 999, 999.7, 1000, 12_345, 999_960, 3_456_789, 2e9].map(shortNumber);
  expect(numbers).toEqual([
    "0",
    "7",
    "0.3",
    "999",
    "1.00 k",
    "1.00 k",
    "12.3 k",
    "1.00 M",
    "3.46 M",
    "2.00 G",
  ]);
  expect([5, 65, 3720, 100_000].map(duration)).toEqual([
    "5 s",
    "1 min 5 s",
    "1 h 2 min",
    "1 d 3 h",
  ]);
  expect([null, 1, 0.99999, 0.5].map(percent)).toEqual(["–", "100 %", "99.99 %", "50.00 %"]);
});

describe("Prometheus' text", () => {
  test("has a help, a type and a value of each, and nothing that isn't known", () => {
    const text = prometheus(figures({ target: 'a"b\\c', edges: 12 }));
    expect(text).toContain(
      "# HELP vmd_fuzz_edges Edges that any run touched.\n# TYPE vmd_fuzz_edges gauge\n" +
        'vmd_fuzz_edges{target="a\\"b\\\\c"} 12\n',
    );
    expect(text).not.toContain("stability");
    const line =
      /^(# HELP [a-z_:]+ \S.*|# TYPE [a-z_:]+ (counter|gauge)|[a-z_:]+\{target="(\\.|[^"\\])*"\} [\d.e+-]+)$/;
    for (const one of text.trimEnd().split("\n")) expect(one).toMatch(line);
    for (const [, name] of text.matchAll(/# TYPE (\S+) counter/g)) expect(name).toEndWith("_total");
  });
});

describe("on a terminal", () => {
  test("all is there, in lines that fit", () => {
    const lines = figuresScreen(figures({ crashes: 3, engine: "kvm" }), createColors(false), 80);
    expect(lines[0]).toBe("fuzzing tlv on kvm");
    for (const word of [
      "execs/s",
      "edges",
      "corpus",
      "crashes",
      "hangs",
      "stability",
      "fidelity",
      "cycles",
      "last find",
      "workers",
    ]) {
      expect(lines.join("\n")).toContain(word);
    }
    for (const columns of [80, 40]) {
      for (const line of figuresScreen(figures(), createColors(false), columns)) {
        expect(line.length).toBeLessThanOrEqual(columns);
      }
    }
  });

  test("it is drawn over itself", () => {
    let written = "";
    const output = { isTTY: true, columns: 80, write: (text: string) => (written += text) };
    const view = new TerminalView(output);
    view.show(figures());
    expect(written).not.toContain("A\r");
    const height = written.split("\n").length - 1;
    written = "";
    view.show(figures());
    expect(written).toStartWith(`\x1b[${height}A`);
    expect(stripVTControlCharacters(written)).toContain("fuzzing tlv");
  });

  test("that is none, there is a line every few seconds", () => {
    let written = "";
    let now = 0;
    const view = new TerminalView({ write: (text: string) => (written += text) }, () => now);
    for (; now <= 11_000; now += 1000) view.show(figures());
    expect(written.trimEnd().split("\n").length).toBe(3);
    view.end(figures());
    expect(written.trimEnd().split("\n").length).toBe(4);
    expect(written).toStartWith(`${figuresLine(figures())}\n`);
    expect(written).not.toContain("\x1b");
  });
});

test("the page draws what it is told", () => {
  const script = /<script>([^]*)<\/script>/.exec(PAGE)![1];
  // As much of a document as the page uses.
  const elements = new Map<string, Record<string, string>>();
  const byId = (id: string) => {
    expect(PAGE).toContain(`id="${id}"`);
    const found = elements.get(id) ?? {};
    elements.set(id, found);
    const setAttribute = (name: string, value: string) => (found[name] = value);
    return Object.assign(found, { querySelector: () => ({ setAttribute }) });
  };
  const source: { onmessage?: (event: { data: string }) => void } = {};
  const document = { getElementById: byId, title: "" };
  function EventSource(url: string) {
    expect(url).toBe("events");
    return source;
  }
  // oxlint-disable-next-line typescript/no-implied-eval
  new Function("document", "EventSource", script)(document, EventSource);
  const history = [
    { seconds: 0, edges: 0, runsPerSecond: 0, corpus: 0 },
    { seconds: 10, edges: 40, runsPerSecond: 2000, corpus: 3 },
  ];
  const shown = figures({ crashes: 1, edges: 40, stability: 0.9999 });
  source.onmessage!({ data: JSON.stringify({ figures: shown, history }) });
  const text = (id: string) => String(elements.get(id)!.textContent);
  expect(document.title).toBe("tlv – fuzzing");
  expect([text("edges"), text("stability"), text("fidelity")]).toEqual(["40", "99.99 %", "–"]);
  expect(elements.get("crashes")!.className).toBe("bad");
  expect(elements.get("coverage")!.points).toBe("0.0,195.0 1000.0,5.0");
  expect(text("speed-most")).toBe("2.0 k");
});

test("a history keeps its beginning and its end, in few points", () => {
  const history = new History();
  for (let seconds = 0; seconds < 10_000; seconds++) history.add(figures({ seconds }));
  expect(history.points.length).toBeLessThanOrEqual(512);
  expect(history.points.length).toBeGreaterThan(200);
  expect(history.points[0].seconds).toBe(0);
  expect(history.points.at(-1)!.seconds).toBeGreaterThan(9900);
  const times = history.points.map(({ seconds }) => seconds);
  expect(times).toEqual([...times].sort((a, b) => a - b));
});

describe("by HTTP", () => {
  test("there are a page, figures, metrics and events", async () => {
    const server = new FiguresServer(0);
    try {
      expect(new URL(server.url).hostname).toBe("127.0.0.1");
      const get = (path: string, init?: RequestInit) => fetch(new URL(path, server.url), init);
      expect((await get("metrics")).status).toBe(503);
      server.show(figures({ edges: 1 }));
      const page = await (await get("/")).text();
      expect(page).toContain("<svg");
      // Nothing of it comes from elsewhere.
      expect(page).not.toMatch(/(?:src|href)="(?!data:)|https?:|@import|url\(/);
      expect(await (await get("figures")).json()).toMatchObject({ target: "tlv", edges: 1 });
      expect(await (await get("metrics")).text()).toContain('vmd_fuzz_edges{target="tlv"} 1');
      expect((await get("nothing")).status).toBe(404);
      expect((await get("/", { method: "POST" })).status).toBe(405);

      const events = await get("events");
      expect(events.headers.get("content-type")).toBe("text/event-stream");
      const reader = events.body!.getReader();
      const next = async () => new TextDecoder().decode((await reader.read()).value);
      expect(JSON.parse((await next()).slice(6))).toMatchObject({ figures: { edges: 1 } });
      server.show(figures({ edges: 2, seconds: 20 }));
      const second = JSON.parse((await next()).slice(6));
      expect(second.history.map(({ edges }: { edges: number }) => edges)).toEqual([1, 2]);
      await reader.cancel();
      server.show(figures());
    } finally {
      await server.close();
    }
  });

  test("a place that is taken is told", async () => {
    const server = new FiguresServer(0);
    try {
      expect(() => new FiguresServer(Number(new URL(server.url).port))).toThrow(ServerError);
    } finally {
      await server.close();
    }
  });
});
