/** A switch in a process of its own, confined as the daemon confines it. */
import { afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, readFileSync } from "node:fs";
import { processLibrary, ptr } from "../../vmm/native.ts";
import { pollInput } from "../channel.ts";
import { ownConfinement } from "../confinement.ts";
import { SwitchHost, type SwitchPort } from "./switch-host.ts";
import { BROADCAST_MAC, ethernet, mac } from "./testing.ts";

setDefaultTimeout(30_000);

const A = mac("fe:e1:bb:d1:00:0a");
const B = mac("fe:e1:bb:d1:00:0b");

let host: SwitchHost | undefined;
afterEach(async () => {
  host?.stop();
  await host?.ended;
});

async function start(): Promise<SwitchHost> {
  host = new SwitchHost({ name: "lan", confine: ownConfinement() });
  expect(await host.running()).toBe("");
  return host;
}

function send({ descriptor }: SwitchPort, to: Uint8Array, from: Uint8Array): void {
  const frame = ethernet(to, from, 0x88b5, Uint8Array.of(1, 2, 3));
  const packet = new Uint8Array(12 + frame.length);
  packet.set(frame, 12);
  const { vmm_send } = processLibrary();
  expect(Number(vmm_send(descriptor, ptr(packet), packet.length, null, 0))).toBe(packet.length);
}

/** The next packet's length; negative: none in time. */
function receive({ descriptor }: SwitchPort, time = 2000): number {
  const buffer = new Uint8Array(2000);
  pollInput(descriptor, time);
  return Number(processLibrary().vmm_receive(descriptor, ptr(buffer), buffer.length, null, 0));
}

test("frames go from VM to VM, and are counted", async () => {
  const sw = await start();
  const [one, two] = [await sw.addPort(), await sw.addPort(B)];
  send(one, BROADCAST_MAC, A);
  expect(receive(two)).toBe(29);
  send(two, A, B);
  expect(receive(one)).toBe(29);
  send(two, A, A);
  expect(receive(one, 100)).toBeLessThan(0);
  expect(await sw.statistics()).toEqual([
    { port: 0, received: 1, receivedBytes: 17, sent: 1, sentBytes: 17, dropped: 0, refused: 0 },
    { port: 1, received: 1, receivedBytes: 17, sent: 1, sentBytes: 17, dropped: 0, refused: 1 },
  ]);
  await expect(sw.addPort(B)).rejects.toThrow("switch lan: fe:e1:bb:d1:00:0b is another VM's");
  // Confined in the kernel's eyes, too.
  expect(readFileSync(`/proc/${sw.pid}/status`, "utf8")).toMatch(/^Seccomp:\t2$/m);
  closeSync(one.descriptor);
  closeSync(two.descriptor);
});

test("ports come and go", async () => {
  const sw = await start();
  const [one, two] = [await sw.addPort(), await sw.addPort()];
  const gone = Promise.withResolvers<number>();
  sw.onPortEnded = gone.resolve;
  closeSync(one.descriptor);
  expect(await gone.promise).toBe(one.number);
  sw.removePort(two.number);
  // The end of its socket.
  expect(receive(two)).toBe(0);
  closeSync(two.descriptor);
  expect(await sw.statistics()).toEqual([]);
});

test("a switch that is gone says so", async () => {
  const sw = await start();
  const port = await sw.addPort();
  sw.stop();
  await sw.ended;
  expect(receive(port)).toBe(0);
  closeSync(port.descriptor);
  await expect(sw.addPort()).rejects.toThrow("switch lan is not running");
  await expect(sw.statistics()).rejects.toThrow("switch lan is not running");
});
