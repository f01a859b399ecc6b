/** A worker's process: told its job by IPC, it tells its counts and finds, and ends when its parent does. */
import type { Campaign, Counts } from "./campaign.ts";
import type { Entry } from "./corpus.ts";
import { confine } from "./confine.ts";
import { drive, type Job, openCampaign } from "./job.ts";

/** Milliseconds between two reports. */
const REPORT_EVERY = 500;

/** From the parent. */
export type ToWorker = { readonly job: Job } | { readonly stop: true };

/** To the parent. */
export type FromWorker =
  | { readonly entry: { readonly name: string; readonly depth: number; readonly parent?: string } }
  | { readonly counts: Counts }
  /** It did all its runs, was stopped, or can't go on: nothing follows. */
  | {
      readonly ended: true;
      readonly counts?: Counts;
      readonly failure?: string;
      /** Somebody else than the parent ended it. */
      readonly signalled: boolean;
    };

function tell(message: FromWorker): void {
  if (process.connected) process.send?.(message);
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Works until the parent has it stop. */
async function work(job: Job, stop: { wanted: boolean; signalled: boolean }): Promise<void> {
  let campaign: Campaign | undefined;
  try {
    let free = job.confined === true;
    const confineOnce = () => {
      if (free) confine(job.folder);
      free = false;
    };
    const kept = ({ name, depth, parent }: Entry) => tell({ entry: { name, depth, parent } });
    const opened = await openCampaign(job, kept, confineOnce);
    // Of an executor that doesn't say when.
    confineOnce();
    campaign = opened.campaign;
    let told = -Infinity;
    const between = () => {
      if (performance.now() - told < REPORT_EVERY) return;
      told = performance.now();
      tell({ counts: opened.campaign.counts() });
    };
    await drive(job, campaign, opened.folder, { stopped: () => stop.wanted, between });
    const { signalled } = stop;
    tell({ ended: true, counts: campaign.counts(), failure: campaign.failure, signalled });
    opened.executor.close?.();
  } catch (error) {
    const failure = message(error);
    tell({ ended: true, counts: campaign?.counts(), failure, signalled: false });
  }
}

/** Makes this process a worker. Never returns. */
export function serveWorker(): void {
  const stop = { wanted: false, signalled: false };
  process.on("message", (received: ToWorker) => {
    if ("stop" in received) stop.wanted = true;
    // What was told has to be on its way before the line is cut.
    else void work(received.job, stop).finally(() => setTimeout(() => process.exit(0), 20));
  });
  process.on("disconnect", () => (stop.wanted = true));
  // A terminal's ^C goes to all its processes: the parent says what is to be done then.
  process.on("SIGINT", () => {});
  process.on("SIGTERM", () => {
    if (!stop.wanted) stop.signalled = true;
    stop.wanted = true;
  });
}
