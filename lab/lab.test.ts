import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { labMissing, runInLab } from "./index.ts";

setDefaultTimeout(240_000);
const missing = labMissing();
if (missing) console.log(`skipped: ${missing}`);

describe.skipIf(missing !== undefined)("the lab", () => {
  test("has a KVM that speaks version 12, on an AMD CPU with SVM", async () => {
    const program = `
      import { dlopen } from "bun:ffi";
      import { openSync, readFileSync } from "node:fs";
      const libc = dlopen("libc.so.6", { ioctl: { args: ["int", "u64", "u64"], returns: "int" } });
      const KVM_GET_API_VERSION = 0xae00;
      const cpu = readFileSync("/proc/cpuinfo", "utf8");
      console.log(libc.symbols.ioctl(openSync("/dev/kvm", "r+"), KVM_GET_API_VERSION, 0));
      console.log(/vendor_id\\s*: (\\w+)/.exec(cpu)[1], / svm /.test(cpu), / npt /.test(cpu));
      console.log(readFileSync("/sys/module/kvm_amd/parameters/npt", "utf8").trim());
    `;
    const { code, stdout, stderr } = await runInLab(["bun", "-e", program]);
    expect(stderr).toBe("");
    expect(stdout).toBe("12\nAuthenticAMD true true\nY\n");
    expect(code).toBe(0);
  });

  test("gives a job's output exactly, each stream for itself", async () => {
    const script = "seq 100000; echo \"it's\" wrong >&2; printf 'no newline'";
    let live = "";
    const { code, stdout, stderr } = await runInLab(["sh", "-c", script], {
      onStdout: (data) => (live += new TextDecoder().decode(data)),
    });
    const numbers = Array.from({ length: 100000 }, (_, index) => `${index + 1}\n`).join("");
    expect(stdout === `${numbers}no newline`).toBe(true);
    expect(live === stdout).toBe(true);
    expect(stderr).toBe("it's wrong\n");
    expect(code).toBe(0);
  });

  test("gives a job its files, its environment and the project, and takes its exit status", async () => {
    const script =
      'pwd; cat /job/a/file; echo "$GREETING"; ls -d node_modules/fast-check src/vmm; exit 200';
    const { code, stdout } = await runInLab(["sh", "-c", script], {
      files: { "a/file": "content\n" },
      env: { GREETING: "hello  'there'" },
    });
    expect(stdout).toBe("/vmd\ncontent\nhello  'there'\nnode_modules/fast-check\nsrc/vmm\n");
    expect(code).toBe(200);
  });

  test("doesn't wait for what a job leaves behind, and tells of its signal", async () => {
    const { code, seconds, ready } = await runInLab(["sh", "-c", "sleep 1000 & kill -9 $$"]);
    expect(code).toBe(128 + 9);
    expect(seconds - ready).toBeLessThan(60);
  });

  test("ends a job that takes too long, and doesn't repeat it", async () => {
    const job = runInLab(["sh", "-c", "echo begun; sleep 1000"], { timeout: 2 });
    await expect(job).rejects.toThrow("lab: the job took more than 2 s");
  });
});
