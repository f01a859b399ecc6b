/**
 * TCP connections of a Linux guest, in both directions and each one from the beginning to the end, last
 * over snapshots and live migrations between two daemons with the same switch; no byte is wrong.
 *
 * VMD_NETWORK_ROUNDS says how often; the default is for every day.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { deviceEngine, deviceGuest } from "../../../golden/guests/devices.ts";
import { linuxAmd64 } from "../../../golden/guests/linux.ts";
import { TestDaemon, until } from "../daemon/testing.ts";
import { followVm, trip } from "./testing.ts";

const ROUNDS = Number(process.env.VMD_NETWORK_ROUNDS ?? 4);
setDefaultTimeout(120_000 + ROUNDS * 30_000);

function why(): string | undefined {
  if (process.geteuid!() !== 0) return "only root can make network namespaces";
  const program = ["unshare", "nsenter", "ip"].find((one) => Bun.which(one) === null);
  return program === undefined ? linuxAmd64.missing() : `there is no ${program}`;
}
const missing = why();
if (missing !== undefined) console.log(`connections that last skipped: ${missing}`);

const CONFIG = 'switch "lan" {\n  interface br7\n}\n';
const SCRIPT = `
ip link set lo up; ip addr add 10.7.0.2/24 dev eth0; ip link set eth0 up
mkdir -p /ram; dd if=/dev/urandom of=/ram/x bs=64k count=1 2>/dev/null
until ping -c 1 -W 1 10.7.0.1 >/dev/null 2>&1; do :; done
(while [ ! -e /ram/end ]; do cat /ram/x; usleep 20000; done | busybox nc 10.7.0.1 5002; echo "all sent"; touch /ram/sent) &
mkfifo /ram/open; (exec 3<>/ram/open; busybox nc 10.7.0.1 5001 <&3 | md5sum >/ram/sum; touch /ram/end) &
i=0; while [ ! -e /ram/end ]; do i=$((i+1)); echo "count $i"; usleep 100000; done
until [ -e /ram/sent ]; do usleep 100000; done; echo "sum $(cat /ram/sum)"; sleep 1000`;

describe.skipIf(missing !== undefined)(`connections of a guest on ${deviceEngine}`, () => {
  let daemons: TestDaemon[] = [];
  beforeAll(async () => {
    const first = await TestDaemon.start({ ownNetwork: true, config: CONFIG });
    daemons = [first, await TestDaemon.start({ networkOf: first, config: CONFIG })];
  });
  afterAll(async () => {
    for (const daemon of daemons.toReversed()) await daemon[Symbol.asyncDispose]();
  });

  test(`${ROUNDS} rounds`, async () => {
    let [here, there] = daemons;
    const inside = (...words: string[]) => [...daemons[0].inside, ...words];
    await using peer = Bun.spawn(
      inside(process.execPath, join(import.meta.dir, "transfer-peer.ts")),
      {
        stdio: ["pipe", "pipe", "inherit"],
      },
    );
    const said = peer.stdout.getReader();
    expect(new TextDecoder().decode((await said.read()).value)).toBe("ready\n");
    const guest = await deviceGuest({ name: "transfer", modules: ["virtio_net"], script: SCRIPT });
    const words = ["start", "--engine", deviceEngine, "-m", "128M", "-n", "lan"];
    words.push("-b", guest.kernel, "-i", guest.initrd, "-a", guest.cmdline, "talker");
    expect((await here.vctl(words)).err).toContain("started vm");
    const address = Bun.spawnSync(inside("ip", "addr", "add", "10.7.0.1/24", "dev", "br7"));
    expect(address.exitCode).toBe(0);
    let seen = await followVm(here, "talker");
    let all = "";
    const counts = () =>
      [...(all + seen.text).matchAll(/^count (\d+)\r$/gm)].map(([, n]) => Number(n));
    const goesOn = async () => {
      const from = counts().length;
      await until(
        () => counts().length >= from + 10,
        120_000,
        () => `it stands still: ${seen.text.slice(-500)}`,
      );
    };
    await goesOn();
    for (let round = 0; round < ROUNDS; round++) {
      if (round % 2 === 0) {
        const { send, receive } = await trip({
          from: here,
          to: there,
          name: "talker",
          args: ["--live"],
        });
        expect([send.code, receive.code, send.err, receive.err]).toEqual([
          ...[0, 0],
          expect.stringContaining("sent vm"),
          expect.stringContaining("received vm"),
        ]);
        [here, there] = [there, here];
      } else {
        const path = join(here.folder, `round-${round}`);
        const taken = await here.vctl(["snapshot", "--stop", "talker", path]);
        expect(taken).toMatchObject({ code: 0, err: expect.stringContaining("wrote") });
        await seen.ended;
        expect(await here.vctl(["restore", path])).toMatchObject({ code: 0 });
        rmSync(path);
      }
      await seen.ended;
      all += seen.text;
      seen = await followVm(here, "talker");
      await goesOn();
    }
    peer.stdin.write("end\n");
    peer.stdin.end();
    await until(
      () => / {2}-/.test(/^sum .*$/m.exec(seen.text)?.[0] ?? ""),
      60_000,
      () => `no sum: ${seen.text.slice(-500)}`,
    );
    const { sent, sum, received, wrong } = JSON.parse(
      new TextDecoder().decode((await said.read()).value),
    );
    expect(/^sum ([0-9a-f]{32})/m.exec(seen.text)?.[1]).toBe(sum);
    expect(wrong).toBe(0);
    expect(seen.text).toContain("all sent");
    for (const bytes of [sent, received]) expect(bytes).toBeGreaterThan(ROUNDS * 64 * 1024);
    const numbers = counts();
    expect(numbers).toEqual(numbers.map((_, i) => i + 1));
    const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(1);
    console.log(`${ROUNDS} rounds: ${mib(sent)} MiB to the guest, ${mib(received)} MiB from it`);
    await here.vctl(["stop", "-fw", "talker"]);
    await peer.exited;
  });
});
