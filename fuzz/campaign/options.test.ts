import { describe, expect, test } from "bun:test";
import { Command } from "commander";
import { tmpdir } from "node:os";
import { addCampaignOptions, type CampaignFlags, campaignOptions } from "./options.ts";

function parse(...args: string[]): CampaignFlags {
  const command = addCampaignOptions(new Command("fuzz")).exitOverride();
  command.configureOutput({ writeErr: () => {} });
  command.parse(args, { from: "user" });
  return command.opts<CampaignFlags>();
}

describe("a campaign's options", () => {
  test("are read", () => {
    expect(
      parse(
        "-c",
        "corpus",
        "-x",
        "words",
        "--seed",
        "7",
        "-t",
        "1.5m",
        "--runs",
        "1000",
        "-j",
        "3",
        "--json",
        "--http",
        "8080",
        "--seeds",
        tmpdir(),
        "--redis",
        "redis://host:1",
        "--group",
        "g",
        "--cmin",
      ),
    ).toEqual({
      ...{ corpus: "corpus", dictionary: "words", seed: 7, time: 90, runs: 1000, workers: 3 },
      ...{ json: true, http: { port: 8080 }, seeds: tmpdir(), redis: "redis://host:1" },
      ...{ group: "g", cmin: true },
    });
    expect(parse()).toEqual({});
    expect(parse("--http", "0.0.0.0:80").http).toEqual({ port: 80, hostname: "0.0.0.0" });
    expect(parse("--http", "[::1]:80").http).toEqual({ port: 80, hostname: "::1" });
    expect(["90", "90s", "8h", "2d"].map((time) => parse("-t", time).time)).toEqual([
      90, 90, 28_800, 172_800,
    ]);
  });

  test.each([
    [["--seed", "-1"], "it is no 32-bit number."],
    [["--seed", "4294967296"], "it is no 32-bit number."],
    [["-t", "soon"], "it is no time like 90s, 5m or 8h."],
    [["-t", "0"], "it is no time like 90s, 5m or 8h."],
    [["--runs", "0"], "it is no number."],
    [["-j", "0"], "it is no number of workers."],
    [["--http", "70000"], "it is no PORT and no HOST:PORT."],
    [["--http", "a b:1"], "it is no PORT and no HOST:PORT."],
    [["--redis", "http://host"], "it is no URL like redis://HOST:6379."],
    [["--seeds", "/nonexistent"], "there is no such folder."],
  ])("that are wrong are told: %j", (args, message) => {
    expect(() => parse(...args)).toThrow(message);
  });

  test("say what is to be done", () => {
    const target = { target: "tlv", digest: "d", opening: { module: "/m.ts" } };
    const { link, ...options } = campaignOptions(parse("--seed", "7", "--json"), target);
    expect(options).toMatchObject({ ...target, seed: 7, json: true });
    expect(link).toBeUndefined();
    expect(campaignOptions(parse("--redis", "redis://host"), target).link).toBeFunction();
  });
});
