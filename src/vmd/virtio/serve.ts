/** How devices go through what waits in a queue. */
import type { Chain } from "./chain.ts";
import type { VirtioTransport } from "./device.ts";
import type { Queue } from "./queue.ts";

/** The chain stays in the queue, and those behind it do. */
export const LATER = -1;
/** The device keeps the chain, or has given it back itself. */
export const TAKEN = -2;

/**
 * Serves the chains that wait, at most as many as the queue holds: what a device writes may add
 * chains to its own ring, endlessly. Who calls it polls `queue.waiting` for the rest.
 *
 * @param one answers a chain: bytes written, LATER or TAKEN.
 */
export function serve(transport: VirtioTransport, queue: Queue, one: (chain: Chain) => number) {
  const { size } = queue;
  let left = size;
  do {
    for (; left > 0; left--) {
      const chain = queue.pop();
      if (chain === undefined) break;
      const written = one(chain);
      if (written === LATER) {
        queue.putBack(chain);
        left = 0;
        break;
      }
      if (written !== TAKEN) queue.push(chain, written);
    }
    queue.wantNotifications(true);
    // § 2.7.10: what came before the driver saw that is not announced.
  } while (left > 0 && queue.waiting);
  transport.notifyUsed(queue);
}
