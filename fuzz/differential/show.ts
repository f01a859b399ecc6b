/** One case for people. */
import { SEGMENTS } from "../../src/vmm/cpu-codec.ts";
import type { EngineName } from "../../src/vmm/engine.ts";
import { type Case, GENERAL, segmentAt, STATE } from "./case.ts";
import { causeOf } from "./causes.ts";
import { differences, endingText } from "./compare.ts";
import { decode, textOf } from "./decode.ts";
import { explain } from "./explain.ts";
import { Generator } from "./generate.ts";
import { bitness, type Mode } from "./layout.ts";
import { Target } from "./target.ts";

export function showCase(
  engines: readonly [EngineName, EngineName],
  seed: number,
  modes: readonly Mode[],
  index: number,
): string {
  const it = new Generator(seed, modes).make(index);
  const lines = [
    `case ${index} of seed ${seed}: ${it.mode}, ring ${it.cpl}${it.deep ? ", deep" : ""}`,
    ...registers(it),
    ...instructions(it),
  ];
  using a = new Target(engines[0]);
  using b = new Target(engines[1]);
  a.run(it);
  b.run(it);
  lines.push(`${engines[0]}: ${endingText(a)}`, `${engines[1]}: ${endingText(b)}`);
  const all = differences(a, b, it);
  for (const one of all) lines.push(`  ${one.what}: ${one.a}, ${one.b}`);
  const found = explain(a, b, it, engines, all);
  if (found === undefined) lines.push("nothing differs but what is undefined");
  else if ("explanation" in found) lines.push(`${found.name}: ${found.explanation}`);
  else {
    const cause = causeOf(found);
    lines.push(`it is of: ${found.text || found.mnemonic}`);
    lines.push(cause ? `${cause.name} (${cause.by}): ${cause.explanation}` : "unexplained");
  }
  return lines.join("\n");
}

function registers({ state }: Case): string[] {
  const view = new DataView(state.buffer, state.byteOffset, state.byteLength);
  const word = (at: number) => view.getBigUint64(at, true).toString(16).padStart(16, "0");
  const lines: string[] = [];
  const all = [...GENERAL, "rip", "rflags"].map((name, i) => `${name.padEnd(6)} ${word(i * 8)}`);
  for (let i = 0; i < all.length; i += 3) lines.push(all.slice(i, i + 3).join("  "));
  for (const name of SEGMENTS) {
    const at = segmentAt(name);
    const selector = view
      .getUint16(at + 12, true)
      .toString(16)
      .padStart(4, "0");
    const limit = view.getUint32(at + 8, true).toString(16);
    lines.push(
      `${name} ${selector} base ${word(at)} limit ${limit} type ${view.getUint8(at + 14)}`,
    );
  }
  const control = ["cr0", "cr3", "cr4", "efer"] as const;
  lines.push(control.map((name) => `${name} ${word(STATE[name])}`).join("  "));
  return lines;
}

function instructions(it: Case): string[] {
  let from = 0;
  const bits = bitness(it.mode);
  return decode(it.code, bits, it.at).map(({ end, bytes }) => {
    const at = it.at + from;
    from = end;
    return `  ${at.toString(16)}  ${bytes.toHex().padEnd(24)} ${textOf(bytes, bits, at)}`;
  });
}
