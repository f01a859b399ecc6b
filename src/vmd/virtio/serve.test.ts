/** What devices have in common when they go through a queue: virtio 1.2, § 2.7. */
import { beforeEach, describe, expect, test } from "bun:test";
import type { Chain } from "./chain.ts";
import type { VirtioDevice, VirtioTransport } from "./device.ts";
import { LATER, serve, TAKEN } from "./serve.ts";
import { MockDriver } from "./mock-driver.ts";

const SIZE = 16;
let answer: (chain: Chain) => number;
let driver: MockDriver;

class Any implements VirtioDevice {
  readonly type = 42;
  readonly features = [0, 0] as const;
  readonly queueSizes = [SIZE];
  readonly configSize = 0;
  readonly #transport: VirtioTransport;

  constructor(transport: VirtioTransport) {
    this.#transport = transport;
  }

  readConfig(): number {
    return 0;
  }

  notify(): void {
    serve(this.#transport, this.#transport.queue(0), (chain) => answer(chain));
  }

  reset(): void {}
}

beforeEach(() => {
  answer = () => 0;
  driver = new MockDriver((transport) => new Any(transport));
  driver.start();
});

test("a chain that makes another one available doesn't hold the host", () => {
  const [queue] = driver.queues;
  let served = 0;
  const head = queue.add([8]);
  answer = () => {
    served++;
    queue.offer(head);
    return 0;
  };
  queue.kick();
  expect(served).toBe(SIZE);
});

describe("a chain that comes as the device has looked, and before it says so: § 2.7.10", () => {
  for (const plain of [false, true]) {
    test(`is served ${plain ? "without" : "with"} event indexes`, () => {
      if (plain) driver.startPlain();
      const [queue] = driver.queues;
      const at = queue.usedRing + (plain ? 0 : 4 + 8 * SIZE);
      let come = 3;
      const end = driver.memory.observeWrites((address) => {
        if (address === at && come-- > 0) queue.add([8]);
      });
      queue.add([8]);
      queue.kick();
      end();
      expect(queue.used()).toHaveLength(4);
    });
  }
});

test("a chain that is put off stays, with those behind it, in their order", () => {
  const [queue] = driver.queues;
  const heads = [queue.add([8]), queue.add([8]), queue.add([8])];
  answer = (chain) => (chain.head === heads[1] ? LATER : 0);
  queue.kick();
  expect(queue.used().map(({ head }) => head)).toEqual([heads[0]]);
  answer = () => 0;
  queue.kick(true);
  expect(queue.used().map(({ head }) => head)).toEqual([heads[1], heads[2]]);
});

test("a chain that is taken comes back when the device likes", () => {
  const [queue] = driver.queues;
  const taken: Chain[] = [];
  answer = (chain) => (taken.push(chain), TAKEN);
  const heads = [queue.add([8]), queue.add([8])];
  queue.kick();
  expect(queue.used()).toEqual([]);
  expect(driver.interrupted().queue).toBe(false);
  expect(driver.transport.queue(0).taken).toBe(2);
  for (const chain of taken.reverse()) driver.transport.queue(0).push(chain, 3);
  expect(queue.used()).toMatchObject([
    { head: heads[1], written: 3 },
    { head: heads[0], written: 3 },
  ]);
});

test("a device that breaks its queue while it serves gives nothing back", () => {
  const [queue] = driver.queues;
  queue.add([8]);
  queue.add([8]);
  let served = 0;
  answer = () => {
    served++;
    driver.transport.queue(0).fail("no");
    return 0;
  };
  queue.kick();
  expect([served, queue.used().length, driver.needsReset]).toEqual([1, 0, true]);
});
