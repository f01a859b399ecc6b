/** The HOST record of a snapshot. */

/** What is the host's, in the HOST record. */
export interface HostRecord {
  /** The guest waits for an interrupt. */
  halted: boolean;
  /** Base64: typed at COM1. */
  input: string;
  ahead?: number;
}
