/**
 * Snapshots, live and differential ones, and copies, of a Linux guest on KVM, in the lab.
 *
 * VMD_LAB_SNAPSHOT_ROUNDS says how often each kind; the default is for every day.
 */
import { expect, test } from "bun:test";
import { labMissing, runInLab } from "../lab/index.ts";
import { linuxAmd64 } from "./guests/index.ts";

const ROUNDS = Number(process.env.VMD_LAB_SNAPSHOT_ROUNDS ?? 1);
const missing = labMissing() ?? linuxAmd64.missing();
if (missing !== undefined) console.log(`snapshots on KVM skipped: ${missing}`);

test.skipIf(missing !== undefined)(
  "Linux on KVM goes on over snapshots of each kind, and in copies",
  async () => {
    const { code, stdout, stderr } = await runInLab(["bun", "golden/lab-snapshots.ts"], {
      timeout: ROUNDS * 400,
      env: { VMD_LAB_SNAPSHOT_ROUNDS: `${ROUNDS}` },
    });
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const { said, problems } = JSON.parse(stdout);
    console.log(said.join("; "));
    expect(problems).toEqual([]);
  },
  200_000 + ROUNDS * 400_000,
);
