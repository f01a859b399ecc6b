/** What the daemon and its control process say to each other, on a Channel. */

/** To the control process. */
export type ToControl =
  /** The answer to a knock: a client's descriptor comes along, unless there was none. */
  | { kind: "client"; client?: number }
  /** A piece of what a client is to be sent; descriptors go with the last. */
  | { kind: "say"; client: number; text: string }
  | { kind: "drop"; client: number };

/** From it. */
export type FromControl =
  /** Somebody connects: the daemon accepts, as it alone is to say who that is. */
  | { kind: "knock" }
  /** A line of a client that is a valid request. */
  | { kind: "request"; client: number; line: string }
  | { kind: "gone"; client: number };

/** Text that a message carries, characters; JSON may make six bytes of one. */
export const PIECE = 8000;
