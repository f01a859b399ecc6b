/** A Linux guest goes from KVM, in the lab, to the software engine here, and back to KVM. */
import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { labMissing, runInLab } from "../lab/index.ts";
import { Vm } from "../src/index.ts";
import { probe } from "../src/vmm/engine.ts";
import { linuxAmd64 } from "./guests/index.ts";
import { engineGuest, followCounts, type Journey, judge, type Passage } from "./lab-engines.ts";

const unicorn = probe("unicorn");
const missing =
  labMissing() ?? linuxAmd64.missing() ?? (unicorn.available ? undefined : unicorn.why);
if (missing !== undefined) console.log(`from engine to engine skipped: ${missing}`);

async function job(word: string, options: Parameters<typeof runInLab>[1]) {
  const { code, stdout, stderr } = await runInLab(["bun", "golden/lab-engines.ts", word], {
    timeout: 400,
    ...options,
  });
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return JSON.parse(stdout);
}

test.skipIf(missing !== undefined)(
  "a Linux guest goes from KVM to Unicorn and back, and its clock goes right",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "engines-"));
    try {
      // It is made here, where that is quick.
      await engineGuest();
      const { snapshot, last, rest, tscKhz } = (await job("begin", {})) as Passage;
      const path = join(folder, "from-kvm");
      await Bun.write(path, Buffer.from(snapshot, "base64"));
      const vm = await Vm.restore(path, { engine: "unicorn" });
      const { seen, reach, rest: restHere } = followCounts(vm, rest);
      const here = judge(await reach(4, 10), seen.text);
      expect(here).toMatchObject({ wrong: null, gaps: false });
      expect(here.first.count).toBe(last.count + 1);
      expect(here.first.up).toBeGreaterThanOrEqual(last.up);
      // Nothing passed for it meanwhile.
      expect(here.first.up).toBeLessThan(last.up + 20);
      expect(here.rate).toBeWithin(0.9, 1.1);
      const back = join(folder, "from-unicorn");
      await vm.snapshot(back, { compress: true, stop: true });
      await vm.ended;
      const before = (await reach(0, 0)).at(-1)!;
      const files = { snapshot: readFileSync(back), rest: Buffer.from(restHere()) };
      const there = await job("end", { tscKhz, files });
      expect(there).toMatchObject({ wrong: null, gaps: false });
      // What it is taken for as the same by KVM.
      expect(Math.abs(there.tscKhz / tscKhz - 1)).toBeLessThan(250e-6);
      expect(there.first.count).toBe(before.count + 1);
      expect(there.first.up).toBeGreaterThanOrEqual(before.up);
      expect(there.rate).toBeWithin(0.9, 1.1);
      expect(there.refusal).toBe(
        `vm: engine kvm: the guest's TSC counts 1000000 kHz, this host's ${there.tscKhz} kHz, and it can't be scaled`,
      );
      console.log(
        `guest seconds for one of the host's: ${here.rate.toFixed(4)} on unicorn, ${there.rate.toFixed(4)} on KVM`,
      );
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
  1_200_000,
);

test.skipIf(missing !== undefined)(
  "vctl send and vctl receive --engine take a guest from KVM to Unicorn and back",
  async () => {
    const { said, engines, refusal } = (await job("journey", {})) as Journey;
    expect({ said, engines }).toEqual({ said: "ABC", engines: ["kvm", "unicorn", "kvm"] });
    expect(refusal).toMatch(
      /^vctl: vm native was not received: engine unicorn\b[^\n]* [a-z][^\n]+$/,
    );
  },
  600_000,
);
