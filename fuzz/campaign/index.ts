/**
 * Campaigns: what keeps an executor busy with inputs, and what it found. Knows executors only, neither
 * engines nor vmd, but for the sandbox of its workers. `Decoder` is in decoder.ts alone: it needs fast-check, which only tests have.
 */
export { Campaign, type CampaignOptions, type Counts, type Finds, type Seed } from "./campaign.ts";
export { Corpus, type Entry } from "./corpus.ts";
export { type Crash, crashKey, inputName, normaliseFrame } from "./crash.ts";
export { Dictionary, DictionaryError, parseDictionary, readDictionary } from "./dictionary.ts";
export { minimise, type MinimiseOptions } from "./minimise.ts";
export { minimiseCorpus, minimiseFolder, minset } from "./minset.ts";
export { Mutator, MUTATIONS } from "./mutator.ts";
export { mixSeed, Random } from "./random.ts";
export {
  type Bundle,
  BundleError,
  type BundleReport,
  type Opening,
  type Origin,
  readBundle,
  readBundles,
  replayBundle,
  type Replayed,
} from "./bundle.ts";
export { type Facts, type Figures, mergeCounts, Meter, NO_COUNTS } from "./figures.ts";
export { CampaignFolder, type CampaignState, FolderError } from "./folder.ts";
export { unconfined } from "./confine.ts";
export { prometheus } from "./prometheus.ts";
export { FiguresServer, ServerError } from "./server.ts";
export { figuresLine, figuresScreen, type Output, TerminalView } from "./terminal.ts";
export { type Block, drcov, type Module } from "./drcov.ts";
export { type Job, openExecutor, readSeeds } from "./job.ts";
export { lcov, type SourceBranch, type SourceFile, type SourceFunction } from "./lcov.ts";
export { addCampaignOptions, type CampaignFlags, campaignOptions } from "./options.ts";
export { RedisLink, type RedisLinkOptions } from "./redis.ts";
export { fuzz, type Link, type Outcome, type RunOptions } from "./run.ts";
export { serveWorker } from "./worker.ts";
