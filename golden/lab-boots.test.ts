/**
 * Golden boots on a true KVM, in the lab. Time is real there, so lines that kernel threads print
 * beside the boot may come anywhere: the log's lines are compared as a sorted list.
 */
import { expect, test } from "bun:test";
import { labMissing, runInLab } from "../lab/index.ts";
import { packageVersion } from "./boot.ts";
import { compareLog, steadyLines } from "./compare.ts";
import { labGuests } from "./lab-boots.ts";
import { normalise } from "./normalise.ts";

const missing = [labMissing(), ...Object.values(labGuests).map(([guest]) => guest.missing())];
const lab = missing[0];
const names = Object.keys(labGuests).filter((_, index) => missing[index + 1] === undefined);
for (const reason of missing) if (reason !== undefined) console.log(`skipped: ${reason}`);

test.skipIf(lab !== undefined || names.length === 0)(
  "Linux amd64, Linux i386 and OpenBSD i386 boot on the KVM engine to userspace",
  async () => {
    // Kernels that are made of other files are made here, where those are.
    for (const name of names) await labGuests[name][0].kernel();
    const command = `cd /vmd && exec bun golden/lab-boots.ts ${names.join(" ")}`;
    const { code, stdout, stderr } = await runInLab(["sh", "-c", command], { timeout: 280 });
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const results = JSON.parse(stdout) as Record<string, { log?: string; error?: string }>;
    for (const name of names) {
      expect(results[name].error).toBeUndefined();
      const lines = steadyLines(normalise(results[name].log ?? "")).sort();
      const version = packageVersion(labGuests[name][0]);
      compareLog(import.meta.path, name, version, lines.join("\n"));
    }
  },
  600_000,
);
