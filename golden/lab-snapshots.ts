/**
 * A job for the lab: a Linux guest on KVM with a counter and a disk that it compares, over snapshots
 * of each kind and copies. Prints what came of it as JSON.
 */
import { join } from "node:path";
import { TestDaemon, until } from "../src/vmd/daemon/testing.ts";
import { createQcow2 } from "../src/vmd/disk/index.ts";
import { followVm } from "../src/vmd/migration/testing.ts";
import { deviceGuest } from "./guests/devices.ts";

const MIB = 2 ** 20;
const PATIENCE = 120_000;

const SCRIPT = `
seq 1 40000 >/pattern; kept=$(md5sum </pattern); dd if=/pattern of=/dev/vda bs=64k conv=sync,notrunc 2>/dev/null; sync
sum=$(dd if=/dev/vda bs=64k count=4 2>/dev/null | md5sum); i=0
while :; do
  i=$((i+1)); echo "count $i"
  echo 3 >/proc/sys/vm/drop_caches
  [ "$(dd if=/dev/vda bs=64k count=4 2>/dev/null | md5sum)" = "$sum" ] || echo "WRONG disk"
  [ "$(md5sum </pattern)" = "$kept" ] || echo "WRONG memory"
done`;

await using vmd = await TestDaemon.start();
const guest = await deviceGuest({
  name: "snapshots-kvm",
  modules: ["virtio_blk"],
  script: SCRIPT,
});
const disk = join(vmd.folder, "disk.qcow2");
createQcow2(disk, 8 * MIB);
const said: string[] = [];

async function vctl(...words: string[]): Promise<void> {
  const { code, err } = await vmd.vctl(words);
  if (code !== 0) throw new Error(`vctl ${words.join(" ")}: ${err}`);
  said.push(...(/stood still for \d+ ms/.exec(err) ?? []));
}

const numbers = (text: string) => [...text.matchAll(/^count (\d+)\r$/gm)].map(([, n]) => Number(n));

/** Follows a VM until it has counted on a few times; what it counted must have no gap. */
async function goesOn(name: string, more = 3) {
  const seen = await followVm(vmd, name);
  await until(
    () => numbers(seen.text).length >= more,
    PATIENCE,
    () => `${name} stands still: ${seen.text.slice(-500)}`,
  );
  return seen;
}

const problems: string[] = [];

/** @returns the first and the last number */
function judge(what: string, text: string): [number, number] {
  const all = numbers(text);
  const wrong = /WRONG.*/.exec(text)?.[0];
  if (wrong !== undefined) problems.push(`${what}: ${wrong}`);
  if (all.some((n, index) => n !== all[0] + index)) problems.push(`${what}: ${all}`);
  return [all[0], all.at(-1)!];
}

const words = ["start", "--engine", "kvm", "-m", "128M", "-b", guest.kernel, "-i", guest.initrd];
words.push("-a", guest.cmdline);
await vctl(...words, "-d", disk, "linux");
await goesOn("linux");

/** Takes a snapshot, ends the VM, and has it go on from there. */
async function round(kind: string, args: string[]): Promise<void> {
  const path = join(vmd.folder, kind);
  const before = await goesOn("linux", 1);
  const at = numbers(before.text).at(-1)!;
  await vctl("snapshot", ...args, "linux", path);
  const stops = args.includes("--stop");
  if (!stops) await vctl("stop", "-fw", "linux");
  await before.ended;
  const [, printed] = judge(kind, before.text);
  await vctl("restore", path);
  const { text } = await goesOn("linux");
  if (stops) judge(`${kind}, joined`, before.text + text);
  const [first] = judge(`from ${kind}`, text);
  // What it did after the snapshot is gone; and a line may have begun before it.
  if (first < at || first > printed + 2) {
    problems.push(`from ${kind}: ${first}, not from ${at} to ${printed}`);
  }
}

const ROUNDS = Number(process.env.VMD_LAB_SNAPSHOT_ROUNDS ?? 1);
for (let i = 0; i < ROUNDS; i++) {
  if (ROUNDS > 1) await round(`stopped-${i}`, i % 2 === 0 ? ["--stop"] : ["--stop", "-c"]);
  await round(`live-${i}`, ["--live", "--downtime", "300"]);
  // The first of a VM that goes on is a whole one; the next holds what has changed since.
  await vctl("snapshot", "--differential", "linux", join(vmd.folder, `base-${i}`));
  await round(`differential-${i}`, ["--differential", "--stop"]);
}

/** Makes two copies, and looks at them and at what they were made from. */
async function fork(name: string, copy: string): Promise<void> {
  const origin = await goesOn(name, 1);
  const at = numbers(origin.text).at(-1)!;
  await vctl("fork", "-n", "2", name, copy);
  const copies = [`${copy}-1`, `${copy}-2`];
  for (const one of copies) {
    const [first] = judge(one, (await goesOn(one)).text);
    if (first < at) problems.push(`${one}: ${first}, behind ${at}`);
  }
  const forked = numbers(origin.text).length;
  await until(() => numbers(origin.text).length >= forked + 3, PATIENCE);
  judge(name, origin.text);
  for (const one of copies) await vctl("stop", "-fw", one);
}

await fork("linux", "copy");
await vctl("stop", "-fw", "linux");
// Copies of a VM without a disk read what has changed since the last ones while it is written.
await vctl(...words, "plain");
await goesOn("plain");
for (const copy of ["whole", "based"]) await fork("plain", copy);

console.log(JSON.stringify({ problems, said }));
