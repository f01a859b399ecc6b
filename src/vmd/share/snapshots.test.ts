/** A guest that has a share mounted: every way to a snapshot of it is refused before it stands still. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { guestFile, missingFiles } from "../../../golden/guests/guest.ts";
import { initramfsFile, prepare } from "../../../golden/guests/initramfs.ts";
import { TestDaemon, until } from "../daemon/testing.ts";
import { followVm } from "../migration/testing.ts";

setDefaultTimeout(240_000);
const kernel = guestFile("linux-generic", "vmlinuz");
const MODULES = [
  ...["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"],
  ...["netfs", "fscache", "9pnet", "9pnet_virtio", "9p"],
].map((name) => [name, guestFile("linux-generic", join("modules", `${name}.ko`))] as const);
const inLab = process.env.VMD_LAB !== undefined;
const missing = inLab
  ? "the lab is for KVM"
  : missingFiles(kernel, ...MODULES.map(([, path]) => path));
if (missing !== undefined) console.log(`snapshots of mounted shares skipped: ${missing}`);

const SCRIPT = `
mount -t 9p -o trans=virtio,version=9p2000.L work /mnt && cat /mnt/file
read line
umount /mnt && echo "not mounted"
read line; mount -t 9p -o trans=virtio,version=9p2000.L work /mnt && cat /mnt/file
read line
`;
const SENTENCE =
  "share work: the guest has it mounted, which no snapshot can keep; umount it there first";

describe.skipIf(missing !== undefined)("a mounted share", () => {
  let vmd: TestDaemon;
  let seen: Awaited<ReturnType<typeof followVm>>;
  const says = (text: string) =>
    until(
      () => seen.text.includes(text),
      120_000,
      () => seen.text,
    );

  beforeAll(async () => {
    vmd = await TestDaemon.start();
    const files = Object.fromEntries(
      MODULES.map(([name, path]) => [`lib/${name}.ko`, readFileSync(path)]),
    );
    const load = MODULES.map(([name]) => `insmod /lib/${name}.ko`).join("\n");
    const init = `${prepare}${load}\nmkdir -p /mnt\n${SCRIPT}\npoweroff -f\n`;
    const initrd = await initramfsFile("share-snapshots", { init, files });
    const folder = join(vmd.folder, "work");
    mkdirSync(folder);
    writeFileSync(join(folder, "file"), "what is shared\n", { mode: 0o644 });
    const words = ["start", "-b", kernel, "-i", initrd, "-a", "console=ttyS0 quiet", "-m", "192M"];
    const share = ["--engine", "unicorn", "--share", `work=${folder}`, "one"];
    expect((await vmd.vctl([...words, ...share])).err).toContain("started vm");
    seen = await followVm(vmd, "one");
    await says("what is shared");
  });
  afterAll(() => vmd?.[Symbol.asyncDispose]());

  test("is named where a snapshot is refused, and the guest goes on", async () => {
    const to = join(vmd.folder, "snapshot");
    for (const words of [
      ["snapshot", "one", to],
      ["snapshot", "--live", "one", to],
      ["snapshot", "--stop", "one", to],
      ["fork", "one", "copy"],
      ["send", "one"],
      ["send", "--live", "one"],
    ]) {
      const { code, err } = await vmd.vctl(words);
      expect([words, code]).toEqual([words, 1]);
      expect(err).toContain(SENTENCE);
      expect(err).not.toContain("round");
      expect(existsSync(to)).toBe(false);
      const [vm, ...others] = await vmd.status();
      expect([vm.state, others]).toEqual(["running", []]);
    }
  });

  test("is none any more once it is unmounted: the copy mounts it again", async () => {
    await seen.stream.send("\n");
    await says("not mounted");
    const to = join(vmd.folder, "unmounted");
    expect(await vmd.vctl(["snapshot", "--stop", "one", to])).toMatchObject({ code: 0 });
    expect(await vmd.vctl(["restore", to])).toMatchObject({ code: 0 });
    seen = await followVm(vmd, "one");
    await seen.stream.send("\n");
    await says("what is shared");
  });
});
