/** The sandbox, a reset, vmd and vctl with the KVM engine on a true KVM, in the lab. */
import { expect, test } from "bun:test";
import { labMissing, runInLab } from "../lab/index.ts";
import { linuxAmd64Vmlinux } from "./guests/index.ts";

const missing = labMissing() ?? linuxAmd64Vmlinux.missing();
if (missing !== undefined) console.log(`skipped: ${missing}`);

test.skipIf(missing !== undefined)(
  "a confined VM on KVM survives a reset, and vmd runs one",
  async () => {
    await linuxAmd64Vmlinux.kernel();
    await linuxAmd64Vmlinux.initrd!();
    const { code, stdout, stderr } = await runInLab(["bun", "golden/lab-vmd.ts"], { timeout: 280 });
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(JSON.parse(stdout)).toEqual({
      library: { unconfined: "", events: ["rebooted"], counted: true },
      daemon: {
        started: 0,
        printed: true,
        state: "running",
        engine: "kvm",
        stopped: 0,
        warnings: [],
      },
    });
  },
  600_000,
);
