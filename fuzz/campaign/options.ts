/** A campaign's options on a command line: the same for guests and for our own code. */
import { type Command, InvalidArgumentError, Option } from "commander";
import { existsSync, statSync } from "node:fs";
import { RedisLink } from "./redis.ts";
import type { RunOptions } from "./run.ts";

/** The most workers: more than any host has processors. */
const MAX_WORKERS = 1024;

/** As commander gives them. */
export interface CampaignFlags {
  corpus?: string;
  seeds?: string;
  dictionary?: string;
  seed?: number;
  time?: number;
  runs?: number;
  workers?: number;
  json?: boolean;
  http?: { readonly port: number; readonly hostname?: string };
  redis?: string;
  group?: string;
  cmin?: boolean;
}

function whole(min: number, max: number, what: string) {
  return (text: string): number => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`it is no ${what}.`);
  };
}

const UNITS: Readonly<Record<string, number>> = { "": 1, s: 1, m: 60, h: 3600, d: 86_400 };

/** 90, 90s, 5m, 8h, 2d: in seconds. */
function time(text: string): number {
  const match = /^(\d+(?:\.\d+)?)([smhd]?)$/.exec(text);
  const seconds = match === null ? 0 : Number(match[1]) * UNITS[match[2]];
  if (seconds > 0 && Number.isFinite(seconds)) return seconds;
  throw new InvalidArgumentError("it is no time like 90s, 5m or 8h.");
}

function address(text: string): { port: number; hostname?: string } {
  const match = /^(?:(\[[0-9a-fA-F:]+\]|[\w.-]+):)?(\d+)$/.exec(text);
  if (match === null || Number(match[2]) > 65_535)
    throw new InvalidArgumentError("it is no PORT and no HOST:PORT.");
  const hostname = match[1]?.replace(/^\[|\]$/g, "");
  return { port: Number(match[2]), ...(hostname === undefined ? {} : { hostname }) };
}

function redisUrl(text: string): string {
  if (/^(?:redis|rediss|valkey|valkeys)(?:\+tls)?:\/\/./.test(text) && URL.canParse(text))
    return text;
  throw new InvalidArgumentError("it is no URL like redis://HOST:6379.");
}

function folder(text: string): string {
  if (existsSync(text) && statSync(text).isDirectory()) return text;
  throw new InvalidArgumentError("there is no such folder.");
}

/** Adds the options to a command; `campaignOptions` reads them. */
export function addCampaignOptions(command: Command): Command {
  const option = (flags: string, help: string, parse: (text: string) => unknown) =>
    new Option(flags, help).argParser(parse);
  return command
    .option("-c, --corpus <folder>", "where inputs, crashes and the campaign's state are kept")
    .addOption(option("--seeds <folder>", "inputs to begin with", folder))
    .option("-x, --dictionary <file>", "tokens in AFL's format")
    .addOption(
      option(
        "--seed <number>",
        "what all decisions come from",
        whole(0, 2 ** 32 - 1, "32-bit number"),
      ),
    )
    .addOption(option("-t, --time <time>", "end after so long: 90s, 5m, 8h", time))
    .addOption(
      option(
        "--runs <number>",
        "end after so many runs",
        whole(1, Number.MAX_SAFE_INTEGER, "number"),
      ),
    )
    .addOption(
      option(
        "-j, --workers <number>",
        "processes (default: one a processor)",
        whole(1, MAX_WORKERS, "number of workers"),
      ),
    )
    .option("--json", "print figures, one JSON object a line")
    .addOption(option("--http <[host:]port>", "show a page, /metrics and /figures there", address))
    .addOption(option("--redis <url>", "exchange finds with other machines there", redisUrl))
    .option("--group <name>", "machines of one name work together (default: the target's)")
    .option("--cmin", "leave only the inputs that are needed for all edges, and end");
}

/** What the options say to `fuzz`. `target` names the group of machines if nothing else does. */
export function campaignOptions(
  flags: CampaignFlags,
  target: Pick<RunOptions, "target" | "digest" | "engine" | "library" | "opening">,
): Omit<RunOptions, "folder"> {
  const { redis, group = `vmd-fuzz:${target.target}:${target.digest ?? ""}` } = flags;
  const { seeds, dictionary, seed, time, runs, workers, json, http } = flags;
  return {
    ...target,
    ...{ seeds, dictionary, seed, time, runs, workers, json, http },
    link:
      redis === undefined
        ? undefined
        : (folder) => new RedisLink(folder, { url: redis, group, origin: target }),
  };
}
