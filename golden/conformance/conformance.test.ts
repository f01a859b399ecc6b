/** A driver that breaks every rule wedges no device and ends no VM; docs/virtio.md says what it sees. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { probe } from "../../src/vmm/engine.ts";
import { compilerMissing } from "../guests/build.ts";
import { deviceEngine } from "../guests/devices.ts";
import { buildGuest, runConformance, table } from "./conformance.ts";
import { tableOfPage } from "./table.ts";

setDefaultTimeout(180_000);

const missing =
  compilerMissing() ?? (probe(deviceEngine).available ? undefined : probe(deviceEngine).why);
if (missing !== undefined) console.log(`conformance of virtio devices skipped: ${missing}`);

test.skipIf(missing !== undefined)("drivers that break virtio's rules", async () => {
  const { outcomes, ending } = await runConformance(buildGuest(), deviceEngine);
  const wedged = [...outcomes].flatMap(([device, rules]) =>
    [...rules].filter(([, outcome]) => outcome === "WEDGED").map(([rule]) => `${device}: ${rule}`),
  );
  expect(wedged).toEqual([]);
  expect(ending).toBe("exit 1");
  expect([...outcomes.keys()].toSorted()).toEqual([
    "9p",
    "balloon",
    "blk",
    "console",
    "net",
    "rng",
    "scsi",
    "vsock",
  ]);
  expect(table(outcomes)).toBe(tableOfPage());
});
