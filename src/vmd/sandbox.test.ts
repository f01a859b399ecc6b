/** What a confined process can't do, seen from inside it and from outside. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../vmm/root.ts";
import { openBootFiles } from "./boot-files.ts";
import { ownConfinement } from "./confinement.ts";
import { ATTEMPTS, type Attempt } from "./sandbox-probe.ts";
import { expectConfined, REFUSED } from "./sandbox-testing.ts";
import type { Confinement } from "./vm-messages.ts";
import { VmHost } from "./vm-host.ts";
import { checkVmOptions } from "./vm-options.ts";

setDefaultTimeout(60_000);

let folder = "";
let kernel = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "sandbox-"));
  chmodSync(folder, 0o755);
  kernel = join(folder, "spin");
  // Spins.
  const bytes = new Uint8Array(4096).fill(0xf4);
  bytes.set([0xeb, 0xfe]);
  bytes.set([0xe9, 0x0d, 0xf0], 0xff0);
  writeFileSync(kernel, bytes);
  process.env.VMD_PROBE = "yes";
});

afterAll(() => {
  delete process.env.VMD_PROBE;
  rmSync(folder, { recursive: true, force: true });
});

function start(confine: Confinement | undefined): VmHost {
  const options = checkVmOptions({ name: "probe", kernel, memory: "1M", engine: "unicorn" });
  return new VmHost({ options, files: openBootFiles(options), confine });
}

/** What came of an attempt: an errno name, or the signal that ended the process. */
async function attempt(what: Attempt): Promise<string> {
  const host = start(ownConfinement());
  await host.running;
  try {
    return (await host.ask({ kind: "probe", what }, "probe")).result;
  } catch (error) {
    return /with (\w+)/.exec((error as Error).message)?.[1] ?? String(error);
  } finally {
    host.kill();
    await host.ended;
  }
}

describe("from inside a VM process", () => {
  test.each([...ATTEMPTS])("%s is refused", async (what) => {
    expect(await attempt(what)).toBe(REFUSED[what]);
  });

  test("without the sandbox a file can be opened, so the probe can tell", async () => {
    const host = start(undefined);
    const { unconfined } = await host.running;
    expect(unconfined).toStartWith("no sandbox: ");
    expect((await host.ask({ kind: "probe", what: "open" }, "probe")).result).toBe("done");
    host.stop();
    await host.ended;
  });
});

test("every thread is confined, and the process is nobody in namespaces of its own", async () => {
  const host = start(ownConfinement());
  const { unconfined } = await host.running;
  expect(unconfined).toBe("");
  const { pid } = host;
  expectConfined(pid);
  expect(readFileSync(`/proc/${pid}/limits`, "utf8")).toMatch(/^Max core file size +0 +0 /m);
  host.stop();
  await host.ended;
});

test("JavaScript goes on inside: compiler, garbage, timers, promises, a new thread of the runtime", async () => {
  const script = join(folder, "inside.ts");
  writeFileSync(
    script,
    `import { enterSandbox } from ${JSON.stringify(join(root, "src/vmd/sandbox.ts"))};
     const { threads, landlock } = enterSandbox({ profile: "kvm" });
     let sum = 0;
     for (let round = 0; round < 20; round++) {
       const objects = Array.from({ length: 100000 }, (_, i) => ({ i, text: "x" + i }));
       for (let i = 0; i < 3e6; i++) sum += (i * round) % 7;
       sum += objects.length;
     }
     Bun.gc(true);
     await new Promise((resolve) => setTimeout(resolve, 20));
     console.log(threads > 2, landlock >= 0, new TextDecoder().decode(new Uint8Array([111, 107])), sum > 0);`,
  );
  for (let i = 0; i < 5; i++) {
    const child = Bun.spawnSync([process.execPath, script], { timeout: 30_000 });
    expect(child.stderr.toString()).toBe("");
    expect(child.stdout.toString()).toBe("true true ok true\n");
    expect(child.exitCode).toBe(0);
  }
});

// What the guest takes from its tap is told when its driver starts. ENOTTY: the kernel was asked.
test.each([
  ["kvm", "ENOTTY"],
  ["unicorn", "ENOTTY"],
  ["control", "EPERM"],
] as const)("a tap's offloads from a process of profile %s: %s", (profile, expected) => {
  const script = join(folder, "offloads.ts");
  writeFileSync(
    script,
    `import { openSync } from "node:fs";
     import { netLibrary } from ${JSON.stringify(join(root, "src/vmm/native.ts"))};
     import { enterSandbox } from ${JSON.stringify(join(root, "src/vmd/sandbox.ts"))};
     const descriptor = openSync("/dev/null", "r+");
     const library = netLibrary();
     enterSandbox({ profile: ${JSON.stringify(profile)} });
     console.log(-library.vmm_tap_offload(descriptor, 7));`,
  );
  const child = Bun.spawnSync([process.execPath, script], { timeout: 30_000 });
  expect(child.stderr.toString()).toBe("");
  expect(Number(child.stdout)).toBe(constants.errno[expected]);
});

test("who can't become somebody else says so", () => {
  const script = join(folder, "user.ts");
  writeFileSync(
    script,
    `import { enterSandbox } from ${JSON.stringify(join(root, "src/vmd/sandbox.ts"))};
     try { enterSandbox({ profile: "kvm", uid: 12345, gid: 12345 }); console.log("done"); }
     catch (error) { console.log(error.name, error.message); }`,
  );
  const command = [process.execPath, script];
  const as = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];
  const child = Bun.spawnSync(process.geteuid!() === 0 ? [...as, ...command] : command);
  expect(child.stdout.toString()).toBe(
    "SandboxError sandbox: group 12345: Operation not permitted\n",
  );
});
