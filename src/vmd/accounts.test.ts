/** Users and groups, by files in the forms of passwd(5) and group(5). */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Accounts, HostAccounts } from "./accounts.ts";

let folder = "";
let passwd = "";
let group = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "accounts-"));
  passwd = join(folder, "passwd");
  group = join(folder, "group");
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function write(): void {
  writeFileSync(
    passwd,
    "root:x:0:0::/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\nbroken:x:no:1\n",
  );
  writeFileSync(group, "root:x:0:\nann:x:1001:\nkvm:x:36:bob,ann\nempty:x:37:\n# none\n");
}

describe("accounts", () => {
  test("are what the files say, without lines that say nothing", () => {
    write();
    const accounts = Accounts.read(passwd, group);
    expect(accounts.user("ann")).toEqual({ name: "ann", uid: 1000, gid: 1001 });
    expect(accounts.user("broken")).toBeUndefined();
    expect(accounts.group("kvm")).toEqual({ name: "kvm", gid: 36, members: ["bob", "ann"] });
    expect([accounts.userName(1000), accounts.userName(5)]).toEqual(["ann", "5"]);
    expect([accounts.groupName(37), accounts.groupName(5)]).toEqual(["empty", "5"]);
  });

  test("a user is in its own group, in the one that it has now, and where it is named", () => {
    write();
    const accounts = Accounts.read(passwd, group);
    expect(accounts.groupsOf(1000, 50)).toEqual([50, 1001, 36]);
    expect(accounts.groupsOf(1234, 50)).toEqual([50]);
  });
});

describe("a host's", () => {
  test("are read again only where a file is another", async () => {
    write();
    await Bun.sleep(100);
    const host = new HostAccounts(passwd, group);
    const before = host.now();
    expect(host.now()).toBe(before);
    writeFileSync(
      join(folder, "new"),
      "root:x:0:0::/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n",
    );
    renameSync(join(folder, "new"), passwd);
    expect(host.now().userName(1000)).toBe("bob");
    writeFileSync(group, "kvm:x:36:bob\n");
    expect(host.now().groupsOf(1000, 1001)).toEqual([1001, 36]);
    await Bun.sleep(100);
    expect(host.now()).toBe(host.now());
  });

  test("has nobody in a file that isn't there, until it is", () => {
    const absent = join(folder, "absent");
    const host = new HostAccounts(absent, group);
    expect(host.now().user("ann")).toBeUndefined();
    writeFileSync(absent, "ann:x:7:7::/:/bin/sh\n");
    expect(host.now().user("ann")?.uid).toBe(7);
  });
});
