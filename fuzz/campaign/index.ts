/**
 * Campaigns: what keeps an executor busy with inputs, and what it found. Knows executors only, neither
 * engines nor vmd.
 */
export { Campaign, type CampaignOptions, type Counts, type Finds } from "./campaign.ts";
export { Corpus, type Entry } from "./corpus.ts";
export { type Crash, crashKey, inputName, normaliseFrame } from "./crash.ts";
export { Decoder } from "./decoder.ts";
export { Dictionary, DictionaryError, parseDictionary, readDictionary } from "./dictionary.ts";
export { minimise, type MinimiseOptions } from "./minimise.ts";
export { minimiseCorpus, minset } from "./minset.ts";
export { Mutator, MUTATIONS } from "./mutator.ts";
export { mixSeed, Random } from "./random.ts";
