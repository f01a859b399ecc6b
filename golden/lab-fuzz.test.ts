/** A Linux guest under the fuzzer on the KVM engine, in the lab: it ends like on the software engine. */
import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DNS_QUERY } from "../examples/fuzz/build.ts";
import { Verdict } from "../fuzz/executor.ts";
import { GuestExecutor } from "../fuzz/guest/index.ts";
import { labMissing, runInLab } from "../lab/index.ts";
import { probe } from "../src/vmm/engine.ts";
import { compilerMissing } from "./guests/build.ts";
import { guestFile, missingFiles } from "./guests/guest.ts";
import { buildPortDns, dnsGuest, type Fuzzed } from "./lab-fuzz.ts";

const unicorn = probe("unicorn");
const missing =
  labMissing() ??
  compilerMissing() ??
  missingFiles(guestFile("linux-generic", "vmlinuz")) ??
  (unicorn.available ? undefined : unicorn.why);
if (missing !== undefined) console.log(`fuzzing on KVM skipped: ${missing}`);

/** Where user space ends: 47 bits. */
const USER_END = 1n << 47n;
/** "a." again and again: a pointer to the label before it, until the stack is over. */
const ENDLESS = Uint8Array.from([...DNS_QUERY.subarray(0, 12), 1, 97, 0xc0, 12, 0, 1, 0, 1]);
const INPUTS = [DNS_QUERY, ENDLESS, DNS_QUERY, new Uint8Array(12)];

/** How the inputs end on the software engine, and the blocks of code that they enter. */
async function here(folder: string) {
  const executor = new GuestExecutor(await dnsGuest(folder));
  try {
    const blocks = INPUTS.filter((input) => input !== ENDLESS).flatMap((input) =>
      executor.blocks(input, input.length).map(({ address }) => address),
    );
    const verdicts = INPUTS.map((input) => executor.run(input, input.length));
    return { verdicts, blocks: [...new Set(blocks)] };
  } finally {
    executor.close();
  }
}

const lines = (addresses: readonly bigint[]) => addresses.map((at) => at.toString(16)).join("\n");

test.skipIf(missing !== undefined)(
  "a parser in a Linux guest is fuzzed on KVM",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "lab-fuzz-"));
    try {
      await buildPortDns(folder);
      const { verdicts, blocks } = await here(folder);
      const kernel = blocks.filter((address) => address >= USER_END);
      const { code, stdout, stderr } = await runInLab(["bun", "golden/lab-fuzz.ts"], {
        timeout: 500,
        files: {
          "dns.cpio": readFileSync(join(folder, "dns.cpio")),
          dns: readFileSync(join(folder, "dns")),
          "process-blocks": lines(blocks.filter((address) => address < USER_END)),
          "kernel-blocks": lines(kernel),
          "inputs.json": JSON.stringify(INPUTS.map((input) => Buffer.from(input).toString("hex"))),
        },
      });
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      const { refusal, boot, runs, campaign, fidelity } = JSON.parse(stdout) as Fuzzed;
      expect(refusal).toMatch(/^\/job\/process-blocks: 0x[0-9a-f]+ is code of a process; /);
      expect(runs.map(({ verdict }) => verdict)).toEqual(verdicts);
      expect(runs[1]).toMatchObject({ verdict: Verdict.CRASH, crash: { kind: "hypercall" } });
      // The kernel's blocks, each told of once.
      expect(runs[0].edges).toBeGreaterThan(kernel.length / 2);
      expect(runs[2].edges).toBe(0);
      expect(campaign.failure).toBeUndefined();
      expect(campaign.runs).toBeGreaterThan(20);
      expect(fidelity.checked).toBeGreaterThan(20);
      expect(fidelity.equal).toBe(fidelity.checked);
      console.log(
        `boot ${boot.toFixed()} s, ${campaign.runs} runs in ${campaign.seconds.toFixed()} s, ` +
          `${fidelity.equal} of ${fidelity.checked} resets are equal, ${runs[0].pages} pages`,
      );
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
  1_200_000,
);
