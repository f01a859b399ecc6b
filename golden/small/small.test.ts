/**
 * Our own small guests on every engine that this host has: each must pass its own checks, print and
 * exit as its snapshot says, and do so on every engine alike.
 *
 * A KVM that can't run a stock kernel (src/vmm/select.ts) runs those guests that are made for it.
 */
import { expect, test } from "bun:test";
import { ENGINES, type EngineName, probe } from "../../src/vmm/engine.ts";
import { whyNotKvm } from "../../src/vmm/select.ts";
import { type SmallGuest, type SmallResult, SMALL_GUESTS, runSmall } from "./harness.ts";

const inLab = process.env.VMD_LAB !== undefined;
// The lab is for KVM: it makes software engines slow, and shows nothing new of them.
const available = ENGINES.filter((name) => probe(name).available && !(inLab && name !== "kvm"));
const weak = available.includes("kvm") ? whyNotKvm() : undefined;
for (const engine of ENGINES) {
  const { available: there, why } = probe(engine);
  if (!there) console.log(`small guests: not on ${engine}: ${why}`);
}
if (weak !== undefined) {
  const left = SMALL_GUESTS.filter((guest) => !guest.emulated).map((guest) => guest.name);
  console.log(`small guests: on kvm without ${left.join(", ")}, since ${weak}`);
}

const enginesFor = (guest: SmallGuest): EngineName[] =>
  available.filter(
    (engine) =>
      engine !== "kvm" || (weak === undefined ? !(inLab && guest.notInLab) : guest.emulated),
  );

function text(guest: SmallGuest, { console, trace, ending }: SmallResult): string {
  const exits = guest.sameExits ? trace : ["(how engines split an access is their affair)"];
  return [...console.trimEnd().split("\n"), "", ending, "", ...exits].join("\n");
}

for (const guest of SMALL_GUESTS) {
  const engines = enginesFor(guest);
  test.skipIf(engines.length === 0)(
    `${guest.name}`,
    () => {
      const texts = engines.map((engine) => {
        const result = runSmall(guest, engine);
        const failed = result.console.split("\n").filter((line) => line.includes("FAILED"));
        const { ending } = result;
        expect({ engine, ending, failed }).toEqual({
          engine,
          ending: guest.ending ?? "exit 0",
          failed: [],
        });
        return text(guest, result);
      });
      expect(texts[0]).toMatchSnapshot();
      for (let i = 1; i < texts.length; i++) {
        expect(`${engines[i]}:\n${texts[i]}`).toBe(`${engines[i]}:\n${texts[0]}`);
      }
    },
    60_000,
  );
}
