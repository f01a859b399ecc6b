/** Linux on every device, and a guest that breaks virtio's rules, on the KVM engine, in the lab. */
import { readFileSync } from "node:fs";
import { expect, test } from "bun:test";
import { labMissing, runInLab } from "../lab/index.ts";
import { buildGuest } from "./conformance/conformance.ts";
import { compilerMissing } from "./guests/build.ts";
import { vsockProgram } from "./guests/devices.ts";
import { guestFile, missingFiles } from "./guests/guest.ts";

const missing =
  labMissing() ??
  compilerMissing() ??
  missingFiles(
    guestFile("linux-amd64", "modules/bridge.ko"),
    guestFile("linux-generic", "vmlinuz"),
  );
if (missing !== undefined) console.log(`skipped: ${missing}`);
const networks = ["ip", "nft", "unshare", "nsenter", "setpriv"].filter((name) => !Bun.which(name));
if (networks.length > 0) console.log(`networks on KVM skipped: there is no ${networks[0]}`);
for (const name of ["iperf3", "passt"])
  if (Bun.which(name) === null) console.log(`networks on KVM without ${name}: it is not installed`);

/** In the lab an IGNORE is that many looks, each an exit: half a second. */
const PATIENCE = 5000;

interface Job {
  /** Tests by their names. */
  only: RegExp;
  /** How many there are. */
  count: number;
}

const passt = Bun.which("passt") === null ? 0 : 1;
/** Two hosts, one for each of two processors: an emulated host uses no more. */
const JOBS: Record<string, Job> = {
  "golden/conformance golden/devices/shares.test.ts golden/devices/vsock.test.ts": {
    only: /break virtio|to write and one to read|sockets/,
    count: 3,
  },
  "golden/devices/disks.test.ts golden/devices/others.test.ts golden/devices/networks.test.ts": {
    only:
      networks.length > 0
        ? /CD-ROM|four disks|i386/
        : /CD-ROM|four disks|i386|on a switch|interface/,
    count: networks.length > 0 ? 3 : 6 + passt,
  },
};

async function run(files: string, { only, count }: Job) {
  const { code, stdout, stderr } = await runInLab(
    // Once more what fails: see golden/small/lab.test.ts.
    ["bun", "test", "--retry=1", "-t", only.source, ...files.split(" ")],
    {
      networks: true,
      files: {
        "small/conformance": readFileSync(buildGuest(PATIENCE)),
        "small/vsock": readFileSync(vsockProgram()),
      },
      env: { VMD_SMALL_GUESTS: "/job/small" },
      timeout: 900,
    },
  );
  const failures = `${stdout}\n${stderr}`.split("\n").filter((line) => !line.startsWith("(pass)"));
  expect({ code, failures: code === 0 ? [] : failures }).toEqual({ code: 0, failures: [] });
  expect(stderr.match(/^\(pass\)/gm)).toHaveLength(count);
}

test.skipIf(missing !== undefined)(
  "Linux has every device on KVM, and drivers that break virtio's rules harm none",
  async () => {
    await Promise.all(Object.entries(JOBS).map(([files, job]) => run(files, job)));
  },
  1_200_000,
);
