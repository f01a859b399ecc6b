/** Linux with every device, and the guest that breaks virtio's rules, on the KVM engine of a true KVM, in the lab. */
import { readFileSync } from "node:fs";
import { expect, test } from "bun:test";
import { labMissing, runInLab } from "../lab/index.ts";
import { buildGuest } from "./conformance/conformance.ts";
import { compilerMissing } from "./guests/build.ts";
import { vsockProgram } from "./guests/devices.ts";

const inLab = process.env.VMD_LAB !== undefined;
const missing = inLab ? "this is the lab" : (labMissing() ?? compilerMissing());
if (missing !== undefined && !inLab) console.log(`skipped: ${missing}`);

/** What a job runs, and the tests that have to pass there. */
const JOBS: Record<string, string[]> = {
  "golden/devices/disks.test.ts": [],
};

for (const [path] of Object.entries(JOBS)) {
  test.skipIf(missing !== undefined)(
    `${path} on KVM`,
    async () => {
      const { code, stdout, stderr } = await runInLab(["bun", "test", "--retry=1", path], {
        networks: true,
        files: {
          "small/conformance": readFileSync(buildGuest()),
          "small/vsock": readFileSync(vsockProgram()),
        },
        env: { VMD_SMALL_GUESTS: "/job/small" },
        timeout: 280,
      });
      console.log(stdout, stderr);
      expect(code).toBe(0);
    },
    600_000,
  );
}
